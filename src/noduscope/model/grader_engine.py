"""Running the grader's network: views in, logits and outlines out. Nothing is calibrated here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.heads import NODULE, SUBPIXELS, Logits, channels
from noduscope.model.engine import Engine
from noduscope.preprocess import half_size
from noduscope.scan import HuVolume, Triple
from noduscope.settings import GraderSettings
from noduscope.views import LARGE_MM, Planes, axial_view, encode, view_of

if TYPE_CHECKING:
    import openvino as ov

_BATCH = 32
_PLANES = 5
"""Most axial planes by which one nodule is graded."""
_MIDDLE = 0.6
"""Share of a nodule's extent, around its middle, in which those planes lie."""
_AS_IT_IS = ((1, 0),)
_ALL_TURNS = tuple((way, quarters) for way in (1, -1) for quarters in range(4))
"""Mirrored or not, and by how many quarters, a plane is turned."""
_OUTLINE_TURNS = ((1, 0), (1, 2), (-1, 0), (-1, 2))
"""Those for an outline."""
_SECOND_LOOK = 24
"""Marks of a scan that are looked at in all turns: those that a single look leaves the likeliest."""
_LEAST_SHARE = 0.1
"""Of the largest section: where the outline gets smaller than this, it has ended."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """A nodule's soft outline on its axial views.

    Parameters
    ----------
    share : float32 (n, edge, edge), 0 to 1; one plane per slice of the scan.
    first : the scan's slice that the first plane lies on.
    centre_yx : the scan's pixel in the middle of the planes.
    """

    share: NDArray[np.float32]
    first: int
    centre_yx: tuple[float, float]

    @property
    def middle(self) -> tuple[int, ...]:
        """Slices in the middle part of the nodule, by which it is graded."""
        inside = np.flatnonzero((self.share >= 0.5).any(axis=(1, 2)))
        return middle_planes(int(inside[0]) + self.first, int(inside[-1]) + self.first)


def middle_planes(first: int, last: int) -> tuple[int, ...]:
    """At most `_PLANES` slices evenly over the middle of a nodule that reaches from `first` to `last`."""
    half, middle = _MIDDLE * (last - first) / 2, (first + last) / 2
    places = np.linspace(middle - half, middle + half, _PLANES)
    return tuple(int(z) for z in np.unique(np.floor(places + 0.5).astype(int)))


class GraderEngine:
    """A compiled grader.

    Parameters
    ----------
    model : an ``.xml`` file or an OpenVINO model in memory.
    threads : processor threads; 0 takes all.
    """

    def __init__(self, model: Path | ov.Model, settings: GraderSettings, threads: int = 0) -> None:
        self.settings = settings
        self._engine = Engine(model, threads)

    def nodule_logits(
        self,
        hu: HuVolume,
        spacing_zyx_mm: Triple,
        centres_zyx: NDArray[np.floating],
        turns: Sequence[tuple[int, int]] = _ALL_TURNS,
    ) -> Logits:
        """Nodule or not, of voxels of a volume: the mean of three orthogonal views each, in all `turns`, ``(n,)``."""
        views = [
            encode(_turned(planes, *turn))
            for z, y, x in centres_zyx
            for axis in range(3)
            for planes in [view_of(hu, spacing_zyx_mm, (float(z), float(y), float(x)), self.settings, axis)]
            for turn in turns
        ]
        if not views:
            return np.zeros(0, np.float32)
        made: Logits = self.run(views)[0][:, NODULE].reshape(len(centres_zyx), -1).mean(axis=1)
        return made

    def mark_logits(self, hu: HuVolume, spacing_zyx_mm: Triple, marks: Marks) -> Logits:
        """Nodule or not, of the detector's marks in a volume, ``(n,)``.

        All are looked at once; the likeliest, by that and by the detector, again in all turns.
        """
        made = self.sized_logits(hu, spacing_zyx_mm, marks, _AS_IT_IS)
        again = np.argsort(-(marks.score + made), kind="stable")[:_SECOND_LOOK]
        made[again] = self.sized_logits(hu, spacing_zyx_mm, marks.take(again))
        return made

    def sized_logits(
        self,
        hu: HuVolume,
        spacing_zyx_mm: Triple,
        marks: Marks,
        turns: Sequence[tuple[int, int]] = _ALL_TURNS,
    ) -> Logits:
        """`nodule_logits` of marks whose size is known, ``(n,)``; large ones are looked at in half size."""
        large = marks.diameter_mm >= LARGE_MM
        made = np.zeros(len(marks), np.float32)
        made[~large] = self.nodule_logits(hu, spacing_zyx_mm, marks.centre_zyx[~large], turns)
        if large.any():
            centres = (marks.centre_zyx[large] - 0.5) / 2
            made[large] = self.nodule_logits(half_size(hu), spacing_zyx_mm, centres, turns)
        return made

    def judged(self, planes: Sequence[Planes]) -> Logits:
        """Mean logits of axial planes of one nodule, each turned by quarters and mirrored, ``(heads,)``."""
        views = [encode(_turned(p, *turn)) for p in planes for turn in _ALL_TURNS]
        grades, _ = self.run(views)
        made: Logits = grades.mean(axis=0)
        return made

    def outline(self, hu: HuVolume, spacing_zyx_mm: Triple, centre_zyx: Triple) -> Outline | None:
        """The nodule at a voxel, sought slice by slice up and down from it.

        None where there is none, or it is larger than a view.
        """
        z, y, x = centre_zyx
        z = float(np.clip(round(z), 0, len(hu) - 1))
        share = self.shares(hu, spacing_zyx_mm, [(z, y, x)])[0]
        inside = _component(share[None] >= 0.5, 0)
        if inside is None:
            return None
        rows, columns = np.nonzero(inside[0])
        middle, step = (len(share) - 1) / 2, self.settings.spacing_mm
        y += (float(rows.mean()) - middle) * step / spacing_zyx_mm[1]
        x += (float(columns.mean()) - middle) * step / spacing_zyx_mm[2]
        reach = max(1, math.ceil((0.75 * max(np.ptp(rows), np.ptp(columns)) * step + 2.0) / spacing_zyx_mm[0]))
        first, last = max(0, int(z) - reach), min(len(hu) - 1, int(z) + reach)
        shares = self.shares(hu, spacing_zyx_mm, [(float(s), y, x) for s in range(first, last + 1)])
        inside = _component(shares >= 0.5, int(z) - first)
        if inside is None or _reaches_edge(inside):
            return None
        kept = np.where(_swollen(inside), shares, np.float32(0.0))
        return Outline(kept, first, (y, x))

    def shares(self, hu: HuVolume, spacing_zyx_mm: Triple, places: Sequence[Triple]) -> NDArray[np.float32]:
        """Share of readers who would outline each pixel, float32 (n, edge, edge); the mean over four turns."""
        planes = [axial_view(hu, spacing_zyx_mm, p, self.settings) for p in places]
        views = [encode(_turned(p, *turn)) for turn in _OUTLINE_TURNS for p in planes]
        logits = _from_subpixels(self.run(views)[1]).reshape(len(_OUTLINE_TURNS), len(planes), *views[0].shape[:2])
        # each of these turns is its own inverse
        mean = np.mean([_turned(p, *turn) for turn, p in zip(_OUTLINE_TURNS, logits, strict=True)], axis=0)
        made: NDArray[np.float32] = 1 / (1 + np.exp(-mean))
        return made

    def run(self, views: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Grades ``(n, heads)`` and masks ``(n, edge/2, edge/2, 4)`` of any number of views, the members' means."""
        parts = [self._engine(np.stack(views[i : i + _BATCH])) for i in range(0, len(views), _BATCH)]
        lengths = channels(self.settings.opinions), SUBPIXELS
        grades, masks = (
            answer.reshape(*answer.shape[:-1], -1, length).mean(axis=-2)
            for length, answer in zip(lengths, (np.concatenate(a) for a in zip(*parts, strict=True)), strict=True)
        )
        return grades, masks


