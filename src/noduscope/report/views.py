"""Planes and projections of a scan as pictures with known geometry.

All is done on the canonical scan (+x left, +y back, +z head), shown as radiologists are used to:
the patient's right on the picture's left, the back at the bottom of an axial plane, the head at the top
of the others. A `View` knows where each voxel lands in it, so marks are placed by the same
numbers that drew the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.findings import Nodule, ScanResult
from noduscope.preprocess import in_threads
from noduscope.scan import Box, Geometry, HuVolume, Scan, ScanSource
from noduscope.settings import Settings, ViewSettings

Polygon: TypeAlias = NDArray[np.float64]
"""Corner points, shape (n, 2), as (column, row) in pixels of a view."""

AIR_HU = -1024
_DENSE_HU = -300
_RIM_MM, _THICK_MM = 2.5, 13.0
"""Rim of the lungs and radius of solid tissue that projections leave out."""


@dataclass(frozen=True, slots=True)
class PlaneKind:
    """How a plane lies in the canonical array: the axes it cuts through, and its rows and columns run along."""

    name: str
    through: int
    rows: int
    columns: int
    flipped: bool
    """Rows run against the array axis: the head is at the top."""
    letters: tuple[str, str, str, str]
    """Patient directions at the left, right, top and bottom edge."""


AXIAL = PlaneKind("axial", 0, 1, 2, False, ("R", "L", "A", "P"))
CORONAL = PlaneKind("coronal", 1, 0, 2, True, ("R", "L", "H", "F"))
SAGITTAL = PlaneKind("sagittal", 2, 0, 1, True, ("A", "P", "H", "F"))
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True, slots=True)
class Frame:
    """Which part of a plane a view shows: its centre (canonical index), its pixels and their edge in mm."""

    centre_zyx: tuple[float, float, float]
    height: int
    width: int
    step_mm: float

    @classmethod
    def square(cls, centre_zyx: tuple[float, float, float], field_mm: float, pixels: int) -> Frame:
        """A square field around a point."""
        return cls(centre_zyx, pixels, pixels, field_mm / pixels)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One picture: float32 HU ``(height, width)`` and where it lies."""

    kind: PlaneKind
    frame: Frame
    hu: NDArray[np.float32]
    geometry: Geometry

    def pixels_of(self, index_zyx: ArrayLike) -> Polygon:
        """(column, row) of canonical indices ``(..., 3)``."""
        index = np.asarray(index_zyx, dtype=float)
        matrix = _pixel_to_index(self.kind, self.frame, self.geometry)
        columns = (index[..., self.kind.columns] - matrix[0, 2]) / matrix[0, 0]
        rows = (index[..., self.kind.rows] - matrix[1, 2]) / matrix[1, 1]
        return np.stack([columns, rows], axis=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Anatomy:
    """The canonical scan with its lungs: what all views are cut from."""

    scan: Scan
    lungs: NDArray[np.uint8]
    lung_box: Box
    """The box of the lungs; the whole scan where there are none."""
    clearer: ViewSettings
    """How the clearer pictures are made."""

    @classmethod
    def of(cls, result: ScanResult, settings: Settings | None = None) -> Anatomy:
        """Bring scan and lung labels into canonical order."""
        scan, lungs = result.scan.canonical(), result.lungs
        if scan is not result.scan:
            lungs = _canonical(lungs, result.scan.geometry).hu.astype(np.uint8)
        return cls(scan, lungs, _lung_box(lungs), settings.view if settings else ViewSettings())

    def index_of(self, nodule: Nodule) -> tuple[float, float, float]:
        """Canonical fractional index of a nodule."""
        z, y, x = (float(i) for i in self.scan.geometry.to_index(nodule.position_xyz_mm))
        return (z, y, x)

    def plane(self, kind: PlaneKind, frame: Frame) -> View:
        """The voxels of the nearest slice through the frame's centre, interpolated in the plane."""
        k = int(np.clip(np.rint(frame.centre_zyx[kind.through]), 0, self.scan.hu.shape[kind.through] - 1))
        flat = np.take(self.scan.hu, k, axis=kind.through)
        return View(kind, frame, _resampled(flat, kind, frame, self.scan.geometry), self.scan.geometry)

    def outline(self, view: View, nodule: Nodule, scan_geometry: Geometry) -> list[Polygon]:
        """Where the plane of a view cuts a nodule's mask.

        Parameters
        ----------
        scan_geometry : of the original scan, on whose grid the mask lies.
        """
        if nodule.mask is None:
            return []
        mask = _canonical(nodule.mask.mask, scan_geometry.cropped(nodule.mask.box))
        start = np.rint(self.scan.geometry.to_index(mask.geometry.to_world((0, 0, 0)))).astype(int)
        through = view.kind.through
        k = int(np.rint(view.frame.centre_zyx[through])) - int(start[through])
        if not 0 <= k < mask.hu.shape[through]:
            return []
        # one voxel of margin, so that the border closes inside the array
        flat = np.pad(np.take(mask.hu, k, axis=through), 1)
        centre = np.asarray(view.frame.centre_zyx) - start + 1
        frame = Frame((centre[0], centre[1], centre[2]), view.frame.height, view.frame.width, view.frame.step_mm)
        soft = _resampled(flat, view.kind, frame, self.scan.geometry, outside=0.0)
        # voxels are many pixels wide here: half a voxel of blur takes the stairs off and moves the border little
        across, down = (
            max(0.4 * self.scan.geometry.spacing_zyx_mm[a] / frame.step_mm, 0.3)
            for a in (view.kind.columns, view.kind.rows)
        )
        return contours(cv2.GaussianBlur(soft, (0, 0), across, sigmaY=down) >= 0.5)


def contours(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Outer borders of a 2-D mask as smoothed polygons of at least 4 pixels across."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    shapes = (cv2.approxPolyDP(c, 0.6, closed=True)[:, 0].astype(float) for c in found if len(c) >= 8)
    return [s for s in shapes if len(s) >= 3]


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A maximum-intensity projection of the lungs alone, and the lungs' shadow in it."""

    view: View
    shadow: list[Polygon]


def lung_projections(anatomy: Anatomy, result: ScanResult, step_mm: float) -> tuple[Projection, ...]:
    """Axial, coronal and sagittal projection of the lungs with the same scale, 6 mm free on each side.

    Left out are bones and chest wall (outside the lungs), the rim of the lungs (wall that shares its voxels) and
    what is too thick to lie in a lung, such as the dome of the liver that it surrounds. The nodules
    that were outlined are always in.
    """
    box = anatomy.lung_box
    start = np.array([b.start for b in box])
    geometry = anatomy.scan.geometry
    spacing = geometry.spacing_zyx_mm
    shown = _shown(anatomy)
    for nodule in result.nodules:
        if nodule.mask is not None:
            _put(shown, _canonical(nodule.mask.mask, result.scan.geometry.cropped(nodule.mask.box)), geometry, start)
    flats = _maxima(anatomy.scan.hu[box], shown)
    made = []
    middle = tuple((n - 1) / 2 for n in shown.shape)
    for kind, flat in zip(PLANES, flats, strict=True):
        height, width = (
            int(np.ceil((shown.shape[a] * spacing[a] + 12.0) / step_mm)) for a in (kind.rows, kind.columns)
        )
        local = Frame((middle[0], middle[1], middle[2]), height, width, step_mm)
        pixels = _resampled(flat, kind, local, geometry)
        lungs = np.bitwise_or.reduce(anatomy.lungs[box], axis=kind.through) != 0
        shadow = _resampled(lungs.view(np.uint8), kind, local, geometry, outside=0.0) >= 0.5
        z, y, x = (float(m) for m in np.add(middle, start))
        view = View(kind, Frame((z, y, x), height, width, step_mm), pixels, geometry)
        made.append(Projection(view, contours(shadow)))
    return tuple(made)


def _shown(anatomy: Anatomy) -> NDArray[np.uint8]:
    """Where a projection looks, in the lungs' box: 1 inside the lungs but for their rim and thick solid parts."""
    hu, lungs = anatomy.scan.hu[anatomy.lung_box], anatomy.lungs[anatomy.lung_box]
    if not lungs.any():
        return np.ones(lungs.shape, np.uint8)
    spacing = anatomy.scan.geometry.spacing_xyz_mm
    rim = _disc(_RIM_MM, spacing[0], spacing[1])
    coarse = max(1, round(3.0 / min(spacing[:2])))
    thick = _disc(_THICK_MM, spacing[0] * coarse, spacing[1] * coarse)
    shown = np.empty(lungs.shape, np.uint8)
    size = (lungs.shape[2], lungs.shape[1])

    def one(k: int) -> None:
        inside = cv2.erode(np.minimum(lungs[k], 1), rim)
        dense = np.logical_and(hu[k, ::coarse, ::coarse] > _DENSE_HU, lungs[k, ::coarse, ::coarse]).astype(np.uint8)
        core = cv2.morphologyEx(dense, cv2.MORPH_OPEN, thick)
        if core.any():
            core = cv2.resize(cv2.dilate(core, np.ones((3, 3), np.uint8)), size, interpolation=cv2.INTER_NEAREST)
            inside &= 1 - core
        shown[k] = inside

    in_threads(one, len(lungs))
    return shown


def _put(shown: NDArray[np.uint8], mask: Scan, geometry: Geometry, start: NDArray[np.int_]) -> None:
    """Add a nodule's mask (canonical) to the voxels that are shown."""
    first = np.rint(geometry.to_index(mask.geometry.to_world((0, 0, 0)))).astype(int) - start
    low = np.maximum(first, 0)
    high = np.minimum(first + mask.hu.shape, shown.shape)
    if np.any(high <= low):
        return
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))
    shown[target] |= mask.hu[source].astype(np.uint8)


