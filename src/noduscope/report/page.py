"""``report.html``: one file that a radiologist can read anywhere, with every picture inside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from noduscope import __version__
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Interval, Nodule, ScanResult
from noduscope.report.figures import Panel, Spot, jpeg
from noduscope.report.views import Polygon

_WORDING = (
    (0.9, "very likely a nodule"),
    (0.7, "likely a nodule"),
    (0.5, "more likely a nodule than not"),
    (0.0, "less likely a nodule than not"),
)
_NAMES = {"axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal", "context": "Whole slice"}
_DIRECTIONS = {
    "axial": "seen from the feet, the patient's right on the left",
    "context": "seen from the feet, the patient's right on the left",
    "coronal": "seen from the front, the patient's right on the left",
    "sagittal": "seen from the patient's left, the front on the left",
}


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The panels of a page: the three projections, and those of the first findings in order."""

    projections: tuple[Panel, ...]
    findings: tuple[tuple[Panel, ...], ...]


def render_page(result: ScanResult, pictures: Pictures) -> str:
    """The page as HTML text; everything that comes from the scan or its headers is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(number=_number, percent=_percent)
    here = files("noduscope.report")
    template = environment.from_string((here / "page.html").read_text(encoding="utf-8"))
    # our own style sheet, not the user's text: escaping it would break its quotes
    css = Markup((here / "page.css").read_text(encoding="utf-8"))  # noqa: S704
    return template.render(css=css, **_context(result, pictures))


def _context(result: ScanResult, pictures: Pictures) -> dict[str, Any]:
    """All that the template shows, as plain values."""
    nodules = result.nodules
    sized = [n for n in nodules if n.diameter_mm is not None]
    below = [c.probability for c in result.candidates if c.probability < result.threshold]
    rows = [_finding(n, result) for n in nodules]
    for row, nodule, panels in zip(rows, nodules, pictures.findings, strict=False):
        row["panels"] = [_panel(p, f"{_NAMES[p.name]} view of finding {nodule.id}") for p in panels]
    return {
        "version": __version__,
        "notice": NOT_A_MEDICAL_DEVICE,
        "findings": rows,
        "threshold": result.threshold,
        "largest": max(sized, key=lambda n: n.diameter_mm.mean if n.diameter_mm else 0.0, default=None),
        "most_probable": max(nodules, key=lambda n: n.probability, default=None),
        "weaker": len(below),
        "strongest_weaker": max(below, default=None),
        "facts": _facts(result),
        "warnings": [w.text for w in result.warnings],
        "projections": [_panel(p, _projection_alt(p, nodules)) for p in pictures.projections],
        "models": result.models,
        "timing": result.timing_s,
        "pictured": len(pictures.findings),
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
        "slice": nodule.slice_number,
        "slices": result.scan.geometry.shape_zyx[0],
        "sop": nodule.sop_instance_uid,
        "position": ", ".join(f"{p:.1f}".replace("-", "−") for p in nodule.position_xyz_mm),
        "diameter": diameter,
        "volume": _volume(volume) if volume else None,
        "panels": [],
    }


def _volume(volume: Interval) -> dict[str, str]:
    """Two significant digits are all that a volume's interval supports; the value keeps three."""
    return {
        "value": _number(_significant(volume.value, 3)),
        "low": _number(_significant(volume.low, 2)),
        "high": _number(_significant(volume.high, 2)),
    }


def _significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _number(value: float) -> str:
    """Whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def _percent(probability: float) -> str:
    """A probability as per cent; certainty is never claimed."""
    return f"{min(max(round(100 * probability), 1), 99)}\u202f%"


def _projection_alt(panel: Panel, nodules: Sequence[Nodule]) -> str:
    count = f"{len(nodules)} finding{'s' if len(nodules) != 1 else ''} ringed" if nodules else "no findings"
    return f"{_NAMES[panel.name]} projection of the lungs, {count}"


def _panel(panel: Panel, alt: str) -> dict[str, Any]:
    """A panel for the template: picture data and overlay coordinates."""
    width, height = panel.size
    return {
        "name": _NAMES[panel.name],
        "kind": panel.name,
        "alt": f"{alt}, {_DIRECTIONS[panel.name]}",
        "uri": _uri(panel.grey),
        "clear_uri": _uri(panel.clear) if panel.clear is not None else None,
        "width": width,
        "height": height,
        "letters": panel.letters,
        "path": " ".join(_path(p) for p in panel.outlines),
        "spots": _labels(panel.spots, width, height),
        "target": panel.target,
        "bar": round(panel.scale_mm / panel.step_mm, 1),
        "bar_mm": panel.scale_mm,
    }


def _labels(spots: Sequence[Spot], width: int, height: int) -> list[dict[str, float]]:
    """Rings with their numbers beside them: the first corner that is in the picture and not taken."""
    taken: list[tuple[float, float]] = []
    rows = []
    for spot in spots:
        away = 0.75 * spot.radius + 8
        corners = [(spot.x + a * away, spot.y + b * away + 6) for a, b in ((1, -1), (1, 1), (-1, -1), (-1, 1))]
        free = [
            (x, y)
            for x, y in corners
            if 10 < x < width - 10 and 18 < y < height - 6 and all(abs(x - u) > 16 or abs(y - v) > 16 for u, v in taken)
        ]
        x, y = (free or corners)[0]
        taken.append((x, y))
        row = {"x": spot.x, "y": spot.y, "r": spot.radius, "text_x": x, "text_y": y}
        rows.append({k: round(v, 1) for k, v in row.items()} | {"number": spot.number})
    return rows


def _path(polygon: Polygon) -> str:
    """A closed SVG path; pixel centres lie half a pixel into the picture."""
    return "M" + "L".join(f"{x + 0.5:.1f} {y + 0.5:.1f}" for x, y in polygon) + "Z"


def _uri(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(grey)).decode("ascii")
