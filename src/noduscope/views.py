"""Planes through a candidate, as the grader sees them.

A view is an axial, coronal or sagittal plane with its two neighbours, resampled to
`GraderSettings.spacing_mm`, the candidate in its middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.settings import GraderSettings

Planes: TypeAlias = NDArray[np.float32]
"""HU of the plane below, the plane, and the plane above: float32 (3, y, x)."""

LARGE_MM = 18.0
"""Marks at least this large fill half of a view; they are judged at half size."""
_AIR, _TISSUE = (-1000.0, 400.0), (100.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Turn:
    """How a view is turned, magnified and shifted in its plane; the default leaves it as it is."""

    angle: float = 0.0
    """Radians."""
    zoom: float = 1.0
    shift_yx_mm: tuple[float, float] = (0.0, 0.0)
    mirrored: bool = False


def encode(planes: Planes) -> NDArray[np.float32]:
    """What the network is given, float32 (y, x, 4): the three planes from air to bone, and the plane's dense range.

    The last channel holds 100 to 1000 HU, where calcium shows and the first three are saturated.
    """
    low, high = _AIR
    dense_low, dense_high = _TISSUE
    soft = np.clip((planes - low) / (high - low), 0.0, 1.0)
    dense = np.clip((planes[1:2] - dense_low) / (dense_high - dense_low), 0.0, 1.0)
    made: NDArray[np.float32] = np.ascontiguousarray(np.concatenate([soft, dense]).transpose(1, 2, 0), np.float32)
    return made


def axial_view(
    hu: NDArray[np.int16],
    spacing_zyx_mm: tuple[float, float, float],
    centre_zyx: tuple[float, float, float],
    settings: GraderSettings,
    turn: Turn | None = None,
    *,
    alone: bool = False,
) -> Planes:
    """The axial plane through a voxel and its neighbours.

    Outside the volume its edge is repeated. With `alone` the plane stands in for its neighbours: what
    lies above and below, or that nothing is known there, is not shown.
    """
    dz = spacing_zyx_mm[0]
    z = centre_zyx[0]
    step = 0.0 if alone else settings.neighbour_mm / dz
    planes = np.stack([_between(hu, z + k * step) for k in (-1, 0, 1)]) if step else _between(hu, z)[None]
    turned = _turned(planes, spacing_zyx_mm[1:], centre_zyx[1:], settings, turn or Turn())
    made: Planes = np.repeat(turned, 3, axis=0) if alone else turned
    return made


def view_of(
    hu: NDArray[np.int16],
    spacing_zyx_mm: tuple[float, float, float],
    centre_zyx: tuple[float, float, float],
    settings: GraderSettings,
    axis: int,
) -> Planes:
    """The plane across an axis (0 axial, 1 coronal, 2 sagittal) through a voxel, with its neighbours."""
    order = [axis, *(a for a in range(3) if a != axis)]
    low, block = _block(hu, spacing_zyx_mm, centre_zyx, settings)
    d, v, u = (spacing_zyx_mm[a] for a in order)
    z, y, x = (centre_zyx[a] - low[a] for a in order)
    return axial_view(block.transpose(order), (d, v, u), (z, y, x), settings)


def _block(
    hu: NDArray[np.int16],
    spacing_zyx_mm: tuple[float, float, float],
    centre_zyx: tuple[float, float, float],
    settings: GraderSettings,
) -> tuple[list[int], NDArray[np.int16]]:
    """The part of a volume that a view in any direction can reach, and its first voxel."""
    reach = settings.view_voxels * settings.spacing_mm / 2
    half = [int(np.ceil(reach / s)) + 2 for s in spacing_zyx_mm]
    middle = [int(np.clip(round(c), 0, n - 1)) for c, n in zip(centre_zyx, hu.shape, strict=True)]
    low = [max(m - h, 0) for m, h in zip(middle, half, strict=True)]
    z, y, x = (slice(a, m + h + 1) for a, m, h in zip(low, middle, half, strict=True))
    return low, hu[z, y, x]


def in_plane(
    values: NDArray[np.generic],
    spacing_yx_mm: tuple[float, float],
    centre_yx: tuple[float, float],
    settings: GraderSettings,
    turn: Turn | None = None,
) -> NDArray[np.float32]:
    """One plane of anything (an outline) under the same turn as its view."""
    made: NDArray[np.float32] = _turned(
        values.astype(np.float32)[None], spacing_yx_mm, centre_yx, settings, turn or Turn()
    )[0]
    return made


def _between(hu: NDArray[np.int16], z: float) -> NDArray[np.float32]:
    """The plane at a fractional slice number."""
    z = min(max(z, 0.0), len(hu) - 1.0)
    first = min(int(z), len(hu) - 1)
    share = z - first
    plane: NDArray[np.float32] = hu[first].astype(np.float32)
    if share > 1e-3:
        plane += np.float32(share) * (hu[first + 1] - plane)
    return plane


def _turned(
    planes: NDArray[np.float32],
    spacing_yx_mm: tuple[float, ...],
    centre_yx: tuple[float, ...],
    settings: GraderSettings,
    turn: Turn,
) -> NDArray[np.float32]:
    size, c, s = settings.view_voxels, np.cos(turn.angle), np.sin(turn.angle)
    zy, zx = (turn.zoom * step / settings.spacing_mm for step in spacing_yx_mm)
    # OpenCV wants (x, y)
    matrix = np.array([[c * zx, s * zy, 0], [-s * zx, c * zy, 0]], dtype=np.float64)
    if turn.mirrored:
        matrix[0] *= -1
    middle = (size - 1) / 2 + np.array(turn.shift_yx_mm[::-1]) / settings.spacing_mm
    matrix[:, 2] = middle - matrix[:, :2] @ (centre_yx[1], centre_yx[0])
    how = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.stack([cv2.warpAffine(p, matrix, (size, size), **how) for p in planes])


def window_index(
    planes: NDArray[np.float32],
    spacing_yx_mm: tuple[float, ...],
    centre_yx: tuple[float, float],
    settings: GraderSettings,
) -> tuple[tuple[int, int], NDArray[np.float32]]:
    """Planes of untouched views back on the volume's own pixels: the first row and column, and the planes."""
    edge, step = planes.shape[-1], settings.spacing_mm
    half = [int(np.floor((edge - 1) / 2 * step / s)) for s in spacing_yx_mm]
    top, left = (int(np.ceil(c - h)) for c, h in zip(centre_yx, half, strict=True))
    rows, columns = (2 * h + 1 for h in half)
    zy, zx = (s / step for s in spacing_yx_mm)
    middle = (edge - 1) / 2
    # where each of our pixels lies on the view, (x, y)
    matrix = np.array([[zx, 0, middle + (left - centre_yx[1]) * zx], [0, zy, middle + (top - centre_yx[0]) * zy]])
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_CONSTANT}
    return (top, left), np.stack([cv2.warpAffine(p, matrix, (columns, rows), **how) for p in planes])
