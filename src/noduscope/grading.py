"""What the grader says of a place in a scan: nodule or not, its outline and size, malignancy, attributes, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.combine import Combination
from noduscope.errors import ModelError
from noduscope.findings import Diameter, Explanation, Grade, Interval, ModelUsed, NoduleMask
from noduscope.heads import ATTRIBUTE, ATTRIBUTES, MALIGNANCY, TYPE, TYPES, Logits
from noduscope.measure import axial_axes_mm
from noduscope.model.bundle import Bundle, find_bundle, load_bundle
from noduscope.model.grader_engine import GraderEngine, Outline
from noduscope.region import LungRegion
from noduscope.scan import Scan, Triple
from noduscope.settings import GraderSettings
from noduscope.views import Planes, axial_view, encode, window_index

_MOST_GRADED = 40
LEAST_MM = 2.0
"""Smaller diameters count as this in the malignancy."""
_OCCLUDED_MM, _OCCLUSIONS = 5.6, 7
_CALCIUM_HU = 200.0
_Z95 = 1.96
_USUAL_MM = 7.0
"""Median diameter of the LIDC's nodules of three and more readers."""


def dense_share(hu: NDArray[np.number]) -> float:
    """Share of a nodule's voxels, `hu` of any shape, that are as dense as calcium; 0 for none.

    Choi et al. (Journal of Thoracic Disease, article 29431) let soft tissue end at 200 HU on scans with contrast agent;
    without it Siegelman et al. (AJR 1980;135:1) found no malignant nodule of 164 HU and more.
    """
    return float((hu > _CALCIUM_HU).mean()) if hu.size else 0.0


@dataclass(frozen=True, slots=True)
class MalignancyCalibration:
    """Logit of malignancy: ``slope * opinion + size * log(diameter_mm) + dense * dense_share + intercept``.

    The network sees a nodule's sections one by one; its measured size, and how much of it is calcium, are told again,
    apart.
    """

    slope: float
    size: float
    intercept: float
    dense: float = 0.0

    def interval(self, opinions: NDArray[np.floating], diameter_mm: float, dense: float = 0.0) -> Interval:
        """The mean opinion as a probability, and how far the opinions of bootstrapped patients lie apart (95 %).

        `dense` is the nodule's `dense_share`.
        """
        mean, half = float(opinions.mean()), _Z95 * float(opinions.std())
        rest = self.size * math.log(max(diameter_mm, LEAST_MM)) + self.dense * dense + self.intercept
        ends = sorted(1 / (1 + math.exp(-(self.slope * o + rest))) for o in (mean - half, mean, mean + half))
        return Interval(ends[1], ends[0], ends[2])


@dataclass(frozen=True, slots=True)
class RatingScale:
    """One of the LIDC's ratings as its readers would give it: ``slope * answer + shift``, from 1 to the highest.

    A network that learned the mean of uncertain ratings keeps near the middle; the scale gives its answers the
    readers' mean and spread.
    """

    slope: float = 1.0
    shift: float = 0.0


def ratings(logits: Logits, scales: Mapping[str, RatingScale] = MappingProxyType({})) -> dict[str, float]:
    """The attribute heads' logits as ratings by name; an attribute without a scale is left as answered."""
    shares = 1 / (1 + np.exp(-logits[ATTRIBUTE].astype(float)))
    made = {}
    for (name, top), share in zip(ATTRIBUTES.items(), shares, strict=True):
        scale = scales.get(name, RatingScale())
        made[name] = float(np.clip(scale.slope * (1 + (top - 1) * share) + scale.shift, 1, top))
    return made


