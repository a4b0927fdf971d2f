"""Outline and size of one nodule by classical image analysis.

A cube around the point is resampled to isotropic voxels and thresholded between the nodule's own
density and that of the lung around it, so that solid and ground-glass nodules both get a border half
way up their edge. Chest wall, mediastinum and large vessels are whatever can hold a ball larger than
the nodule (the opening of Kuhnigk et al., IEEE TMI 25(4):417-434, 2006); thin vessels fall to a small
opening. Diameters are the long axis and the one across it on the axial section of largest area
(Fleischner Society, Bankier et al., Radiology 285(2):584-600, 2017).

The intervals hold two things: how much the answer moves when threshold and opening move, and what is
left against radiologists' outlines (`noduscope.sizes`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.findings import Diameter, Interval, NoduleMask
from noduscope.scan import Box, Geometry, Scan, Triple
from noduscope.sizes import reader_interval

Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]

SMALLEST_HINT_MM, LARGEST_HINT_MM = 3.0, 80.0
"""Hints outside are clipped: a smaller nodule is not measurable, a larger one not a nodule."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What `measure_nodule` found."""

    mask: NoduleMask
    diameter_mm: Diameter
    volume_mm3: Interval


@dataclass(frozen=True, slots=True)
class _Recipe:
    """How a cube is outlined; lengths are shares of the expected diameter unless in mm."""

    level: float = 0.42
    """Border between lung (0) and core (1)."""
    opening: float = 0.15
    """Radius of the opening that cuts vessels."""
    wall: float = 0.88
    """Radius of the ball that only wall and mediastinum can hold."""
    reach: float = 0.77
    """Nothing beyond this radius belongs to the nodule."""


_RECIPE = _Recipe()
_VARIANTS = (
    replace(_RECIPE, level=_RECIPE.level - 0.12),
    replace(_RECIPE, level=_RECIPE.level + 0.12),
    replace(_RECIPE, opening=_RECIPE.opening * 1.5),
)

_SOFT_TISSUE_HU, _AERATED_HU, _LUNG_HU = 60.0, -600.0, -860.0
_LEAST_CONTRAST_HU = 90.0


def measure_nodule(
    scan: Scan, position_xyz_mm: Triple, diameter_hint_mm: float, lungs: NDArray[np.uint8] | None = None
) -> Measured | None:
    """Outline the nodule at a point and measure it.

    Parameters
    ----------
    scan : a canonical scan (`Scan.canonical`): axial sections are its ``hu[z]``.
    position_xyz_mm : LPS point in the nodule, near its centre.
    diameter_hint_mm : rough diameter, within about a factor of 1.5; sets the scale of all filters.
    lungs : uint8 ``(z, y, x)`` on the scan's grid, nonzero in the lungs; cuts the chest wall off
        where it holds the point. Without it the wall is found by its thickness.

    Returns
    -------
    The mask on the scan's grid, diameters and volume in mm and mm³ with 95 % intervals, or None where
    nothing denser than its surroundings can be outlined (or the point lies outside the volume).
    """
    position = np.asarray(position_xyz_mm, dtype=float)
    if not np.all(np.isfinite(position)) or not scan.geometry.contains(position):
        return None
    hint = float(np.clip(diameter_hint_mm, SMALLEST_HINT_MM, LARGEST_HINT_MM))
    cube = _Cube.sample(scan, scan.geometry.to_index(position), hint, lungs)
    if cube is None:
        return None
    soft = cube.outline(_RECIPE)
    if soft is None:
        return None
    mask = cube.on_scan_grid(soft)
    if mask is None:
        return None
    long, short = axial_axes_mm(soft, cube.step_mm)
    volume = float(soft.sum()) * cube.step_mm**3
    spread_d, spread_v = _spread(cube, (long + short) / 2, volume)
    mean = (long + short) / 2
    reach = reader_interval("diameter", mean, mean, spread_d)
    diameter = Diameter(mean, long, short, reach.low, reach.high)
    return Measured(mask, diameter, reader_interval("volume", volume, mean, spread_v))


