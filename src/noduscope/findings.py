"""What is found in a scan: candidates, nodules, and the result that every output is written from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# it stands beside every result; at the top of the package, so that `--help` need not load NumPy to print it
from noduscope import NOT_A_MEDICAL_DEVICE as NOT_A_MEDICAL_DEVICE  # noqa: PLC0414
from noduscope.scan import Box, Scan, ScanWarning, Triple


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place the detector marks.

    Parameters
    ----------
    position_xyz_mm : LPS centre.
    probability : calibrated probability that a nodule ≥ 3 mm is here, 0 to 1.
    diameter_mm : the detector's rough size; `measure` gives the reported one.
    """

    position_xyz_mm: Triple
    probability: float
    diameter_mm: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval, in the unit its field's name says."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Diameter:
    """Axial diameters in mm: ``mean`` of ``long`` and ``short``, with the mean's 95 % interval."""

    mean: float
    long: float
    short: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Grade:
    """What the grader says of a nodule beyond its size.

    Parameters
    ----------
    malignancy : probability that the LIDC's radiologists would call it malignant, with its 95 % interval.
    type : ``solid``, ``part-solid`` or ``ground-glass``.
    attributes : the LIDC's ratings by name, each on its own scale (1 to 5; internalStructure 1 to 4,
        calcification 1 to 6).
    """

    malignancy: Interval
    type: str
    attributes: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Where hiding an axial view changes the malignancy most.

    Parameters
    ----------
    map : float32 (y, x), fall of the malignancy's logit; positive where what is there speaks for malignancy.
    image : float32 (y, x), HU of the view.
    spacing_mm : edge of a pixel.
    """

    map: NDArray[np.float32]
    image: NDArray[np.float32]
    spacing_mm: float


@dataclass(frozen=True, slots=True, eq=False)
class NoduleMask:
    """The voxels of one nodule: ``mask`` (bool, z y x) fills ``box`` of the original scan."""

    box: Box
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Nodule:
    """One finding as it is reported.

    Parameters
    ----------
    id : 1 for the most probable, counting on.
    voxel_zyx : fractional index into the original scan.
    slice_number : 1-based place of the nearest slice in the scan's slice order.
    sop_instance_uid : the DICOM image of that slice, or None.
    side : ``left``, ``right`` or None where the lungs could not be told apart.
    zone : ``upper``, ``middle`` or ``lower`` third of that lung, as far as it was scanned; not its lobe.
    mask : its outline, or None when nothing could be outlined.
    grade, explanation : what the grader says and why; None where it was not asked.
    guidelines : what each guideline and risk model says, by its key, as `GuidelineAnswer.to_dict` gives it;
        None where none was asked.
    """

    id: int
    probability: float
    position_xyz_mm: Triple
    voxel_zyx: Triple
    slice_number: int
    sop_instance_uid: str | None
    diameter_mm: Diameter | None
    volume_mm3: Interval | None
    side: str | None = None
    zone: str | None = None
    mask: NoduleMask | None = None
    grade: Grade | None = None
    explanation: Explanation | None = field(default=None, hash=False, compare=False)
    guidelines: Mapping[str, Any] | None = field(default=None, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Its entry under ``nodules`` in ``findings.json``; what was not measured is left out, never faked."""
        row: dict[str, Any] = {
            "id": self.id,
            "probability": round(self.probability, 4),
            "position_xyz_mm": [round(p, 2) for p in self.position_xyz_mm],
            "voxel_zyx": [round(v, 2) for v in self.voxel_zyx],
            "slice_number": self.slice_number,
        }
        if self.sop_instance_uid is not None:
            row["sop_instance_uid"] = self.sop_instance_uid
        if self.side is not None:
            row["side"] = self.side
        if self.zone is not None:
            row["zone"] = self.zone
        if self.diameter_mm is not None:
            d = self.diameter_mm
            row["diameter_mm"] = {k: round(getattr(d, k), 1) for k in ("mean", "long", "short", "low", "high")}
        if self.volume_mm3 is not None:
            v = self.volume_mm3
            row["volume_mm3"] = {"value": round(v.value), "low": round(v.low), "high": round(v.high)}
        if self.grade is not None:
            m = self.grade.malignancy
            row["malignancy"] = {"probability": round(m.value, 4), "low": round(m.low, 4), "high": round(m.high, 4)}
            row["type"] = self.grade.type
            row["attributes"] = {k: round(a, 1) for k, a in self.grade.attributes.items()}
        if self.guidelines is not None:
            row["guidelines"] = dict(self.guidelines)
        return row


@dataclass(frozen=True, slots=True)
class ModelUsed:
    """Which model bundle spoke."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class ScanResult:
    """All that ``detect`` knows about one scan; every file is written from this.

    Parameters
    ----------
    scan : the original scan.
    lungs : uint8 ``(z, y, x)`` on the original grid: 0 outside, 1 left lung, 2 right lung.
    nodules : at or above the threshold, most probable first.
    candidates : all the detector's marks, most probable first: what FROC needs.
    threshold : the probability from which a candidate is reported as a nodule.
    timing_s : seconds per stage, in order; ``total`` last.
    precision : number format that the detector computed in, ``f32`` or ``bf16``: the machine decides; empty if unknown.
    """

    scan: Scan
    lungs: NDArray[np.uint8]
    nodules: tuple[Nodule, ...]
    candidates: tuple[Candidate, ...]
    threshold: float
    models: tuple[ModelUsed, ...]
    warnings: tuple[ScanWarning, ...] = ()
    timing_s: dict[str, float] = field(default_factory=dict)
    precision: str = ""

    def to_dict(self) -> dict[str, Any]:
        """``findings.json``, schema ``noduscope.findings/1``."""
        geometry = self.scan.geometry
        return {
            "schema": "noduscope.findings/1",
            "not_a_medical_device": True,
            "notice": NOT_A_MEDICAL_DEVICE,
            "scan": {
                "series_uid": self.scan.source.series_uid,
                "shape_zyx": list(geometry.shape_zyx),
                "spacing_xyz_mm": [round(s, 6) for s in geometry.spacing_xyz_mm],
                "origin_xyz_mm": [round(o, 4) for o in geometry.origin_xyz_mm],
                "direction": [round(d, 6) for d in geometry.direction],
                "reader": self.scan.source.reader,
                "warnings": [{"code": w.code, "text": w.text} for w in self.warnings],
            },
            "threshold": round(self.threshold, 4),
            "nodules": [n.to_dict() for n in self.nodules],
            "model": [{"name": m.name, "version": m.version, "sha256": m.sha256} for m in self.models],
            "timing_s": {k: round(v, 3) for k, v in self.timing_s.items()},
        }
