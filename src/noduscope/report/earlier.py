"""Read back the findings of an earlier run: places and sizes, to be joined with the scan that they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Grade, Interval, ModelUsed, Nodule, ScanResult
from noduscope.scan import Scan, ScanWarning, Triple

FINDINGS = "findings.json"
_SCHEMA = "noduscope.findings/1"


@dataclass(frozen=True, slots=True)
class EarlierFindings:
    """What an earlier result folder says. It holds no image and no outlines.

    Parameters
    ----------
    series_uid, shape_zyx : of the scan it was made from.
    """

    series_uid: str
    shape_zyx: tuple[int, int, int]
    nodules: tuple[Nodule, ...]
    threshold: float
    models: tuple[ModelUsed, ...]
    warnings: tuple[ScanWarning, ...]

    def on(self, scan: Scan, lungs: NDArray[np.uint8]) -> ScanResult:
        """The result again, with its scan.

        Parameters
        ----------
        lungs : labels on the scan's grid, as in `ScanResult`.

        Raises
        ------
        InputRefused
            When the findings were not made from this scan.
        """
        own = scan.source.series_uid, scan.geometry.shape_zyx
        if own != (self.series_uid, self.shape_zyx):
            raise InputRefused(
                f"the result was made from series {self.series_uid} of shape {self.shape_zyx}, but the scan given "
                f"for it is {own[0]} of shape {own[1]}: give the scan that it was made from"
            )
        return ScanResult(scan, lungs, self.nodules, (), self.threshold, self.models, self.warnings)


def is_result_folder(path: Path) -> bool:
    """Whether an earlier run wrote its findings there."""
    return (path / FINDINGS).is_file()


def read_findings(folder: Path) -> EarlierFindings:
    """The findings that an earlier run wrote into a folder.

    Raises
    ------
    InputRefused
        When ``findings.json`` cannot be read, is of another schema, or lacks something.
    """
    file = folder / FINDINGS
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["schema"] != _SCHEMA:
            raise InputRefused(f"{file} has schema {held['schema']!r}; this version reads {_SCHEMA}: run detect again")
        scan = held["scan"]
        return EarlierFindings(
            series_uid=str(scan["series_uid"]),
            shape_zyx=_whole(scan["shape_zyx"]),
            nodules=tuple(_nodule(row) for row in held["nodules"]),
            threshold=float(held["threshold"]),
            models=tuple(ModelUsed(m["name"], m["version"], m["sha256"]) for m in held["model"]),
            warnings=tuple(ScanWarning(w["code"], w["text"]) for w in scan["warnings"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputRefused(f"{file} is no findings file of detect, or damaged ({error}): run detect again") from error


def _nodule(row: dict[str, Any]) -> Nodule:
    d, v = row.get("diameter_mm"), row.get("volume_mm3")
    return Nodule(
        id=int(row["id"]),
        probability=float(row["probability"]),
        position_xyz_mm=_triple(row["position_xyz_mm"]),
        voxel_zyx=_triple(row["voxel_zyx"]),
        slice_number=int(row["slice_number"]),
        sop_instance_uid=row.get("sop_instance_uid"),
        diameter_mm=Diameter(*(float(d[k]) for k in ("mean", "long", "short", "low", "high"))) if d else None,
        volume_mm3=Interval(*(float(v[k]) for k in ("value", "low", "high"))) if v else None,
        side=row.get("side"),
        zone=row.get("zone"),
        grade=_grade(row) if "malignancy" in row else None,
    )


def _grade(row: dict[str, Any]) -> Grade:
    m = row["malignancy"]
    malignancy = Interval(float(m["probability"]), float(m["low"]), float(m["high"]))
    return Grade(malignancy, str(row["type"]), {str(k): float(v) for k, v in row["attributes"].items()})


def _triple(values: list[float]) -> Triple:
    x, y, z = (float(v) for v in values)
    return (x, y, z)


def _whole(values: list[int]) -> tuple[int, int, int]:
    z, y, x = (int(v) for v in values)
    return (z, y, x)