@dataclass(frozen=True, slots=True)
class SizeError:
    """95 % band of log(reference / measured): ``shift ± sqrt(base² + (per_mm / size)²)``, found in cross-validation."""

    shift: float
    base: float
    per_mm: float

    def band(self, value: float, size_mm: float) -> tuple[float, float]:
        """The interval around a value; it always holds the value itself."""
        half = math.hypot(self.base, self.per_mm / max(size_mm, 1.0))
        return value * math.exp(min(self.shift - half, 0.0)), value * math.exp(max(self.shift + half, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Graded:
    """All that is said of one place.

    Parameters
    ----------
    logit : the nodule head's, before calibration.
    probability : of a nodule ≥ 3 mm, by the grader alone.
    diameter_mm, volume_mm3, mask : None where nothing could be outlined.
    """

    logit: float
    probability: float
    grade: Grade
    diameter_mm: Diameter | None
    volume_mm3: Interval | None
    mask: NoduleMask | None
    explanation: Explanation | None


class Grader:
    """A grader bundle, loaded and compiled once for any number of scans."""

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        self.bundle = bundle
        self.settings: GraderSettings = bundle.settings.grader
        self.used: ModelUsed = bundle.used
        self.engine = GraderEngine(bundle.network, bundle.settings.grader, threads)
        self._malignancy = MalignancyCalibration(**bundle.details["malignancy"])
        self._combination = Combination(**bundle.details["combination"])
        self._ratings = {k: RatingScale(**v) for k, v in bundle.details.get("ratings", {}).items()}
        self._errors = {k: SizeError(**v) for k, v in bundle.details["size_error"].items()}

    def probabilities(self, region: LungRegion, marks: Marks) -> NDArray[np.float64]:
        """Probability of a nodule at the detector's marks in a lung region, by both networks, ``(n,)``.

        The strongest marks are graded; the others, far below any threshold, count as typical false ones.
        """
        strongest = np.argsort(-marks.score, kind="stable")[:_MOST_GRADED]
        said = np.full(len(marks), np.nan)
        said[strongest] = self.engine.mark_logits(region.hu, region.geometry.spacing_zyx_mm, marks.take(strongest))
        logits = self._combination.logits(marks.score, said)
        return np.asarray(1 / (1 + np.exp(-logits)))

    def grade(
        self, scan: Scan, position_xyz_mm: Triple, diameter_hint_mm: float = _USUAL_MM, *, explain: bool = True
    ) -> Graded:
        """Judge one place of a scan, which may be a few slices around a nodule.

        Parameters
        ----------
        position_xyz_mm : LPS point in the nodule, near its centre.
        diameter_hint_mm : its size, used where no outline is found.
        explain : also find where hiding the image changes the malignancy most.

        Raises
        ------
        InputRefused
            For a point outside the volume.
        """
        canonical = scan.canonical()
        index = canonical.geometry.to_index(position_xyz_mm)
        z, y, x = (float(v) for v in index)
        spacing = canonical.geometry.spacing_zyx_mm
        outline = self.engine.outline(canonical.hu, spacing, (z, y, x))
        planes = outline.middle if outline else (round(z),)
        middle = outline.centre_yx if outline else (y, x)
        places = [(float(p), *middle) for p in planes]
        said = self.engine.judged([axial_view(canonical.hu, spacing, p, self.settings, alone=True) for p in places])
        mask = _native(outline, canonical, self.settings) if outline else None
        diameter, volume = self._size(outline, spacing) if outline else (None, None)
        size_mm = diameter.mean if diameter else diameter_hint_mm
        mark = Marks(*(np.asarray(v, np.float32) for v in (index[None], [0.0], [size_mm])))
        logit = float(self.engine.sized_logits(canonical.hu, spacing, mark)[0])
        central = axial_view(canonical.hu, spacing, places[len(places) // 2], self.settings, alone=True)
        return Graded(
            logit=logit,
            probability=self.bundle.calibration.probability(logit),
            grade=self.grade_of(said, size_mm, dense_share(canonical.hu[mask.box][mask.mask]) if mask else 0.0),
            diameter_mm=diameter,
            volume_mm3=volume,
            mask=NoduleMask(*scan.from_canonical(mask.box, mask.mask)) if mask else None,
            explanation=self.explain(central) if explain else None,
        )

    def grade_of(self, logits: Logits, diameter_mm: float, dense: float) -> Grade:
        """Logits in words and numbers."""
        malignancy = self._malignancy.interval(logits[MALIGNANCY], diameter_mm, dense)
        return Grade(malignancy, TYPES[int(np.argmax(logits[TYPE]))], ratings(logits, self._ratings))

    def _size(self, outline: Outline, spacing_zyx_mm: Triple) -> tuple[Diameter, Interval]:
        step = self.settings.spacing_mm
        long, short = axial_axes_mm(outline.share, step)
        mean = (long + short) / 2
        volume = float((outline.share >= 0.5).sum()) * step * step * spacing_zyx_mm[0]
        low, high = self._errors["diameter"].band(mean, mean)
        v_low, v_high = self._errors["volume"].band(volume, mean)
        return Diameter(mean, long, short, low, high), Interval(volume, v_low, v_high)

    def explain(self, planes: Planes) -> Explanation:
        """Occlusion: how much the malignancy logit falls or rises when a square is filled with its surroundings.

        Zeiler & Fergus 2014. The map is in logits, positive where what is there speaks for malignancy.
        """
        edge, step = self.settings.view_voxels, self.settings.spacing_mm
        square = max(2, round(_OCCLUDED_MM / step))
        stride = square // 2
        smooth = cv2.GaussianBlur(planes[1], (0, 0), square)
        starts = (edge - square) // 2 + (np.arange(_OCCLUSIONS) - _OCCLUSIONS // 2) * stride
        views = [encode(planes)]
        for top in starts:
            for left in starts:
                hidden = planes.copy()
                hidden[:, top : top + square, left : left + square] = smooth[top : top + square, left : left + square]
                views.append(encode(hidden))
        logits = self.engine.run(views)[0][:, MALIGNANCY].mean(axis=1)
        total, count = np.zeros((edge, edge), np.float32), np.zeros((edge, edge), np.float32)
        for i, (top, left) in enumerate((t, k) for t in starts for k in starts):
            total[top : top + square, left : left + square] += logits[0] - logits[i + 1]
            count[top : top + square, left : left + square] += 1
        change: NDArray[np.float32] = (total / np.maximum(count, 1)).astype(np.float32)
        return Explanation(change, np.ascontiguousarray(planes[1]), step)


def load_grader(name: str = "grader", threads: int = 0) -> Grader:
    """Load and compile an installed grader (the newest version is taken) or a bundle folder.

    Raises
    ------
    ModelError
        When there is none, or it is damaged.
    """
    return Grader(load_bundle(find_bundle(name)), threads)


def matching_grader(detector: Bundle, threads: int = 0) -> Grader | None:
    """The newest installed grader, if it was fitted to this detector; else None."""
    try:
        bundle = load_bundle(find_bundle("grader"))
    except ModelError:
        return None
    return Grader(bundle, threads) if bundle.details.get("detector") == detector.sha256 else None


def _native(outline: Outline, scan: Scan, settings: GraderSettings) -> NoduleMask | None:
    """The outline on the scan's own voxels, in its tight box; None where it holds no voxel centre."""
    spacing = scan.geometry.spacing_zyx_mm
    (top, left), planes = window_index(outline.share, spacing[1:], outline.centre_yx, settings)
    planes_inside = planes >= 0.5
    _, rows, columns = scan.geometry.shape_zyx
    low = (max(top, 0), max(left, 0))
    planes_inside = planes_inside[:, low[0] - top : rows - top, low[1] - left : columns - left]
    spans = [np.flatnonzero(planes_inside.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    if not spans[0].size:
        return None
    tight = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    starts = (outline.first, *low)
    z, y, x = (slice(s.start + a, s.stop + a) for s, a in zip(tight, starts, strict=True))
    return NoduleMask((z, y, x), np.ascontiguousarray(planes_inside[tight]))