def axial_axes_mm(mask: NDArray[np.float32] | Bools, step_mm: float) -> tuple[float, float]:
    """Long axis and the extent across it, mm, on the axial section of largest area.

    Parameters
    ----------
    mask : ``(z, y, x)``; bool, or float 0 to 1 whose border lies at 0.5. Square pixels of ``step_mm``.

    Examples
    --------
    A disc of radius 10 pixels, each 0.5 mm wide:

    >>> y, x = np.ogrid[-12:13, -12:13]
    >>> long, short = axial_axes_mm((y**2 + x**2 <= 100)[None], 0.5)
    >>> round(long), round(short)
    (10, 10)
    """
    section = np.asarray(mask[int(np.argmax(mask.sum(axis=(1, 2))))], dtype=np.float32)
    fine = 4  # a border between pixels is found to a quarter of one
    section = cv2.resize(np.pad(section, 1), None, fx=fine, fy=fine, interpolation=cv2.INTER_LINEAR)
    y, x = np.nonzero(section >= 0.5)
    if x.size == 0:
        return 0.0, 0.0
    hull = cv2.convexHull(np.stack([x, y], axis=1).astype(np.int32))[:, 0].astype(float)
    angles = np.deg2rad(np.arange(0.0, 180.0, 2.0))
    along = hull @ np.stack([np.cos(angles), np.sin(angles)])
    # a pixel reaches half its edge beyond its centre on both sides
    edge = np.maximum(np.abs(np.cos(angles)), np.abs(np.sin(angles)))
    width = along.max(axis=0) - along.min(axis=0) + edge
    longest = int(np.argmax(width))
    across = (longest + width.size // 2) % width.size
    scale = step_mm / fine
    return float(width[longest] * scale), float(width[across] * scale)


def _spread(cube: _Cube, diameter_mm: float, volume_mm3: float) -> tuple[float, float]:
    """Standard deviation of log diameter and log volume over the variants of the recipe."""
    diameters, volumes = [0.0], [0.0]
    for recipe in _VARIANTS:
        soft = cube.outline(recipe)
        if soft is not None:
            diameters.append(float(np.log(sum(axial_axes_mm(soft, cube.step_mm)) / 2 / diameter_mm)))
            volumes.append(float(np.log(float(soft.sum()) * cube.step_mm**3 / volume_mm3)))
    return float(np.std(diameters)), float(np.std(volumes))


@dataclass(frozen=True, slots=True, eq=False)
class _Cube:
    """Isotropic surroundings of one point."""

    hu: Floats
    inside: Bools
    """Voxels that lie in the volume, and in the lungs where those are known."""
    step_mm: float
    hint_mm: float
    centre_zyx: tuple[float, float, float]
    """Fractional scan index of the middle voxel."""
    geometry: Geometry
    seed: tuple[int, int, int]
    core_hu: float
    lung_hu: float
    solid: Bools
    """Wall, mediastinum, heart: what holds a ball larger than the nodule."""

    @classmethod
    def sample(
        cls, scan: Scan, index_zyx: NDArray[np.float64], hint_mm: float, lungs: NDArray[np.uint8] | None
    ) -> _Cube | None:
        """Resample around an index; None where the point is no denser than the lung around it."""
        step = float(np.clip(hint_mm / 16, 0.5, 2.5))
        half = int(np.ceil((_RECIPE.reach * hint_mm + 3.0) / step))
        offsets = np.arange(-half, half + 1) * step
        axes = [
            _Axis.make(c + offsets / s, n)
            for c, s, n in zip(index_zyx, scan.geometry.spacing_zyx_mm, scan.geometry.shape_zyx, strict=True)
        ]
        hu = _separable(scan.hu, axes)
        inside = axes[0].inside[:, None, None] & axes[1].inside[:, None] & axes[2].inside
        if lungs is not None:
            in_lungs = _separable(lungs, axes) > 0.3
            if in_lungs[half, half, half]:
                inside &= in_lungs
        seed = _seed(hu, inside, hint_mm / step)
        core, lung = _levels(hu, inside, seed, hint_mm / step)
        if core - lung < _LEAST_CONTRAST_HU:
            return None
        z, y, x = (float(c) for c in index_zyx)
        solid = _solid(hu > (core + lung) / 2, _RECIPE.wall * hint_mm / step, seed)
        return cls(hu, inside, step, hint_mm, (z, y, x), scan.geometry, seed, core, lung, solid)

    def outline(self, recipe: _Recipe) -> Floats | None:
        """The nodule as a soft mask on the cube, or None."""
        level = self.lung_hu + recipe.level * (self.core_hu - self.lung_hu)
        reach = recipe.reach * self.hint_mm / self.step_mm
        dense = (self.hu > level) & self.inside & ~self.solid & (_squared_radius(self.hu.shape, self.seed) <= reach**2)
        radius = recipe.opening * self.hint_mm / self.step_mm
        body = _body(dense, radius, self.seed)
        if body is None:
            return None
        soft = np.clip(0.5 + (self.hu - level) / (self.core_hu - self.lung_hu), 0.0, 1.0) * _dilate(body, 1.0)
        return np.asarray(np.where(body, np.maximum(soft, 0.5), np.minimum(soft, 0.49) * self.inside), dtype=np.float32)

    def on_scan_grid(self, soft: Floats) -> NoduleMask | None:
        """The outline on the scan's own voxels, in its tight box; None where it holds no voxel centre."""
        axes, starts = [], []
        for c, s, n, size in zip(
            self.centre_zyx, self.geometry.spacing_zyx_mm, self.geometry.shape_zyx, soft.shape, strict=True
        ):
            half = (size // 2) * self.step_mm / s
            start, stop = max(0, int(np.ceil(c - half))), min(n, int(np.floor(c + half)) + 1)
            at = (np.arange(start, stop) - c) * s / self.step_mm + size // 2
            axes.append(_Axis.make(at, size))
            starts.append(start)
        mask = _separable(soft, axes) >= 0.5
        box = _tight_box(mask)
        if box is None:
            return None
        z, y, x = (slice(b + s.start, b + s.stop) for b, s in zip(starts, box, strict=True))
        return NoduleMask((z, y, x), np.ascontiguousarray(mask[box]))


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """Where the samples of one axis lie: between ``lower`` and the voxel after it, counted from ``start``."""

    start: int
    stop: int
    lower: NDArray[np.intp]
    share: Floats
    inside: Bools

    @classmethod
    def make(cls, at: NDArray[np.float64], size: int) -> _Axis:
        """Positions ``at``, in voxels and ascending, on an axis of ``size`` voxels; beyond its ends it repeats."""
        clamped = np.clip(at, 0, size - 1)
        lower = np.clip(np.floor(clamped).astype(np.intp), 0, max(size - 2, 0))
        start, stop = int(lower[0]), min(size, int(lower[-1]) + 2)
        share = (clamped - lower).astype(np.float32)
        return cls(start, stop, lower - start, share, (at >= -0.5) & (at <= size - 0.5))

    def apply(self, block: Floats, axis: int) -> Floats:
        """Interpolate along an axis of a block cut from ``start`` to ``stop``."""
        low = block.take(self.lower, axis)
        high: Floats = block.take(np.minimum(self.lower + 1, block.shape[axis] - 1), axis)
        high -= low
        high *= self.share.reshape([-1 if a == axis else 1 for a in range(3)])
        high += low
        return high


def _separable(values: NDArray[np.uint8] | NDArray[np.int16] | Floats, axes: list[_Axis]) -> Floats:
    """Interpolate a volume along its three axes; labels (uint8) count as 1 whatever their number."""
    block = values[tuple(slice(a.start, a.stop) for a in axes)]
    made: Floats = (block > 0 if block.dtype == np.uint8 else block).astype(np.float32)
    for number, axis in enumerate(axes):
        made = axis.apply(made, number)
    return made


def _squared_radius(shape: tuple[int, ...], centre: tuple[int, int, int]) -> Floats:
    """Squared distance of each voxel from a centre, voxels²."""
    z, y, x = ((np.arange(n, dtype=np.float32) - c) ** 2 for n, c in zip(shape, centre, strict=True))
    return z[:, None, None] + y[:, None] + x


def _seed(hu: Floats, inside: Bools, diameter: float) -> tuple[int, int, int]:
    """The densest place near the middle: marks lie a little off, the nodule's core is where it is densest."""
    half = hu.shape[0] // 2
    reach = max(1, round(0.3 * diameter))
    near = (slice(half - reach, half + reach + 1),) * 3
    dense = np.clip(hu[near], -1000, _SOFT_TISSUE_HU)
    for axis in range(3):
        dense = _box_mean(dense, axis, max(1, int(diameter * 0.12)))
    r2 = _squared_radius(dense.shape, (reach, reach, reach))
    score = np.where(inside[near], (dense + 1000) * np.exp(-0.5 * r2 / (0.25 * diameter) ** 2), -1.0)
    z, y, x = (int(i) + half - reach for i in np.unravel_index(int(np.argmax(score)), score.shape))
    return z, y, x


def _box_mean(values: Floats, axis: int, reach: int) -> Floats:
    """Running mean over ``2 reach + 1`` voxels along an axis, borders repeated."""
    width = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
    padded = np.pad(values, width, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis).mean(axis=-1))


def _levels(hu: Floats, inside: Bools, seed: tuple[int, int, int], diameter: float) -> tuple[float, float]:
    """HU of the nodule's core and of the lung around it."""
    r2 = _squared_radius(hu.shape, seed)
    core = float(np.median(hu[r2 <= max(1.0, 0.2 * diameter) ** 2]))
    around = hu[(r2 > (0.5 * diameter) ** 2) & inside]
    aerated = around[around < _AERATED_HU]
    lung = float(np.median(aerated)) if aerated.size > 0.02 * hu.size else _LUNG_HU
    # calcium and contrast medium must not lift the border into the nodule
    return min(core, _SOFT_TISSUE_HU), lung


def _solid(dense: Bools, radius: float, seed: tuple[int, int, int]) -> Bools:
    """Where a ball of ``radius`` voxels fits into the dense part; empty when the seed itself is there.

    Done at half resolution: the ball is large and its border falls into the nodule's small opening.
    """
    coarse = dense[::2, ::2, ::2]
    reach = radius / 2
    pad = int(np.ceil(reach))
    padded = np.pad(coarse, pad, mode="edge")
    opened = _dilate(_erode(padded, reach), reach)[pad:-pad, pad:-pad, pad:-pad]
    full = opened.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: dense.shape[0], : dense.shape[1], : dense.shape[2]]
    return np.zeros_like(dense) if full[seed] else full