def _turned(planes: NDArray[np.float32], way: int, quarters: int) -> NDArray[np.float32]:
    """Planes ``(n, y, x)`` mirrored where `way` is -1, then turned by quarters."""
    return np.rot90(planes[:, :, ::way], quarters, (1, 2))


def _from_subpixels(mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's mask logits ``(n, h, w, 4)`` on the views' pixels, ``(n, 2h, 2w)``."""
    n, h, w, _ = mask.shape
    return mask.reshape(n, h, w, 2, 2).transpose(0, 1, 3, 2, 4).reshape(n, 2 * h, 2 * w)


def _component(inside: NDArray[np.bool_], plane: int) -> NDArray[np.bool_] | None:
    """The part of a stack of planes that goes on, plane by plane, from what is nearest the middle of one."""
    seed = _nearest_part(inside[plane])
    if seed is None:
        return None
    kept = np.zeros_like(inside)
    kept[plane] = seed
    for way in (1, -1):
        last = seed
        for z in range(plane + way, len(inside) if way > 0 else -1, way):
            last = _going_on(inside[z], last)
            if last.sum() < max(1.0, _LEAST_SHARE * kept.sum(axis=(1, 2)).max()):
                break
            kept[z] = last
    return kept


def _reaches_edge(inside: NDArray[np.bool_]) -> bool:
    return bool(inside[:, [0, -1]].any() or inside[:, :, [0, -1]].any())


def _nearest_part(inside: NDArray[np.bool_], within: float = 12.0) -> NDArray[np.bool_] | None:
    """The connected part of a plane nearest to its middle; None where there is none within some pixels."""
    count, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    if count < 2:
        return None
    rows, columns = np.nonzero(labels)
    middle = (len(inside) - 1) / 2
    away = np.hypot(rows - middle, columns - middle)
    best = int(np.argmin(away))
    return labels == labels[rows[best], columns[best]] if away[best] <= within else None


def _going_on(inside: NDArray[np.bool_], before: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of a plane that overlap the outline on the plane before."""
    _, labels = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    held = np.unique(labels[before & inside])
    return np.isin(labels, held[held > 0])


def _swollen(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One pixel more in each plane, so that the soft edge is kept."""
    return np.stack([cv2.dilate(p, np.ones((3, 3), np.uint8)) for p in inside.astype(np.uint8)]) > 0
