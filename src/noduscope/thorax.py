"""The chest's two sides: its midline, which lung is which, and solid tissue where lung should be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from noduscope.morphology import Mask, dilate, erode
from noduscope.scan import HuVolume

LEFT, RIGHT = 1, 2
"""Labels: the patient's left lung lies towards +x (LPS), the right towards -x."""

_SEAM_REACH_MM = 80.0  # from the midline; a collapsed lung pulls the mediastinum over this far
_DETOUR_MM = 120.0  # so far from the midline a step costs as much as one through lung
_BONE_HU = 180
_AIR_HU = -400
_CARINA_MM = 40.0  # the airway is this wide where it has parted
_BELOW_CARINA_MM = 40.0  # farther down the liver's dome rises to different heights left and right
_SOLID_RADIUS_MM = 18.0  # thicker than the aorta and what asymmetry of a healthy chest leaves


def midline(hu: HuVolume, airway: Mask, spacing_mm: float) -> float:
    """Fractional column of the spine; without an airway to find it by, the balance of all dense tissue."""
    dense = np.maximum(hu[::2, ::2], 0).sum(axis=(0, 1), dtype=np.float64)
    columns = np.arange(len(dense))
    middle = float((dense * columns).sum() / dense.sum()) if dense.any() else (len(dense) - 1) / 2
    if not airway.any():
        return middle
    behind = int(np.nonzero(airway)[1].mean() + 10.0 / spacing_mm)
    bone = (hu[:, behind:] > _BONE_HU).sum(axis=(0, 1), dtype=np.float64)
    for half_width_mm in (60.0, 40.0, 30.0, 30.0):
        near = bone * (np.abs(columns - middle) * spacing_mm <= half_width_mm)
        middle = float((near * columns).sum() / near.sum()) if near.any() else middle
    return middle


def part_lungs(hu: HuVolume, lung: Mask, middle: float, spacing_mm: float) -> NDArray[np.uint8]:
    """Lung voxels labelled left and right.

    In each slice a seam runs from front to back where it crosses the least lung: through the
    mediastinum, and where the lungs touch through the thin membrane between them, which is a little
    denser than they are.
    """
    width = lung.shape[2]
    columns = np.arange(width)
    first = min(max(0, round(middle - _SEAM_REACH_MM / spacing_mm)), width - 1)
    last = max(first + 1, min(width, round(middle + _SEAM_REACH_MM / spacing_mm) + 1))
    strip = slice(first, last)
    cost = np.where(lung[..., strip] != 0, 1.0 - np.clip(hu[..., strip], -1000, 0) / np.float32(1000.0), np.float32(0))
    # going round a lung through the chest wall must cost more than crossing where the lungs touch
    cost += (((columns[strip] - middle) * spacing_mm / _DETOUR_MM) ** 2).astype(np.float32)
    seam = first + _cheapest_seams(cost)
    side = np.where(columns > seam[..., None], np.uint8(LEFT), np.uint8(RIGHT))
    return lung * side


def _cheapest_seams(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """Per slice the column in each row of the cheapest path through all rows, at most two columns a row.

    All slices advance together, row by row (dynamic programming). Shape ``(z, y)`` of ``(z, y, x)``.
    """
    depth, height, width = cost.shape
    moves = np.asarray([0, -1, 1, -2, 2], np.int8)
    best = cost[:, 0].copy()
    came = np.zeros((height, depth, width), np.int8)
    for y in range(1, height):
        padded = np.pad(best, ((0, 0), (2, 2)), constant_values=np.inf)
        ways = np.stack([padded[:, 2 + m : 2 + m + width] for m in moves.tolist()])
        choice = ways.argmin(axis=0)
        came[y] = moves[choice]
        best = ways.min(axis=0) + cost[:, y]
    seam = np.empty((depth, height), np.int64)
    seam[:, -1] = best.argmin(axis=1)
    for y in range(height - 1, 0, -1):
        seam[:, y - 1] = seam[:, y] + came[y, np.arange(depth), seam[:, y]]
    return seam


def solid_parts(
    hu: HuVolume, labels: NDArray[np.uint8], airway: Mask, middle: float, spacing_mm: float
) -> NDArray[np.uint8]:
    """Thick soft tissue where the mirrored other lung says that lung should be: mass, collapse, fluid.

    The heart makes the sides unlike in front, so below the carina only what lies behind the airway
    counts. What is thinner than a ball of 18 mm radius is the common difference of two healthy sides.

    Parameters
    ----------
    labels : the aerated lungs, left and right.
    middle : column of the midline, as `midline` gives it.

    Returns
    -------
    uint8 ``(z, y, x)``: the label of the lung they belong to; empty without an airway for orientation.
    """
    made = np.zeros_like(labels)
    if not airway.any():
        return made
    depth, height, width = labels.shape
    spread = [np.ptp(np.flatnonzero(plane.any(axis=0))) if plane.any() else 0 for plane in airway]
    parted = np.flatnonzero(np.asarray(spread) * spacing_mm > _CARINA_MM)
    carina = int(parted[-1]) if parted.size else int(np.flatnonzero(airway.any(axis=(1, 2)))[0])
    back = np.nonzero(airway[carina + 1 :] if airway[carina + 1 :].any() else airway)[1].mean() + 10.0 / spacing_mm
    lowest = carina - _BELOW_CARINA_MM / spacing_mm
    z, y, columns = np.arange(depth)[:, None], np.arange(height), np.arange(width)
    where = (z >= carina) | ((y > back) & (z > lowest))
    opposite = np.round(2 * middle - columns).astype(int)
    known = (opposite >= 0) & (opposite < width)
    tissue = (labels == 0) & (airway == 0) & (hu > _AIR_HU) & (hu < _BONE_HU) & where[..., None]
    for side in (LEFT, RIGHT):
        own = (columns > middle) == (side == LEFT)
        other = (labels == LEFT + RIGHT - side)[..., np.clip(opposite, 0, width - 1)]
        made[_thick((tissue & other & (known & own)).view(np.uint8), spacing_mm) != 0] = side
    return made


def _thick(mask: Mask, spacing_mm: float) -> Mask:
    """The parts that a ball fits into, opened on every second voxel: the parts are large."""
    coarse = np.pad(mask[::2, ::2, ::2], 1)
    radius = _SOLID_RADIUS_MM / (2 * spacing_mm)
    core = erode(coarse, radius)
    if not core.any():
        return np.zeros_like(mask)
    grown = dilate(core, radius + 0.5)[1:-1, 1:-1, 1:-1]
    fine = grown.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    made: Mask = mask & fine[: mask.shape[0], : mask.shape[1], : mask.shape[2]]
    return made
