"""The result as text for machines: JSON, CSV, 3D Slicer markups, and the run's manifest."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np

from noduscope import __version__
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Candidate, Grade, Nodule, ScanResult
from noduscope.heads import ATTRIBUTES
from noduscope.scan import Scan, Triple
from noduscope.settings import Settings, settings_to_dict
from noduscope.words import probability_text

LUNA16_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")
"""What LUNA16's evaluation reads; coordinates are LPS mm."""
GRADE_COLUMNS = ("malignancy", "malignancy_low", "malignancy_high", "type", *ATTRIBUTES)
FINDING_COLUMNS = (
    *LUNA16_COLUMNS,
    "diameter_mm",
    "diameter_low_mm",
    "diameter_high_mm",
    "long_axis_mm",
    "short_axis_mm",
    "volume_mm3",
    "volume_low_mm3",
    "volume_high_mm3",
    *GRADE_COLUMNS,
    "side",
    "zone",
    "slice_number",
    "sop_instance_uid",
    "nodule_id",
)
RUN_SCHEMA = "noduscope.run/1"
_MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)


def findings_json(result: ScanResult) -> str:
    """``findings.json``, schema ``noduscope.findings/1``."""
    return json_text(result.to_dict())


def findings_csv(result: ScanResult) -> str:
    """The reported nodules, LUNA16's five columns first; what was not measured is an empty cell."""
    uid = result.scan.source.series_uid
    return csv_text(FINDING_COLUMNS, (_finding_row(uid, n) for n in result.nodules))


def candidates_csv(result: ScanResult) -> str:
    """All the detector's marks in LUNA16's five columns: what a FROC curve is drawn from."""
    uid = result.scan.source.series_uid
    return csv_text(LUNA16_COLUMNS, (_luna_cells(uid, c) for c in result.candidates))


def slicer_markups(result: ScanResult) -> str:
    """The nodules as a point list for 3D Slicer (Markups schema 1.0.3), LPS mm."""
    points = [
        {
            "id": str(n.id),
            "label": f"nodule {n.id}",
            "description": _markup_text(n),
            "position": [round(p, 3) for p in n.position_xyz_mm],
            "selected": True,
            "locked": True,
            "visibility": True,
            "positionStatus": "defined",
        }
        for n in result.nodules
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": True,
        "labelFormat": "nodule %d",
        "lastUsedControlPointNumber": len(points),
        "controlPoints": points,
    }
    return json_text({"@schema": _MARKUPS_SCHEMA, "markups": [markup]})


def manifest_json(result: ScanResult, settings: Settings | None, files: Iterable[str]) -> str:
    """``run.json``: what made this folder. Holds no path and nothing about the patient.

    Parameters
    ----------
    settings : the run's settings; None leaves them out.
    files : names of all files of the folder.
    """
    run: dict[str, Any] = {
        "schema": RUN_SCHEMA,
        "notice": NOT_A_MEDICAL_DEVICE,
        "noduscope": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": input_facts(result.scan),
        "threshold": round(result.threshold, 4),
        "findings": len(result.nodules),
        "candidates": len(result.candidates),
        "models": [{"name": m.name, "version": m.version, "sha256": m.sha256} for m in result.models],
        "warnings": [{"code": w.code, "text": w.text} for w in result.warnings],
        "timing_s": {k: round(v, 3) for k, v in result.timing_s.items()},
        "platform": platform_facts() | ({"networks": result.precision} if result.precision else {}),
        "files": sorted(files),
    }
    if settings is not None:
        run["settings"] = settings_to_dict(settings)
    return json_text(run)


def input_facts(scan: Scan) -> dict[str, Any]:
    """What a manifest tells of a scan."""
    return {
        "series_uid": scan.source.series_uid,
        "reader": scan.source.reader,
        "shape_zyx": list(scan.geometry.shape_zyx),
        "spacing_xyz_mm": [round(s, 6) for s in scan.geometry.spacing_xyz_mm],
        "description": dict(scan.source.description),
    }


def platform_facts() -> dict[str, str]:
    """What a manifest tells of the machine."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
    }


def _luna_cells(uid: str, mark: Candidate | Nodule) -> list[str]:
    return [uid, *_coordinates(mark.position_xyz_mm), f"{mark.probability:.6f}"]


def _coordinates(position_xyz_mm: Triple) -> list[str]:
    return [f"{p:.3f}" for p in position_xyz_mm]


def _finding_row(uid: str, nodule: Nodule) -> list[str]:
    d, v = nodule.diameter_mm, nodule.volume_mm3
    size = [f"{x:.1f}" for x in (d.mean, d.low, d.high, d.long, d.short)] if d else [""] * 5
    volume = [f"{x:.0f}" for x in (v.value, v.low, v.high)] if v else [""] * 3
    place = [
        nodule.side or "",
        nodule.zone or "",
        str(nodule.slice_number),
        nodule.sop_instance_uid or "",
        str(nodule.id),
    ]
    return [*_luna_cells(uid, nodule), *size, *volume, *grade_cells(nodule.grade), *place]


def grade_cells(grade: Grade | None) -> list[str]:
    """The cells of `GRADE_COLUMNS`; empty ones for what was not graded."""
    if grade is None:
        return [""] * len(GRADE_COLUMNS)
    m = grade.malignancy
    ratings = [f"{grade.attributes[name]:.1f}" if name in grade.attributes else "" for name in ATTRIBUTES]
    return [*(f"{p:.4f}" for p in (m.value, m.low, m.high)), grade.type, *ratings]


def _markup_text(nodule: Nodule) -> str:
    text = f"probability {probability_text(nodule.probability)}"
    return f"{text}, {nodule.diameter_mm.mean:.1f} mm" if nodule.diameter_mm else text


def csv_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as CSV, lines ended as on Unix."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def json_text(value: dict[str, Any]) -> str:
    """A value as indented JSON."""
    # allow_nan=False: NaN is not JSON, and a result that holds one is a defect to be seen here
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
