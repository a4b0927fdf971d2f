"""Where a point of an earlier scan lies in a later one: the lungs of one patient, registered.

Breath depth moves lung tissue by centimetres and the lungs slide along the chest wall, so that a rigid
alignment alone does not tell one nodule from its neighbour. Here both lungs are cut out of their scans
(what is outside is one flat value: ribs cannot hold the lungs back), laid on each other rigidly, and then
deformed by demons with symmetric forces [1]_ from coarse to fine. Lung density changes with the breath;
the images are therefore scaled from each scan's own parenchyma (0) to vessels (1) before.

The result is plain arrays: it maps points both ways without the libraries that made it.

References
----------
.. [1] T. Vercauteren et al., "Diffeomorphic demons: efficient non-parametric image registration",
   NeuroImage 45(1):S61-S72, 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.errors import InputRefused
from noduscope.lungs import Lungs
from noduscope.preprocess import resample
from noduscope.scan import Geometry, Points, Scan, ScanWarning
from noduscope.settings import RegistrationSettings

Floats: TypeAlias = NDArray[np.float32]

_MARGIN_MM = 20.0
"""Kept around the prior lungs, so that lungs which reach further in the other scan are seen."""
_VESSEL_HU, _OUTSIDE = -200.0, 0.6
"""HU that maps to 1; the value outside the lungs: bright enough to align the pleura, below the vessels."""
_RIGID_LEVELS_MM = (10.0, 5.0)
_INVERSE_STEPS, _INVERSE_MM = 60, 0.02


@dataclass(frozen=True, slots=True)
class RegistrationQuality:
    """How well two scans came to lie on each other, inside the prior's lungs.

    Parameters
    ----------
    residual_mm, residual_p95_mm : median and 95th percentile of the shift that matching small blocks
        around vessels and other structures still finds after the registration.
    overlap : Dice of the two lung masks, 0 to 1.
    correlation : correlation of the two images, -1 to 1.
    folded : share of the lungs where the map turns inside out (Jacobian determinant of at most 0).
    jacobian_low, jacobian_high : 1st and 99th percentile of the determinant: local change of volume.
    """

    residual_mm: float
    residual_p95_mm: float
    overlap: float
    correlation: float
    folded: float
    jacobian_low: float
    jacobian_high: float


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A map from the prior scan's space to the current one's.

    A point goes to ``matrix @ (point + displacement(point)) + shift_xyz_mm``.

    Parameters
    ----------
    matrix : 3×3 rotation. shift_xyz_mm : shape (3,).
    displacement_xyz_mm : float32 ``(z, y, x, 3)``, LPS mm, on `geometry`; beyond it its edge goes on.
    geometry : a grid in the prior's space, axes along LPS.
    quality : how good it is.
    warnings : coded, when it is poor.
    """

    matrix: NDArray[np.float64]
    shift_xyz_mm: NDArray[np.float64]
    displacement_xyz_mm: Floats
    geometry: Geometry
    quality: RegistrationQuality
    warnings: tuple[ScanWarning, ...] = ()

    def map(self, points_xyz_mm: ArrayLike) -> Points:
        """Prior to current, LPS mm, shape ``(..., 3)``."""
        points = np.asarray(points_xyz_mm, dtype=float)
        return np.asarray((points + self._displaced(points)) @ self.matrix.T + self.shift_xyz_mm)

    def inverse(self, points_xyz_mm: ArrayLike) -> Points:
        """Current to prior, LPS mm, shape ``(..., 3)``; undoes `map` to 0.1 mm where it does not fold."""
        target = (np.asarray(points_xyz_mm, dtype=float) - self.shift_xyz_mm) @ self.matrix
        found = target - self._displaced(target)
        # fixed-point iteration; halved steps converge where the displacement changes faster than the place, too
        for step in range(_INVERSE_STEPS):
            miss = found + self._displaced(found) - target
            if float(np.abs(miss).max(initial=0.0)) < _INVERSE_MM:
                break
            found = found - miss * (1.0 if step < _INVERSE_STEPS // 3 else 0.5)
        return np.asarray(found)

    def _displaced(self, points: Points) -> Points:
        """The displacement at points, interpolated linearly."""
        return sample_linear(self.displacement_xyz_mm, self.geometry.to_index(points))


def sample_linear(values: NDArray[np.generic], index_zyx: Points) -> NDArray[np.float64]:
    """A field ``(z, y, x, ...)`` at fractional indices ``(..., 3)``, interpolated linearly; its edge goes on.

    Examples
    --------
    >>> sample_linear(np.arange(8.0).reshape(2, 2, 2), np.array([[0.5, 0.5, 0.5], [9, 0, 0]])).tolist()
    [3.5, 4.0]
    """
    size = np.asarray(values.shape[:3])
    place = np.clip(index_zyx, 0, size - 1)
    low = np.minimum(place.astype(int), np.maximum(size - 2, 0))
    share = place - low
    high = np.minimum(low + 1, size - 1)
    made = 0.0
    tail = (1,) * (values.ndim - 3)
    for corner in np.ndindex(2, 2, 2):
        at = [np.where(c, high[..., a], low[..., a]) for a, c in enumerate(corner)]
        weight = np.prod([share[..., a] if c else 1 - share[..., a] for a, c in enumerate(corner)], axis=0)
        made = made + weight.reshape(*weight.shape, *tail) * values[at[0], at[1], at[2]]
    return np.asarray(made, dtype=float)


def register_lungs(
    prior: Scan, current: Scan, prior_lungs: Lungs, current_lungs: Lungs, settings: RegistrationSettings
) -> Registration:
    """Find where each point of the prior scan's lungs lies in the current scan.

    The same scans and settings give the same map: no random samples are drawn, and every voxel counts.

    Parameters
    ----------
    prior, current : two scans of one patient, any orientation and spacing.
    prior_lungs, current_lungs : their lungs (`find_lungs`).

    Raises
    ------
    InputRefused
        When one of the lungs' masks is empty.
    """
    import SimpleITK as sitk  # noqa: N813, PLC0415  (a sixth of a second to import)

    fixed, moving = _cut_out(prior, prior_lungs, settings), _cut_out(current, current_lungs, settings)
    grid = _work_grid(prior_lungs, settings.spacing_mm)
    rigid = _rigid(sitk, fixed, moving)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    images = [part.on(sitk, grid, move) for part, move in ((fixed, identity), (moving, rigid))]
    field = _demons(sitk, images[0][0], images[1][0], settings)
    displacement = np.ascontiguousarray(sitk.GetArrayFromImage(field), dtype=np.float32)
    warped = [_warped(sitk, image, field) for image in images[1]]
    arrays = [sitk.GetArrayViewFromImage(i) for i in (*images[0], *warped)]
    shift = np.asarray(rigid.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.stack([np.asarray(rigid.TransformPoint(tuple(e))) - shift for e in np.eye(3)], axis=1)
    quality = _quality(arrays, displacement, grid)
    return Registration(matrix, shift, displacement, grid, quality, _warnings(quality, settings))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The lungs cut out of a scan: float32 ``image`` and ``mask`` (0 or 1) on a coarse grid."""

    image: Floats
    mask: Floats
    geometry: Geometry
    centre_xyz_mm: NDArray[np.float64]

    def on(self, sitk: Any, grid: Geometry, transform: Any) -> tuple[Any, Any]:
        """Image and mask on another grid, as SimpleITK images."""
        target = _itk(sitk, np.zeros(grid.shape_zyx, np.float32), grid)
        pairs = ((self.image, _OUTSIDE), (self.mask, 0.0))
        made = [
            sitk.Resample(_itk(sitk, a, self.geometry), target, transform, sitk.sitkLinear, outside, sitk.sitkFloat32)
            for a, outside in pairs
        ]
        return made[0], made[1]


def _cut_out(scan: Scan, lungs: Lungs, settings: RegistrationSettings) -> _Part:
    """The lungs of a scan on a coarse grid, scaled from its parenchyma (0) to vessels (1)."""
    if not lungs.labels.any():
        raise InputRefused(f"{scan.source.series_uid} has no lungs to register: give a chest CT")
    canonical = scan.canonical()
    part = canonical.cropped(lungs.bounding_box(canonical.geometry, 2 * settings.spacing_mm))
    hu, geometry = resample(part.hu, part.geometry, settings.spacing_mm, average=True)
    inside = lungs.on(geometry) > 0
    parenchyma = float(np.median(hu[inside])) if inside.any() else -850.0
    scaled = np.clip((hu.astype(np.float32) - parenchyma) / (_VESSEL_HU - parenchyma), -0.25, 1.0)
    image = np.where(inside, scaled, np.float32(_OUTSIDE)).astype(np.float32)
    centre = geometry.to_world(np.argwhere(inside).mean(axis=0))
    return _Part(image, inside.astype(np.float32), geometry, centre)


def _work_grid(lungs: Lungs, spacing_mm: float) -> Geometry:
    """An isotropic grid along LPS around the lungs."""
    where = lungs.geometry.to_world(np.argwhere(lungs.labels > 0))
    low, high = where.min(axis=0) - _MARGIN_MM, where.max(axis=0) + _MARGIN_MM
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing_mm) + 1)
    ox, oy, oz = (float(v) for v in low)
    return Geometry((z, y, x), (spacing_mm,) * 3, (ox, oy, oz))


def _itk(sitk: Any, values: Floats, geometry: Geometry) -> Any:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(geometry.spacing_xyz_mm)
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(geometry.direction)
    return image


def _rigid(sitk: Any, fixed: _Part, moving: _Part) -> Any:
    """Rotation and shift: the lungs' centroids first, then all voxels' squared differences."""
    start = sitk.Euler3DTransform()
    start.SetCenter(tuple(fixed.centre_xyz_mm))
    start.SetTranslation(tuple(moving.centre_xyz_mm - fixed.centre_xyz_mm))
    for spacing in _RIGID_LEVELS_MM:
        _optimise(sitk, fixed, moving, start, spacing)
    return start


def _optimise(sitk: Any, fixed: _Part, moving: _Part, transform: Any, spacing_mm: float) -> None:
    """Improve a transform in place: least squared differences of all voxels of this size."""
    identity = sitk.Transform(3, sitk.sitkIdentity)
    z, y, x = (max(2, int(np.ceil(e / spacing_mm))) for e in fixed.geometry.extent_zyx_mm)
    images = [p.on(sitk, p.geometry.resized((z, y, x)), identity)[0] for p in (fixed, moving)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(spacing_mm / 2, 0.01, 80, gradientMagnitudeTolerance=1e-7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(*(sitk.SmoothingRecursiveGaussian(image, spacing_mm / 2) for image in images))


def _demons(sitk: Any, fixed: Any, moving: Any, settings: RegistrationSettings) -> Any:
    """The displacement field from coarse to fine."""
    field = None
    for factor, steps in zip((4, 2, 1), settings.iterations, strict=True):
        pair = [_shrunk(sitk, image, factor) for image in (fixed, moving)]
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(steps)
        # no early stop: its threshold would depend on the order in which threads add up
        demons.SetMaximumRMSError(0.0)
        demons.SetSmoothDisplacementField(True)
        demons.SetStandardDeviations(settings.smoothing_voxels)
        demons.SetSmoothUpdateField(True)
        demons.SetUpdateFieldStandardDeviations(settings.update_smoothing_voxels)
        if field is None:
            field = demons.Execute(*pair)
        else:
            start = sitk.Resample(field, pair[0], sitk.Transform(3, sitk.sitkIdentity), sitk.sitkLinear)
            field = demons.Execute(*pair, start)
    return field


def _shrunk(sitk: Any, image: Any, factor: int) -> Any:
    if factor == 1:
        return image
    smooth = sitk.SmoothingRecursiveGaussian(image, 0.5 * factor * image.GetSpacing()[0])
    return sitk.Shrink(smooth, (factor,) * 3)


def _warped(sitk: Any, image: Any, field: Any) -> Any:
    warp = sitk.DisplacementFieldTransform(sitk.Image(field))
    return sitk.Resample(image, image, warp, sitk.sitkLinear, 0.0, sitk.sitkFloat32)


# --- how good it is ---------------------------------------------------------------------------------

_BLOCK, _SEARCH = 3, 3
"""Half edges of a block and of the search around it, voxels."""
_CELL = 8
"""One block is looked for in every cube of this edge, voxels."""
_LEAST_MATCH, _AS_GOOD = 0.5, 0.05
"""Correlation below which a block was not found again, and says nothing; and difference that says nothing."""


def _quality(arrays: list[Floats], displacement: Floats, grid: Geometry) -> RegistrationQuality:
    """The figures of two images and masks (prior, then current brought there)."""
    fixed, inside, moved, moved_inside = arrays
    own, other = inside >= 0.5, moved_inside >= 0.5
    both = own & other
    overlap = 2.0 * both.sum() / max(1, own.sum() + other.sum())
    correlation = float(np.corrcoef(fixed[both], moved[both])[0, 1]) if both.sum() > 100 else 0.0
    shifts = _block_shifts(np.asarray(fixed), np.asarray(moved), both) * grid.spacing_xyz_mm[0]
    lengths = np.linalg.norm(shifts, axis=1) if len(shifts) else np.full(1, _SEARCH * grid.spacing_xyz_mm[0])
    median, tail = (float(v) for v in np.percentile(lengths, (50, 95)))
    determinant = jacobian_determinant(displacement, grid.spacing_xyz_mm[0])[own]
    low, high = (float(v) for v in np.percentile(determinant, (1, 99)))
    return RegistrationQuality(median, tail, float(overlap), correlation, float((determinant <= 0).mean()), low, high)


def jacobian_determinant(displacement_xyz_mm: Floats, spacing_mm: float) -> Floats:
    """Local volume change of a displacement field ``(z, y, x, 3)`` on an isotropic grid along LPS: 1 is none."""
    slopes = [[np.gradient(displacement_xyz_mm[..., c], spacing_mm, axis=2 - a) for a in range(3)] for c in range(3)]
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = slopes
    xx, yy, zz = xx + 1, yy + 1, zz + 1
    made = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
    return np.asarray(made, dtype=np.float32)


def _block_shifts(fixed: Floats, moved: Floats, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far blocks around bright structures still lie apart, voxels, shape ``(n, 3)`` in (z, y, x)."""
    reach = _BLOCK + _SEARCH
    found = []
    for z, y, x in _landmarks(fixed, inside, reach):
        block = fixed[z - _BLOCK : z + _BLOCK + 1, y - _BLOCK : y + _BLOCK + 1, x - _BLOCK : x + _BLOCK + 1]
        around = moved[z - reach : z + reach + 1, y - reach : y + reach + 1, x - reach : x + reach + 1]
        shift = _best_shift(block, around)
        if shift is not None:
            found.append(shift)
    return np.asarray(found, dtype=float).reshape(-1, 3)


def _landmarks(image: Floats, inside: NDArray[np.bool_], reach: int) -> list[tuple[int, int, int]]:
    """The brightest voxel of each cell that lies inside with its surroundings in the image."""
    score = np.where(inside, image, -1.0)
    for axis in range(3):
        edge = np.moveaxis(score, axis, 0)
        edge[:reach] = edge[max(0, len(edge) - reach) :] = -1.0
    places = []
    for corner in np.ndindex(*(-(-n // _CELL) for n in score.shape)):
        cell = score[tuple(slice(c * _CELL, (c + 1) * _CELL) for c in corner)]
        best = np.unravel_index(int(np.argmax(cell)), cell.shape)
        # a vessel or a nodule, not noise; not the flat value outside the lungs either
        if cell[best] > 0.3:
            z, y, x = (int(c * _CELL + b) for c, b in zip(corner, best, strict=True))
            places.append((z, y, x))
    return places


def _best_shift(block: Floats, around: Floats) -> NDArray[np.float64] | None:
    """Where a block fits best in its surroundings, to a part of a voxel; None where it fits nowhere."""
    windows = np.lib.stride_tricks.sliding_window_view(around, block.shape)
    windows = windows.reshape(*windows.shape[:3], -1)
    pattern = (block - block.mean()).ravel()
    spread = windows.std(axis=-1) * np.float32(np.sqrt(block.size))
    score = (windows @ pattern) / np.maximum(spread * np.linalg.norm(pattern), 1e-6)
    if score.max() < _LEAST_MATCH:
        return None
    # along a vessel many shifts fit alike: the shortest of them
    steps = np.indices(score.shape) - _SEARCH
    length = np.where(score >= score.max() - _AS_GOOD, np.square(steps).sum(axis=0), np.inf)
    best = np.unravel_index(int(np.argmin(length)), score.shape)
    shift = np.asarray(best, dtype=float) - _SEARCH
    for axis, place in enumerate(best):
        if 0 < place < score.shape[axis] - 1:
            below, top, above = (float(score[(*best[:axis], place + d, *best[axis + 1 :])]) for d in (-1, 0, 1))
            bend = below - 2 * top + above
            if top >= max(below, above) and bend < 0:
                shift[axis] += 0.5 * (below - above) / bend
    return shift


def _warnings(quality: RegistrationQuality, settings: RegistrationSettings) -> tuple[ScanWarning, ...]:
    """What a reader must know of a poor registration."""
    reasons = []
    if quality.residual_p95_mm > settings.most_residual_mm:
        reasons.append(f"structures still lie up to {quality.residual_p95_mm:.0f} mm apart")
    if quality.overlap < settings.least_overlap:
        reasons.append(f"the lungs overlap by only {100 * quality.overlap:.0f} %")
    if quality.correlation < settings.least_correlation:
        reasons.append(f"the images correlate by only {quality.correlation:.2f}")
    if quality.folded > settings.most_folded:
        reasons.append(f"the map folds in {100 * quality.folded:.1f} % of the lungs")
    if not reasons:
        return ()
    text = "The two scans could not be laid on each other well: " + ", ".join(reasons)
    return (ScanWarning("registration-poor", text + ". Check every pair by eye."),)
