"""A CT scan in memory: HU values and where they lie in the patient.

This module is the only owner of axis order. Arrays are ``(z, y, x)``; world coordinates are LPS
millimetres ``(x, y, z)`` (DICOM PS3.3 C.7.6.2.1.1: x grows to the patient's left, y to the back,
z to the head). Index coordinates are fractional, the centre of the first voxel is ``(0, 0, 0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.errors import InputRefused

HuVolume: TypeAlias = NDArray[np.int16]
"""Hounsfield units, shape (z, y, x)."""
Points: TypeAlias = NDArray[np.float64]
"""One point per row, shape (..., 3)."""
Triple: TypeAlias = tuple[float, float, float]
Box: TypeAlias = tuple[slice, slice, slice]
"""A box of voxels as (z, y, x) slices with explicit start and stop."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the voxels of a volume lie in the patient.

    Parameters
    ----------
    shape_zyx : number of voxels along each array axis.
    spacing_xyz_mm : distance of neighbouring voxel centres along the x, y and z index axes.
    origin_xyz_mm : LPS position of the centre of voxel (0, 0, 0).
    direction : 3×3, row-major; column j is the LPS unit vector of the x, y, z index axis j.

    Raises
    ------
    InputRefused
        For an empty shape, a spacing that is not a positive finite number, or axes that are not
        orthonormal (tolerance 1e-3): a sheared volume has no single spacing.
    """

    shape_zyx: tuple[int, int, int]
    spacing_xyz_mm: Triple = (1.0, 1.0, 1.0)
    origin_xyz_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what cannot be a volume."""
        if len(self.shape_zyx) != 3 or min(self.shape_zyx) < 1:
            raise InputRefused(f"a volume needs three axes of at least one voxel; got shape {self.shape_zyx}")
        spacing = np.asarray(self.spacing_xyz_mm, dtype=float)
        if spacing.shape != (3,) or not np.all(np.isfinite(spacing)) or spacing.min() <= 0:
            raise InputRefused(f"voxel spacing must be three positive numbers in mm; got {self.spacing_xyz_mm}")
        if len(self.origin_xyz_mm) != 3 or not np.all(np.isfinite(self.origin_xyz_mm)):
            raise InputRefused(f"the volume's origin must be three finite numbers in mm; got {self.origin_xyz_mm}")
        axes = np.asarray(self.direction, dtype=float)
        if axes.shape != (9,) or not np.all(np.isfinite(axes)):
            raise InputRefused("the volume's direction must be a 3×3 matrix of finite numbers")
        axes = axes.reshape(3, 3)
        if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-3):
            raise InputRefused(
                "the volume's axes are not at right angles (a tilted gantry or a sheared affine): "
                "resample it to a rectangular grid first"
            )

    @property
    def axes(self) -> NDArray[np.float64]:
        """3×3 matrix whose columns are the LPS unit vectors of the x, y, z index axes."""
        return np.asarray(self.direction, dtype=float).reshape(3, 3)

    @property
    def spacing_zyx_mm(self) -> Triple:
        """Spacing in array order."""
        x, y, z = self.spacing_xyz_mm
        return (z, y, x)

    @property
    def extent_zyx_mm(self) -> Triple:
        """Edge-to-edge size in array order."""
        z, y, x = (n * s for n, s in zip(self.shape_zyx, self.spacing_zyx_mm, strict=True))
        return (z, y, x)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(np.prod(self.spacing_xyz_mm))

    def to_world(self, index_zyx: ArrayLike) -> Points:
        """LPS mm ``(..., 3)`` in (x, y, z) of fractional indices ``(..., 3)`` in (z, y, x)."""
        index_xyz = np.asarray(index_zyx, dtype=float)[..., ::-1]
        return (index_xyz * self.spacing_xyz_mm) @ self.axes.T + self.origin_xyz_mm

    def to_index(self, position_xyz_mm: ArrayLike) -> Points:
        """Fractional indices ``(..., 3)`` in (z, y, x) of LPS mm ``(..., 3)`` in (x, y, z)."""
        offset = np.asarray(position_xyz_mm, dtype=float) - self.origin_xyz_mm
        # the inverse, not the transpose: the axes may be off orthonormal by rounding in the file
        index_xyz = (offset @ np.linalg.inv(self.axes).T) / self.spacing_xyz_mm
        return np.asarray(index_xyz[..., ::-1])

    def contains(self, position_xyz_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether points ``(..., 3)`` lie inside the volume (to the outer voxel edges)."""
        index = self.to_index(position_xyz_mm)
        inside: NDArray[np.bool_] = np.all((index >= -0.5) & (index <= np.asarray(self.shape_zyx) - 0.5), axis=-1)
        return inside

    def cropped(self, box: Box) -> Geometry:
        """The geometry of ``array[box]``; the box has explicit starts and stops inside the volume."""
        start = [b.start for b in box]
        x, y, z = self.to_world(start)
        shape = tuple(b.stop - b.start for b in box)
        return replace(self, shape_zyx=shape, origin_xyz_mm=(float(x), float(y), float(z)))

    def resized(self, shape_zyx: tuple[int, int, int]) -> Geometry:
        """The geometry of the same block of tissue on another grid (outer edges are kept)."""
        ratio = np.asarray(self.shape_zyx, dtype=float) / np.asarray(shape_zyx, dtype=float)
        first = 0.5 * ratio - 0.5
        spacing = np.asarray(self.spacing_zyx_mm) * ratio
        sz, sy, sx = (float(s) for s in spacing)
        ox, oy, oz = (float(o) for o in self.to_world(first))
        return Geometry(shape_zyx, (sx, sy, sz), (ox, oy, oz), self.direction)

    def padded(self, before_zyx: tuple[int, int, int], after_zyx: tuple[int, int, int]) -> Geometry:
        """The geometry after ``np.pad`` with these widths."""
        ox, oy, oz = (float(o) for o in self.to_world([-b for b in before_zyx]))
        z, y, x = (n + b + a for n, b, a in zip(self.shape_zyx, before_zyx, after_zyx, strict=True))
        return replace(self, shape_zyx=(z, y, x), origin_xyz_mm=(ox, oy, oz))


@dataclass(frozen=True, slots=True)
class ScanWarning:
    """Something the user must know about a scan whose answer is still right.

    ``code`` is stable and machine-readable (``slice-gap``); ``text`` is a sentence for people.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class ScanSource:
    """Where a scan came from. Holds no patient name or id.

    Parameters
    ----------
    series_uid : SeriesInstanceUID, or the file's stem for formats that have none.
    reader : ``dicom``, ``nifti``, ``metaimage``, ``nrrd``, ``phantom``.
    sop_instance_uids : one per slice in array order, empty when the format has none.
    files : the file of each slice in array order, or the one volume file; only DICOM hand-back reads them again.
    description : scanner facts worth showing (kernel, manufacturer), free of patient data.
    """

    series_uid: str
    reader: str
    sop_instance_uids: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    description: tuple[tuple[str, str], ...] = ()

    def per_slice(self, choose: Callable[[tuple[str, ...]], tuple[str, ...]]) -> ScanSource:
        """The source with its identifiers and files of each slice chosen anew; a single volume file stays."""
        uids, files = self.sop_instance_uids, self.files
        sliced = len(files) == len(uids) > 0
        return replace(self, sop_instance_uids=choose(uids), files=choose(files) if sliced else files)


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """A CT volume: int16 HU ``(z, y, x)``, its geometry, its source and what is odd about it."""

    hu: HuVolume
    geometry: Geometry
    source: ScanSource
    warnings: tuple[ScanWarning, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse an array that does not fit its geometry."""
        if self.hu.dtype != np.int16 or self.hu.shape != self.geometry.shape_zyx:
            raise InputRefused(
                f"a scan needs int16 HU of shape {self.geometry.shape_zyx}; got {self.hu.dtype} {self.hu.shape}"
            )

    def cropped(self, box: Box) -> Scan:
        """The part inside a box, as a view on the same voxels. Slice identifiers follow."""
        source = self.source.per_slice(lambda values: values[box[0]])
        return Scan(self.hu[box], self.geometry.cropped(box), source, self.warnings)

    def canonical(self) -> Scan:
        """The same voxels with array axes reordered and flipped to run most nearly along LPS.

        After this, +z is towards the head, +y to the back and +x to the patient's left, as far as
        permuting and flipping can do it; no voxel value changes. An axial scan comes back as it is
        (a view); slice identifiers are dropped when z is no longer the slice axis.
        """
        axes = self.geometry.axes
        order = _closest_axes(axes)
        flips = [bool(axes[world, index] < 0) for world, index in enumerate(order)]
        if order == (0, 1, 2) and not any(flips):
            return self
        # array axis a holds index axis 2 - a
        hu = self.hu.transpose([2 - order[2 - a] for a in range(3)])
        start = [0, 0, 0]
        for world, index in enumerate(order):
            if flips[world]:
                hu = np.flip(hu, axis=2 - world)
                start[2 - index] = self.geometry.shape_zyx[2 - index] - 1
        new_axes = np.stack([axes[:, i] * (-1.0 if f else 1.0) for i, f in zip(order, flips, strict=True)], axis=1)
        x, y, z = (self.geometry.spacing_xyz_mm[i] for i in order)
        ox, oy, oz = (float(o) for o in self.geometry.to_world(start))
        geometry = Geometry(hu.shape, (x, y, z), (ox, oy, oz), tuple(new_axes.ravel().tolist()))
        step = (-1 if flips[2] else 1) if order[2] == 2 else 0
        source = self.source.per_slice(lambda values: values[::step] if step else ())
        return Scan(hu, geometry, source, self.warnings)

    def from_canonical(self, box: Box, values: NDArray[Any]) -> tuple[Box, NDArray[Any]]:
        """A block of `canonical()`'s grid as it lies on this scan's own: its box and its values.

        Parameters
        ----------
        box : in voxels of the canonical scan.
        values : what fills it, any dtype.
        """
        axes = self.geometry.axes
        order = _closest_axes(axes)
        own: list[slice] = [slice(0, 0)] * 3
        flipped = []
        for world, index in enumerate(order):
            part, n = box[2 - world], self.geometry.shape_zyx[2 - index]
            if axes[world, index] < 0:
                own[2 - index] = slice(n - part.stop, n - part.start)
                flipped.append(2 - world)
            else:
                own[2 - index] = part
        back = np.flip(values, tuple(flipped)) if flipped else values
        return (own[0], own[1], own[2]), back.transpose([2 - order.index(2 - a) for a in range(3)])


def _closest_axes(axes: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each world axis the index axis that runs most nearly along it, each used once."""
    permutations = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(permutations, key=lambda p: sum(abs(axes[world, index]) for world, index in enumerate(p)))