def _body(dense: Bools, radius: float, seed: tuple[int, int, int]) -> Bools | None:
    """The part at the seed after an opening, grown back to its border but not along its branches."""
    box = _tight_box(dense)
    if box is None:
        return None
    tight = np.pad(dense[box], 1)
    at = (seed[0] - box[0].start + 1, seed[1] - box[1].start + 1, seed[2] - box[2].start + 1)
    for share in (1.0, 0.5, 0.0):
        kept = _erode(tight, share * radius) if share else tight
        start = _nearest(kept, at, max(1.5, 2 * radius))
        if start is not None:
            core = _connected(kept, start)
            body = np.zeros_like(dense)
            body[box] = (_dilate(core, share * radius + 1.0) & tight if share else core)[1:-1, 1:-1, 1:-1]
            return body
    return None


def _tight_box(mask: Bools) -> Box | None:
    """The smallest box that holds a mask; None for an empty one."""
    spans = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not spans[0].size:
        return None
    z, y, x = (slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    return z, y, x


def _nearest(mask: Bools, point: tuple[int, int, int], within: float) -> tuple[int, int, int] | None:
    """The voxel of a mask nearest to a point, or None beyond ``within`` voxels."""
    places = np.argwhere(mask)
    if not len(places):
        return None
    away = ((places - point) ** 2).sum(axis=1)
    best = int(np.argmin(away))
    z, y, x = (int(v) for v in places[best])
    return (z, y, x) if away[best] <= within**2 else None


def _connected(mask: Bools, start: tuple[int, int, int]) -> Bools:
    """The face-connected component of a mask at a voxel: growth by one voxel until nothing changes."""
    grown = np.zeros_like(mask)
    grown[start] = True
    # both ways along each axis: views, so that growth lands in `grown`
    pairs = [((slice(None),) * a + (slice(1, None),), (slice(None),) * a + (slice(None, -1),)) for a in range(3)]
    pairs += [(low, high) for high, low in pairs]
    steps = [(grown[to], grown[at], mask[to]) for to, at in pairs]
    count = 0
    while (now := int(np.count_nonzero(grown))) != count:
        count = now
        for target, source, allowed in steps:
            np.logical_or(target, source & allowed, out=target)
    return grown


def _dilate(mask: Bools, radius: float) -> Bools:
    """Dilation by a ball: exact squared distances up to the radius, one axis at a time.

    For a cube of a few thousand voxels this is several times quicker than the threaded, slice-wise
    `noduscope.morphology.dilate`, which is made for whole scans.
    """
    reach = int(radius)
    limit = np.int16(min(radius * radius, 30_000))
    far = np.int16(30_000)
    squared = np.where(mask, np.int16(0), far)
    for axis in range(3):
        source = np.moveaxis(squared, axis, 0)
        target = source.copy()
        for step in range(1, reach + 1):
            extra = np.int16(step * step)
            np.minimum(target[step:], source[:-step] + extra, out=target[step:])
            np.minimum(target[:-step], source[step:] + extra, out=target[:-step])
        squared = np.moveaxis(target, 0, axis)
    return np.asarray(squared <= limit)


def _erode(mask: Bools, radius: float) -> Bools:
    """Erosion by a ball; beyond the border the mask is taken to go on."""
    return ~_dilate(~mask, radius)