def _maxima(hu: HuVolume, shown: NDArray[np.uint8]) -> tuple[HuVolume, HuVolume, HuVolume]:
    """Largest HU of the shown voxels along z, y and x; air where there are none."""
    depth, height, width = hu.shape
    axial = np.full((height, width), AIR_HU, np.int16)
    coronal, sagittal = np.empty((depth, width), np.int16), np.empty((depth, height), np.int16)
    masked = np.empty(hu.shape, np.int16)

    def one(k: int) -> None:
        masked[k] = np.where(shown[k], hu[k], AIR_HU)
        cv2.reduce(masked[k], 0, cv2.REDUCE_MAX, dst=coronal[k : k + 1])
        cv2.reduce(masked[k], 1, cv2.REDUCE_MAX, dst=sagittal[k].reshape(height, 1))

    in_threads(one, depth)
    np.maximum.reduce(masked, axis=0, out=axial)
    return axial, coronal, sagittal


def _lung_box(lungs: NDArray[np.uint8]) -> Box:
    """The smallest box that holds all labels; the whole scan where there are none."""
    # one pass over the volume: afterwards only the box of the axial shadow is looked at
    shadow = np.bitwise_or.reduce(lungs, axis=0)
    if not shadow.any():
        z, y, x = (slice(0, n) for n in lungs.shape)
        return (z, y, x)
    y, x = (slice(int(s[0]), int(s[-1]) + 1) for s in (np.flatnonzero(shadow.any(axis=a)) for a in (1, 0)))
    deep = np.flatnonzero(lungs[:, y, x].any(axis=(1, 2)))
    return (slice(int(deep[0]), int(deep[-1]) + 1), y, x)


