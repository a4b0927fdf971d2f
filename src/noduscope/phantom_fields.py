"""Signed distance fields (mm, negative inside) that the synthetic chest is built of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noduscope.scan import Geometry, Triple

Field: TypeAlias = NDArray[np.float32]
Axes: TypeAlias = tuple[Field, Field, Field]
"""World x, y, z, shaped to broadcast to ``(z, y, x)``."""
Knots: TypeAlias = tuple[tuple[float, float], ...]
"""(z, value) pairs of a profile along the body."""
Path: TypeAlias = Sequence[tuple[float, float, float]]

FAR_MM = 60.0
"""Distances are clipped to this."""


def grid_axes(geometry: Geometry) -> Axes:
    """World x, y, z of an axis-aligned grid, each shaped to broadcast to ``(z, y, x)``."""
    (nz, ny, nx), (sx, sy, sz), (ox, oy, oz) = geometry.shape_zyx, geometry.spacing_xyz_mm, geometry.origin_xyz_mm
    x = (ox + sx * np.arange(nx, dtype=np.float32))[None, None, :]
    y = (oy + sy * np.arange(ny, dtype=np.float32))[None, :, None]
    z = (oz + sz * np.arange(nz, dtype=np.float32))[:, None, None]
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def tube_points(path: Path, radii: Sequence[float], step_mm: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Points ``(n, 3)`` and radii along a smooth (Catmull-Rom) curve through `path`."""
    p = np.asarray(path, dtype=float)
    ends = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    made, widths = [], []
    for i, (r0, r1) in enumerate(pairwise(radii)):
        a, b, c, d = ends[i : i + 4]
        n = max(2, int(np.ceil(np.linalg.norm(c - b) / step_mm)))
        t = (np.arange(n) / n)[:, None]
        made.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
        widths.append(r0 + (r1 - r0) * t[:, 0])
    return np.vstack([*made, p[-1:]]), np.concatenate([*widths, [radii[-1]]])


def carve_tube(
    field: Field, geometry: Geometry, points: NDArray[Any], radii: NDArray[Any], z_scale: float = 1.0
) -> None:
    """Join a tube to a distance field in place; `z_scale` > 1 makes it taller than wide."""
    stretch = np.array([z_scale, 1.0, 1.0])
    spacing = np.asarray(geometry.spacing_zyx_mm)
    index = geometry.to_index(points)
    for centre, radius in zip(index, radii, strict=True):
        reach = (radius + 8.0) * stretch / spacing
        low = np.maximum(np.floor(centre - reach).astype(int), 0)
        high = np.minimum(np.ceil(centre + reach).astype(int) + 1, field.shape)
        if np.any(high <= low):
            continue
        squares = [
            ((np.arange(lo, hi, dtype=np.float32) - c) * (s / k)) ** 2
            for lo, hi, c, s, k in zip(low, high, centre, spacing, stretch, strict=True)
        ]
        squared = squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
        box = field[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        np.minimum(box, np.sqrt(squared, dtype=np.float32) - np.float32(radius), out=box)


def profile(z: NDArray[Any], knots: Knots) -> Field:
    """A smooth curve through (z, value) knots."""
    zs, values = (np.array(k, dtype=float) for k in zip(*knots, strict=True))
    offsets = np.linspace(-14, 14, 13)
    return np.asarray(sum(np.interp(z + o, zs, values) for o in offsets) / len(offsets), np.float32)


def share_inside(distance: NDArray[Any], width_mm: float) -> Field:
    """Share of a voxel of this width that is inside, 0 to 1."""
    return np.asarray(np.clip(0.5 - distance / width_mm, 0, 1), np.float32)


def smooth_min(a: Field, b: Field, k: float) -> Field:
    """Union of two distance fields, rounded over about k mm (polynomial smooth minimum)."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(0.25 / k), np.float32)


def smooth_max(a: Field, b: Field, k: float) -> Field:
    """Intersection of two distance fields, rounded over about k mm."""
    return -smooth_min(-a, -b, k)


def unit_slope(field: Field, geometry: Geometry) -> Field:
    """A field with the same zero surface whose slope there is 1, so that its values are millimetres."""
    slopes = np.gradient(field, *geometry.spacing_zyx_mm)
    steepness = np.sqrt(sum(s * s for s in slopes))
    return np.asarray(field / np.clip(steepness, 0.4, 2.5), np.float32)


def superellipse(axes: Axes, knots: tuple[Knots, Knots, Knots], power: float) -> Field:
    """Distance to a stack of superellipses whose half axes and y centre follow profiles of z."""
    x, y, z = axes
    a, b, cy = (profile(z, k) for k in knots)
    u, v = np.abs(x / a), np.abs((y - cy) / b)
    total = u**power + v**power + np.float32(1e-6)
    value = total ** np.float32(1 / power)
    # |gradient| of the implicit function, so that value - 1 becomes millimetres
    slope = value / total * np.sqrt((u ** (power - 1) / a) ** 2 + (v ** (power - 1) / b) ** 2)
    return np.asarray(np.clip((value - 1) / np.maximum(slope, 1e-3), -FAR_MM, FAR_MM), np.float32)


def ellipsoid(axes: Axes, ball: tuple[Triple, Triple], half: str = "") -> Field:
    """Distance to an ellipsoid (centre, half axes); with half "upper" it goes on downwards as a cylinder."""
    (x, y, z), (centre, radii) = axes, ball
    dz = z - centre[2]
    if half == "upper":
        dz = np.maximum(dz, 0)
    scaled = [(x - centre[0]) / radii[0], (y - centre[1]) / radii[1], dz / radii[2]]
    k0 = np.sqrt(sum(s * s for s in scaled))
    k1 = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True)))
    return np.asarray(np.clip(k0 * (k0 - 1) / np.maximum(k1, 1e-4), -FAR_MM, FAR_MM), np.float32)


def rise(values: Field, middle: float, width: float) -> Field:
    """A smooth step from 0 to 1."""
    return np.asarray(0.5 + 0.5 * np.tanh((values - np.float32(middle)) / np.float32(width)), np.float32)
