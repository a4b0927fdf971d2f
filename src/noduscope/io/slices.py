"""In what order and where the slices of a series lie: pure geometry, no files.

Order and spacing come from the slice positions along the slice normal (DICOM PS3.3 C.7.6.2.1.1),
never from InstanceNumber, SliceLocation or SliceThickness: in a third of the LIDC-IDRI scans the
thickness is not the spacing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.scan import ScanWarning, Triple

Floats = NDArray[np.float64]

_SAME_PLACE: Final = 0.1
"""Slices nearer than this share of the spacing are at the same place."""
_ON_GRID: Final = 0.1
"""A slice nearer to its grid place than this share of the spacing is taken as it is."""
_MAX_GAP_STEPS: Final = 4.0
"""Between neighbouring slices, in spacings: at most three slices are missing in a row ..."""
_MAX_GAP_MM: Final = 12.5
"""... and tissue farther apart than this cannot be told from its neighbours: a nodule fits between."""
_MAX_FILLED_SHARE: Final = 0.2
"""Of all slices, at most this share is interpolated."""
_MAX_TILT_DEGREES: Final = 35.0
"""No CT gantry tilts farther."""
_MAX_DRIFT_MM: Final = 0.5
"""In-plane drift between slices that is left as it is: below one pixel."""


@dataclass(frozen=True, slots=True)
class SliceGrid:
    """An even grid along the slice normal and how to fill each of its planes from the real slices.

    Parameters
    ----------
    lower, upper : index of the real slice below and above each plane, in the caller's numbering;
        equal where the plane is that slice.
    weight : share of ``upper`` in each plane, 0 to 1.
    spacing_mm : distance of the planes.
    shift_xy_mm : how far each real slice (caller's numbering) lies off the straight column of the
        first plane, along the row and the column direction; zeros for a straight stack.
    warnings : what is odd about the stack.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: Floats
    spacing_mm: float
    shift_xy_mm: Floats
    warnings: tuple[ScanWarning, ...] = ()

    @property
    def nearest(self) -> NDArray[np.intp]:
        """The real slice nearest to each plane."""
        return np.where(self.weight > 0.5, self.upper, self.lower)


def slice_axes(orientation: Triple | tuple[float, ...]) -> Floats:
    """3×3 matrix whose columns are the row direction, the column direction and the normal (unit vectors).

    Parameters
    ----------
    orientation : the six numbers of ImageOrientationPatient.

    Raises
    ------
    InputRefused
        When the two directions are not unit vectors at right angles (tolerance 1e-2): then no
        position in the image is known.
    """
    values = np.asarray(orientation, dtype=float)
    if values.shape != (6,) or not np.all(np.isfinite(values)):
        raise InputRefused(f"ImageOrientationPatient must be six numbers; got {tuple(orientation)}")
    row, column = values[:3], values[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1.0, atol=1e-2) or abs(float(row @ column)) > 1e-2:
        raise InputRefused(f"ImageOrientationPatient {tuple(orientation)} is not two unit vectors at right angles")
    row = row / lengths[0]
    # written with few digits, the pair is a little off 90°: make it exact
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def drop_duplicates(depth_mm: Floats, rank: NDArray[np.intp]) -> tuple[NDArray[np.intp], tuple[ScanWarning, ...]]:
    """Slices in ascending order along the normal, one per place.

    Parameters
    ----------
    depth_mm : position of each slice along the normal, shape (n,).
    rank : of slices at the same place the one with the lowest rank is kept, shape (n,).

    Raises
    ------
    InputRefused
        When more than a few places are taken twice: several acquisitions in one series.
    """
    order = np.lexsort((rank, depth_mm))
    sorted_mm = depth_mm[order]
    steps = np.diff(sorted_mm)
    apart = steps[steps > 1e-3]
    if apart.size == 0:
        raise InputRefused(f"all {len(depth_mm)} slices lie at the same place: expected a stack of slices")
    tolerance = _SAME_PLACE * float(np.median(apart))
    group = np.concatenate([[0], np.cumsum(steps > tolerance)])
    kept = [min(np.flatnonzero(group == g), key=lambda i: rank[order[i]]) for g in np.unique(group)]
    extra = np.setdiff1d(np.arange(len(order)), kept)
    if extra.size == 0:
        return order, ()
    if extra.size > max(2, 0.05 * len(kept)):
        raise InputRefused(
            f"{extra.size} of {len(order)} slices lie where another slice already is "
            f"(first at {sorted_mm[extra[0]]:.2f} mm): several acquisitions or reconstructions share one series; "
            "export one of them as a series of its own"
        )
    places = ", ".join(f"{sorted_mm[i]:.2f}" for i in extra)
    text = f"{extra.size} slice(s) dropped: another slice lies at the same place, {places} mm along the normal"
    return order[kept], (ScanWarning("duplicate-slice", text),)


def even_grid(positions_mm: Floats, axes: Floats, order: NDArray[np.intp]) -> SliceGrid:
    """An even grid through ordered slices; planes between real slices are to be interpolated.

    Parameters
    ----------
    positions_mm : LPS position of the first voxel of every slice, shape (n, 3).
    axes : of `slice_axes`.
    order : the slices to use, ascending along the normal, no two at the same place.

    Raises
    ------
    InputRefused
        For a gap in which a nodule could hide, a stack that is mostly gaps, or slices that do not
        lie above one another.
    """
    if len(order) < 2:
        raise InputRefused("a single slice: expected a stack of slices")
    local = positions_mm[order] @ axes
    depth = local[:, 2]
    spacing = float(np.median(np.diff(depth)))
    even = (depth[-1] - depth[0]) / (len(depth) - 1)
    lower, upper, weight = order, order, np.zeros(len(order))
    warnings: list[ScanWarning] = []
    if np.max(np.abs(depth - (depth[0] + even * np.arange(len(depth))))) <= _ON_GRID * even:
        spacing = float(even)
    else:
        _refuse_wide_gaps(depth, spacing)
        low, weight = _planes(depth, spacing)
        lower, upper = order[low], order[np.minimum(low + 1, len(order) - 1)]
        upper = np.where(weight == 0, lower, upper)
        warnings.append(_uneven_warning(depth, spacing, weight))
    shift = np.zeros((len(positions_mm), 2))
    drift = local[:, :2] - local[0, :2]
    if np.abs(drift).max() > _MAX_DRIFT_MM:
        warnings.append(_tilt_warning(drift, depth))
        shift[order] = drift
    return SliceGrid(lower, upper, weight, spacing, shift, tuple(warnings))


def _planes(depth: Floats, spacing: float) -> tuple[NDArray[np.intp], Floats]:
    """Lower neighbour and weight of the upper one, for planes every ``spacing`` from the first slice to the last."""
    planes = depth[0] + spacing * np.arange(int((depth[-1] - depth[0]) / spacing + _ON_GRID) + 1)
    place = np.interp(planes, depth, np.arange(len(depth)))
    nearest = np.rint(place).astype(np.intp)
    close = np.abs(depth[nearest] - planes) <= _ON_GRID * spacing
    place = np.where(close, nearest, place)
    low = np.floor(place).astype(np.intp)
    return low, place - low


def _refuse_wide_gaps(depth: Floats, spacing: float) -> None:
    steps = np.diff(depth)
    worst = int(np.argmax(steps))
    if steps[worst] > min(_MAX_GAP_STEPS * spacing, max(_MAX_GAP_MM, 1.5 * spacing)):
        raise InputRefused(
            f"slices are missing: {steps[worst]:.2f} mm between the slices at {depth[worst]:.2f} and "
            f"{depth[worst + 1]:.2f} mm along the normal, {spacing:.2f} mm between the others; "
            "a nodule could lie in the gap: get the whole series"
        )


def _uneven_warning(depth: Floats, spacing: float, weight: Floats) -> ScanWarning:
    steps = np.diff(depth)
    made = np.flatnonzero(weight)
    if made.size > _MAX_FILLED_SHARE * len(weight) and np.max(steps) > 1.5 * spacing:
        raise InputRefused(
            f"{made.size} of {len(weight)} slices are missing or off an even grid of {spacing:.2f} mm "
            f"(steps from {steps.min():.2f} to {steps.max():.2f} mm): get the whole series"
        )
    wide = np.flatnonzero(steps > 1.5 * spacing)
    if wide.size:
        gaps = ", ".join(f"{depth[i]:.2f} to {depth[i + 1]:.2f}" for i in wide[:5]) + (", …" if wide.size > 5 else "")
        planes = ", ".join(str(i + 1) for i in made[:8]) + (", …" if made.size > 8 else "")
        text = f"slices are missing between {gaps} mm along the normal; interpolated: slice {planes}"
        return ScanWarning("slice-gap", text)
    text = (
        f"the slices are {steps.min():.2f} to {steps.max():.2f} mm apart; {made.size} of {len(weight)} "
        f"were interpolated onto an even grid of {spacing:.2f} mm"
    )
    return ScanWarning("uneven-spacing", text)


def _tilt_warning(drift: Floats, depth: Floats) -> ScanWarning:
    rise = depth - depth[0]
    slope = (rise @ drift) / (rise @ rise)
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if angle > _MAX_TILT_DEGREES:
        raise InputRefused(
            f"the slices run {angle:.0f}° off their normal, more than any gantry tilts: they are not one stack"
        )
    text = (
        f"the slices run {angle:.1f}° off their normal (tilted gantry); each was shifted in its plane to straighten it"
    )
    return ScanWarning("gantry-tilt", text)