def _disc(radius_mm: float, column_mm: float, row_mm: float) -> NDArray[np.uint8]:
    """An ellipse of pixels that is a disc in mm."""
    size = (2 * round(radius_mm / column_mm) + 1, 2 * round(radius_mm / row_mm) + 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size), dtype=np.uint8)


def _canonical(labels: NDArray[np.generic], geometry: Geometry) -> Scan:
    return Scan(labels.astype(np.int16), geometry, ScanSource("", "labels")).canonical()


def _pixel_to_index(kind: PlaneKind, frame: Frame, geometry: Geometry) -> NDArray[np.float64]:
    """2×3 matrix from (column, row) of a view to (column, row) of the plane's array."""
    spacing = geometry.spacing_zyx_mm
    per_column = frame.step_mm / spacing[kind.columns]
    per_row = (-1.0 if kind.flipped else 1.0) * frame.step_mm / spacing[kind.rows]
    first_column = frame.centre_zyx[kind.columns] - per_column * (frame.width - 1) / 2
    first_row = frame.centre_zyx[kind.rows] - per_row * (frame.height - 1) / 2
    return np.array([[per_column, 0.0, first_column], [0.0, per_row, first_row]])


def _resampled(
    flat: NDArray[np.generic], kind: PlaneKind, frame: Frame, geometry: Geometry, outside: float = AIR_HU
) -> NDArray[np.float32]:
    """A plane's array on the pixels of a frame: cubic for HU, linear for masks (``outside`` = 0)."""
    matrix = _pixel_to_index(kind, frame, geometry)
    corners = matrix @ np.array([[0.0, frame.width - 1], [0.0, frame.height - 1], [1.0, 1.0]])
    low = np.clip(np.floor(corners.min(axis=1)).astype(int) - 2, 0, None)
    high = np.ceil(corners.max(axis=1)).astype(int) + 3
    part = flat[low[1] : max(high[1], low[1]), low[0] : max(high[0], low[0])].astype(np.float32)
    if part.size == 0:
        return np.full((frame.height, frame.width), outside, np.float32)
    matrix[:, 2] -= low
    how = cv2.INTER_CUBIC if outside else cv2.INTER_LINEAR
    made = cv2.warpAffine(
        part,
        matrix,
        (frame.width, frame.height),
        flags=how | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=outside,
    )
    return np.asarray(made, dtype=np.float32)
