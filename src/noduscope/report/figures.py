"""Pictures of the findings: panels for the page, key images as PNG.

A panel is a grey JPEG and, apart from it, what is drawn over it: the page draws that as vectors that
can be switched off, the key images have it burnt in.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.findings import NOT_A_MEDICAL_DEVICE, Diameter, Nodule, ScanResult
from noduscope.preprocess import clear_view, window
from noduscope.report.views import AXIAL, PLANES, Anatomy, Frame, Polygon, View, lung_projections
from noduscope.scan import Geometry
from noduscope.words import probability_text

LUNG_WINDOW = (-600.0, 1500.0)
"""Centre and width, HU."""
_PROJECTION_WINDOW = (-290.0, 1000.0)  # vessels and nodules light up, aerated lung stays dark
_CLOSE_UP_MM, _CLOSE_UP_PIXELS = 56.0, 392
_CONTEXT_PIXELS, _PROJECTION_PIXELS = 720, 460
_CLEAR_STEP_MM = 0.5
_JPEG_QUALITY = 84

Grey = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Spot:
    """A numbered ring on a panel: centre (column, row), radius in pixels, and the finding's number."""

    x: float
    y: float
    radius: float
    number: int


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture with what is drawn over it.

    Parameters
    ----------
    name : ``axial``, ``coronal``, ``sagittal`` or ``context``.
    grey : the picture; `clear` : the same place denoised and with evened contrast, or None.
    step_mm : edge of a pixel.
    letters : patient directions at the left, right, top and bottom edge.
    outlines : borders of the finding or, in projections, of the lungs.
    spots : numbered rings. `target` : where ticks on the edges point to, or None.
    scale_mm : length of the scale bar.
    """

    name: str
    grey: Grey
    step_mm: float
    letters: tuple[str, str, str, str]
    outlines: tuple[Polygon, ...]
    spots: tuple[Spot, ...]
    scale_mm: int
    target: tuple[float, float] | None = None
    clear: Grey | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.grey.shape[1], self.grey.shape[0]


def projection_panels(anatomy: Anatomy, result: ScanResult) -> tuple[Panel, ...]:
    """The lungs in three maximum-intensity projections of one scale, with all findings ringed."""
    z, y, x = anatomy.lung_box
    spacing = anatomy.scan.geometry.spacing_zyx_mm
    widest = max((b.stop - b.start) * s for b, s in zip((z, y, x), spacing, strict=True))
    step = widest / _PROJECTION_PIXELS
    panels = []
    for projection in lung_projections(anatomy, result, step):
        view = projection.view
        spots = tuple(_spot(view, anatomy, n, least=9.0) for n in result.nodules)
        grey = window(view.hu, *_PROJECTION_WINDOW)
        panels.append(Panel(view.kind.name, grey, step, view.kind.letters, tuple(projection.shadow), spots, 50))
    return tuple(panels)


def finding_panels(anatomy: Anatomy, nodule: Nodule, result: ScanResult) -> tuple[Panel, ...]:
    """Three planes through a finding, then the whole axial slice for context."""
    drawn = nodule, result.scan.geometry
    panels = close_ups(anatomy, anatomy.index_of(nodule), close_up_field_mm(nodule.diameter_mm), drawn)
    return (*panels, _context_panel(anatomy, nodule))


def close_up_field_mm(diameter: Diameter | None) -> float:
    """Edge of the field that close-ups of a finding of this size show, mm."""
    return max(_CLOSE_UP_MM, 2.0 * diameter.long) if diameter else _CLOSE_UP_MM


def close_ups(
    anatomy: Anatomy,
    centre_zyx: tuple[float, float, float],
    field_mm: float,
    outlined: tuple[Nodule, Geometry] | None = None,
) -> tuple[Panel, ...]:
    """Three planes through a place.

    Parameters
    ----------
    centre_zyx : canonical fractional index.
    outlined : a nodule whose outline is drawn, and the geometry of the original scan, on whose grid it lies.
    """
    panels = []
    for kind in PLANES:
        view = anatomy.plane(kind, Frame.square(centre_zyx, field_mm, _CLOSE_UP_PIXELS))
        x, y = (float(v) for v in view.pixels_of(centre_zyx))
        panels.append(
            Panel(
                name=kind.name,
                grey=window(view.hu, *LUNG_WINDOW),
                step_mm=view.frame.step_mm,
                letters=kind.letters,
                outlines=tuple(anatomy.outline(view, *outlined)) if outlined else (),
                spots=(),
                scale_mm=10,
                target=(x, y),
                clear=_clear(anatomy, view),
            )
        )
    return tuple(panels)


def _context_panel(anatomy: Anatomy, nodule: Nodule) -> Panel:
    """The axial slice of a finding across the whole chest."""
    _, rows, columns = anatomy.lung_box
    spacing = anatomy.scan.geometry.spacing_zyx_mm
    margin = 16.0
    width_mm = (columns.stop - columns.start) * spacing[2] + 2 * margin
    height_mm = (rows.stop - rows.start) * spacing[1] + 2 * margin
    step = width_mm / _CONTEXT_PIXELS
    middle = ((rows.start + rows.stop - 1) / 2, (columns.start + columns.stop - 1) / 2)
    frame = Frame((anatomy.index_of(nodule)[0], *middle), round(height_mm / step), _CONTEXT_PIXELS, step)
    view = anatomy.plane(AXIAL, frame)
    return Panel(
        name="context",
        grey=window(view.hu, *LUNG_WINDOW),
        step_mm=step,
        letters=AXIAL.letters,
        outlines=(),
        spots=(_spot(view, anatomy, nodule, least=16.0),),
        scale_mm=50,
    )


def _spot(view: View, anatomy: Anatomy, nodule: Nodule, least: float) -> Spot:
    """A ring that leaves the finding itself free."""
    x, y = (float(v) for v in view.pixels_of(anatomy.index_of(nodule)))
    size = nodule.diameter_mm.long if nodule.diameter_mm else 0.0
    return Spot(x, y, max(least, 0.75 * size / view.frame.step_mm), nodule.id)


def _clear(anatomy: Anatomy, view: View) -> Grey:
    """The clearer picture of a close-up.

    Made at about the scan's own resolution (the filters are a few pixels wide) and with a margin (the
    contrast is evened over tiles), then cut and enlarged.
    """
    frame = view.frame
    field = frame.step_mm * frame.width
    pixels = round(2 * field / _CLEAR_STEP_MM)
    wide = anatomy.plane(view.kind, Frame.square(frame.centre_zyx, 2 * field, pixels))
    grey = clear_view(wide.hu, anatomy.clearer)
    scale = frame.step_mm / wide.frame.step_mm
    first = (pixels - 1) / 2 - scale * (frame.width - 1) / 2
    matrix = np.array([[scale, 0.0, first], [0.0, scale, first]])
    size = (frame.width, frame.height)
    return np.asarray(cv2.warpAffine(grey, matrix, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP), dtype=np.uint8)


def jpeg(grey: Grey) -> bytes:
    """A grey picture as JPEG."""
    _, data = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)


# --- key images: the same panels with everything burnt in (colours are BGR) -------------------------

_TILE, _GAP, _HEAD = 400, 6, 58
_WHITE, _FAINT, _CYAN, _AMBER = (240, 240, 240), (165, 165, 165), (220, 200, 60), (40, 176, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def key_image(panels: tuple[Panel, ...], nodule: Nodule) -> bytes:
    """PNG of a finding: the slice for context and three planes, two by two, under a line of numbers."""
    edge = 2 * _TILE + 3 * _GAP
    canvas = np.full((edge + _HEAD, edge, 3), 20, np.uint8)
    for place, panel in enumerate((panels[-1], *panels[:-1])):
        top, left = _HEAD + _GAP + (place // 2) * (_TILE + _GAP), _GAP + (place % 2) * (_TILE + _GAP)
        canvas[top : top + _TILE, left : left + _TILE] = _tile(panel)
    _write(canvas, _headline(nodule), (_GAP + 6, 26), 0.62, _WHITE)
    _write(canvas, NOT_A_MEDICAL_DEVICE, (_GAP + 6, 48), 0.42, _FAINT)
    _, data = cv2.imencode(".png", canvas)
    return bytes(data)


def _headline(nodule: Nodule) -> str:
    # OpenCV's font has ASCII only
    parts = [f"Finding {nodule.id}", f"probability {probability_text(nodule.probability)}"]
    if nodule.diameter_mm is not None:
        d = nodule.diameter_mm
        parts.append(f"{d.mean:.1f} mm ({d.long:.1f} x {d.short:.1f})")
    parts += [f"{nodule.side} lung"] if nodule.side else []
    return "   ".join([*parts, f"slice {nodule.slice_number}"])


def _tile(panel: Panel) -> NDArray[np.uint8]:
    """A panel as a square colour tile with its marks."""
    width, height = panel.size
    scale = _TILE / max(width, height)
    small = cv2.resize(panel.grey, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    tile = np.zeros((_TILE, _TILE, 3), np.uint8)
    top, left = (_TILE - small.shape[0]) // 2, (_TILE - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small[..., None]
    shift = np.array([left, top])
    for outline in panel.outlines:
        # coordinates with 4 fractional bits
        corners = np.rint((outline * scale + shift) * 16).astype(np.int32)
        cv2.polylines(tile, [corners], True, _CYAN, 1, cv2.LINE_AA, 4)
    for spot in panel.spots:
        x, y = np.array([spot.x, spot.y]) * scale + shift
        cv2.circle(tile, (round(x), round(y)), round(spot.radius * scale), _AMBER, 1, cv2.LINE_AA)
    if panel.target is not None:
        _ticks(tile, np.array(panel.target) * scale + shift)
    _edge_letters(tile, panel)
    _scale_bar(tile, panel, scale)
    return tile


def _ticks(tile: NDArray[np.uint8], target: NDArray[np.float64]) -> None:
    x, y = (round(float(v)) for v in target)
    last = _TILE - 1
    for a, b in (
        ((x, 24), (x, 40)),
        ((x, last - 24), (x, last - 40)),
        ((24, y), (40, y)),
        ((last - 24, y), (last - 40, y)),
    ):
        cv2.line(tile, a, b, _AMBER, 1, cv2.LINE_AA)


def _edge_letters(tile: NDArray[np.uint8], panel: Panel) -> None:
    half = _TILE // 2
    places = ((6, half + 5), (_TILE - 16, half + 5), (half - 5, 16), (half - 5, _TILE - 8))
    for letter, place in zip(panel.letters, places, strict=True):
        _write(tile, letter, place, 0.45, _WHITE)
    _write(tile, panel.name, (8, 18), 0.42, _FAINT)


def _scale_bar(tile: NDArray[np.uint8], panel: Panel, scale: float) -> None:
    length = round(panel.scale_mm / panel.step_mm * scale)
    right, low = _TILE - 12, _TILE - 12
    cv2.line(tile, (right - length, low), (right, low), _WHITE, 2)
    _write(tile, f"{panel.scale_mm} mm", (right - length, low - 7), 0.4, _WHITE)


def _write(image: NDArray[np.uint8], text: str, place: tuple[int, int], size: float, colour: tuple[int, ...]) -> None:
    """Text with a dark rim, readable on any grey."""
    x, y = place
    for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        cv2.putText(image, text, (x + dx, y + dy), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(image, text, place, _FONT, size, colour, 1, cv2.LINE_AA)
