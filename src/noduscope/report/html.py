"""What all pages share: the template environment, numbers as text, and panels as HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from noduscope.report.figures import Panel, Spot, jpeg
from noduscope.report.views import Polygon
from noduscope.words import probability_text

PLANE_NAMES = {"axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal", "context": "Whole slice"}
_DIRECTIONS = {
    "axial": "seen from the feet, the patient's right on the left",
    "context": "seen from the feet, the patient's right on the left",
    "coronal": "seen from the front, the patient's right on the left",
    "sagittal": "seen from the patient's left, the front on the left",
}


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page of this package as HTML text, its style sheet inside; everything in the context is escaped."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_own_text),
    )
    environment.filters.update(number=number, percent=percent, probability=probability_text)
    # our own style sheet, not the user's text: escaping it would break its quotes
    css = Markup(_own_text("page.css"))  # noqa: S704
    return environment.get_template(template).render(css=css, **context)


def _own_text(name: str) -> str:
    return (files("noduscope.report") / name).read_text(encoding="utf-8")


def significant(value: float, digits: int) -> float:
    """Rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


def number(value: float) -> str:
    """Whole number with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(probability: float) -> str:
    """A probability as per cent; certainty is never claimed."""
    return f"{min(max(round(100 * probability), 1), 99)}\u202f%"


def panel_context(panel: Panel, alt: str) -> dict[str, Any]:
    """A panel for the template: picture data and overlay coordinates."""
    width, height = panel.size
    return {
        "name": PLANE_NAMES[panel.name],
        "kind": panel.name,
        "alt": f"{alt}, {_DIRECTIONS[panel.name]}",
        "uri": picture_uri(panel.grey),
        "clear_uri": picture_uri(panel.clear) if panel.clear is not None else None,
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


def picture_uri(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    """A picture, grey or in colour (blue, green, red), as a JPEG inside the page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(grey)).decode("ascii")
