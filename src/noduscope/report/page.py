"""``report.html``: one file that a radiologist can read anywhere, with every picture inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from noduscope import __version__
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Explanation, Grade, Interval, Nodule, ScanResult
from noduscope.report.figures import Panel
from noduscope.report.graded import explanation_picture, in_words
from noduscope.report.html import PLANE_NAMES, number, panel_context, picture_uri, render, significant
from noduscope.scan import ScanWarning
from noduscope.words import counted

_WORDING = (
    (0.9, "very likely a nodule"),
    (0.7, "likely a nodule"),
    (0.5, "more likely a nodule than not"),
    (0.0, "less likely a nodule than not"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The panels of a page: the three projections, and those of the first findings in order."""

    projections: tuple[Panel, ...]
    findings: tuple[tuple[Panel, ...], ...]


_PAPER_ROWS = 9
"""Rows of the table on the first of two printed pages; three lines of warnings take the place of two rows."""
_PAPER_WIDTH = 125
"""Characters of a warning in a printed line."""
_PAPER_PICTURES = 3
"""Findings with pictures on the second printed page."""

_ADVISERS = {
    "lung_rads_2022": "Lung-RADS v2022",
    "fleischner_2017": "Fleischner 2017",
    "bts_2015": "BTS 2015",
    "brock": "Brock risk of cancer",
    "mayo": "Mayo risk of cancer",
    "va": "VA risk of cancer",
    "herder": "Herder risk of cancer",
}


def render_page(result: ScanResult, pictures: Pictures) -> str:
    """The page as HTML text; everything that comes from the scan or its headers is escaped."""
    return render("page.html", _context(result, pictures))


def _context(result: ScanResult, pictures: Pictures) -> dict[str, Any]:
    """All that the template shows, as plain values."""
    nodules = result.nodules
    sized = [n for n in nodules if n.diameter_mm is not None]
    # a large shadow that is hardly a nodule must not be what is read first
    likely = [n for n in sized if n.probability >= 0.5]
    below = [c.probability for c in result.candidates if c.probability < result.threshold]
    rows = [_finding(n, result) for n in nodules]
    for row, nodule, panels in zip(rows, nodules, pictures.findings, strict=False):
        row["panels"] = [panel_context(p, f"{PLANE_NAMES[p.name]} view of finding {nodule.id}") for p in panels]
        row["explanation"] = _explained(nodule.explanation) if nodule.explanation else None
    return {
        "version": __version__,
        "notice": NOT_A_MEDICAL_DEVICE,
        "findings": rows,
        "threshold": result.threshold,
        "graded": any(n.grade for n in nodules),
        "largest": max(likely or sized, key=lambda n: n.diameter_mm.mean if n.diameter_mm else 0.0, default=None),
        "most_probable": max(nodules, key=lambda n: n.probability, default=None),
        "weaker": len(below),
        "strongest_weaker": max(below, default=None),
        "facts": _facts(result),
        "warnings": [w.text for w in result.warnings],
        "projections": [panel_context(p, _projection_alt(p, nodules)) for p in pictures.projections],
        "models": result.models,
        "timing": result.timing_s,
        "pictured": len(pictures.findings),
        "paper": _paper(rows, result.warnings),
    }


def _paper(rows: Sequence[Mapping[str, Any]], warnings: Sequence[ScanWarning]) -> dict[str, Any]:
    """What two printed pages hold: rows of the table, findings with pictures and their layout, and all assumptions."""
    told = sum(ceil(len(w.text) / _PAPER_WIDTH) for w in warnings)
    answers = [answer for row in rows[:_PAPER_PICTURES] for answer in row["advice"]]
    return {
        "rows": max(_PAPER_PICTURES, _PAPER_ROWS - ceil(told * 2 / 3)),
        "pictures": _PAPER_PICTURES,
        "layout": ("one", "two", "three")[min(len(rows), _PAPER_PICTURES) - 1],
        "assumed": list(dict.fromkeys(words for answer in answers for words in answer["assumed"])),
    }


def _facts(result: ScanResult) -> list[tuple[str, str]]:
    """What a reader wants to know of the scan, free of patient data."""
    geometry, source = result.scan.geometry, result.scan.source
    x, y, z = geometry.spacing_xyz_mm
    depth, height, width = geometry.shape_zyx
    return [
        ("Slices", f"{depth}, {z:.2f} mm apart"),
        ("Pixels", f"{width} × {height} of {x:.2f} × {y:.2f} mm"),
        ("Read as", source.reader),
        *source.description,
        ("Series", source.series_uid),
    ]


def _finding(nodule: Nodule, result: ScanResult) -> dict[str, Any]:
    """One finding's numbers; what was not measured is None."""
    diameter, volume = nodule.diameter_mm, nodule.volume_mm3
    return {
        "id": nodule.id,
        "probability": nodule.probability,
        "wording": next(text for least, text in _WORDING if nodule.probability >= least),
        "side": f"{nodule.side} lung" if nodule.side else None,
        "zone": f"{nodule.zone} third" if nodule.zone else None,
        "slice": nodule.slice_number,
        "slices": result.scan.geometry.shape_zyx[0],
        "sop": nodule.sop_instance_uid,
        "position": ", ".join(f"{p:.1f}".replace("-", "−") for p in nodule.position_xyz_mm),
        "diameter": diameter,
        "volume": _volume(volume) if volume else None,
        "grade": _graded(nodule.grade) if nodule.grade else None,
        "advice": _advice(nodule),
        "panels": [],
        "explanation": None,
    }


def _graded(grade: Grade) -> dict[str, Any]:
    """The grader's answer: malignancy with its place on a bar in per cent, type, and attributes in words."""
    m = grade.malignancy
    return {
        "malignancy": m,
        "bar": {
            "left": round(100 * m.low, 1),
            "width": round(100 * (m.high - m.low), 1),
            "at": round(100 * m.value, 1),
        },
        "type": grade.type,
        "attributes": in_words(grade.attributes),
    }


def _explained(explanation: Explanation) -> dict[str, Any]:
    """The picture of why, for the template."""
    picture = explanation_picture(explanation)
    return {"uri": picture_uri(picture), "height": picture.shape[0], "width": picture.shape[1]}


def _advice(nodule: Nodule) -> list[dict[str, Any]]:
    """What each guideline and risk model says of a finding, in the order of `_ADVISERS`."""
    said = nodule.guidelines or {}
    return [{"name": name, **said[key]} for key, name in _ADVISERS.items() if key in said]


def _volume(volume: Interval) -> dict[str, str]:
    """Two significant digits are all that a volume's interval supports; the value keeps three."""
    return {
        "value": number(significant(volume.value, 3)),
        "low": number(significant(volume.low, 2)),
        "high": number(significant(volume.high, 2)),
    }


def _projection_alt(panel: Panel, nodules: Sequence[Nodule]) -> str:
    count = f"{counted(len(nodules), 'finding')} ringed" if nodules else "no findings"
    return f"{PLANE_NAMES[panel.name]} projection of the lungs, {count}"
