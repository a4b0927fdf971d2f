"""The trachea and the main bronchi: which air in the chest is not lung."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.morphology import Mask, dilate
from noduscope.scan import HuVolume

_LUMEN_HU = (-400, -880, -940)  # tried in turn: where a bronchus opens into lung a darker one still tells it
_WALL_VOXELS = 1.0
_SPOT_MM2 = (60.0, 900.0)  # lumen area in an axial slice, from a main bronchus to a wide trachea
_LEAST_LENGTH_MM = 20.0
_REACH_MM = 60.0  # from the middle of the air
_JUMP_MM = 8.0  # between the centres in neighbouring slices


def find_airway(hu: HuVolume, air: Mask, spacing_mm: float) -> Mask:
    """The lumen and wall of the trachea and main bronchi; empty when no trachea is seen.

    The trachea is the tallest stack of round, black spots; from it the bronchi are traced down slice
    by slice for as long as they are small and on their own.

    Parameters
    ----------
    hu : int16 ``(z, y, x)``, +z to the head, on voxels of about 2 mm.
    air : the air inside the body.
    spacing_mm : voxel edge.
    """
    seed = _trachea(hu, air, spacing_mm)
    return dilate(_followed(hu, air, seed, spacing_mm**2), _WALL_VOXELS) if seed.any() else seed


@dataclass(slots=True)
class _Stack:
    """Round spots over each other: slice numbers, masks, and the place (x, y) of the last one."""

    slices: list[int]
    spots: list[NDArray[np.bool_]]
    place: NDArray[np.float64]


def _trachea(hu: HuVolume, air: Mask, spacing_mm: float) -> Mask:
    """The tallest stack of round, black spots that is near the middle and begins in the upper half."""
    made = np.zeros_like(air)
    if not air.any():
        return made
    slices, columns = np.flatnonzero(air.any(axis=(1, 2))), np.flatnonzero(air.any(axis=(0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    first = max(0, round(middle - 1.5 * _REACH_MM / spacing_mm))
    strip = slice(first, round(middle + 1.5 * _REACH_MM / spacing_mm) + 1)
    stacks: list[_Stack] = []
    for k in range(int(slices[-1]), int(slices[0]) - 1, -1):
        going = [s for s in stacks if s.slices[-1] - k <= 2]
        if k <= slices.mean() and not going:
            break
        for spot, place in _round_spots(hu[k, :, strip], air[k, :, strip], spacing_mm**2):
            near = [s for s in going if s.slices[-1] > k and np.hypot(*(s.place - place)) * spacing_mm < _JUMP_MM]
            if near:
                near[0].slices.append(k)
                near[0].spots.append(spot)
                near[0].place = place
            elif k > slices.mean() and abs(first + place[0] - middle) * spacing_mm < _REACH_MM:
                stacks.append(_Stack([k], [spot], place))
    best = max(stacks, key=lambda s: len(s.slices), default=None)
    if best is not None and len(best.slices) * spacing_mm > _LEAST_LENGTH_MM:
        for k, spot in zip(best.slices, best.spots, strict=True):
            made[k, :, strip][spot] = 1
    return made


def _round_spots(
    hu: NDArray[np.int16], air: NDArray[np.uint8], area: float
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Black, compact spots of a trachea's size in one slice, each with its centre (x, y)."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(air, connectivity=4)
    width, height, size = stats[:, 2], stats[:, 3], stats[:, 4]
    round_ones = (size * area >= _SPOT_MM2[0]) & (size * area <= _SPOT_MM2[1]) & (size > 0.55 * width * height)
    round_ones &= np.maximum(width, height) < 2.2 * np.minimum(width, height)
    round_ones[0] = False
    found = [(labels == i, centres[i]) for i in np.flatnonzero(round_ones)]
    return [(spot, centre) for spot, centre in found if hu[spot].min() < _LUMEN_HU[1]]


def _followed(hu: HuVolume, air: Mask, seed: Mask, area: float) -> Mask:
    """The tube that starts with `seed`, traced down slice by slice through its branches."""
    tube = seed.copy()
    # a spot that reaches from the tube to beyond this frame is too large for a bronchus anyway
    frame = int(np.ceil(np.sqrt(_SPOT_MM2[1] / area)))
    for k in range(len(air) - 2, -1, -1):
        rows, columns = np.flatnonzero(tube[k + 1].any(axis=1)), np.flatnonzero(tube[k + 1].any(axis=0))
        if rows.size == 0:
            continue
        part = (
            slice(max(0, rows[0] - frame), rows[-1] + frame + 1),
            slice(max(0, columns[0] - frame), columns[-1] + frame + 1),
        )
        above = tube[k + 1][part] != 0
        for limit in _LUMEN_HU:
            source = air[k][part] & (hu[k][part] < limit).view(np.uint8)
            _, labels, stats, _ = cv2.connectedComponentsWithStats(source, connectivity=4)
            for i in np.unique(labels[above]):
                if i != 0 and stats[i, cv2.CC_STAT_AREA] * area <= _SPOT_MM2[1]:
                    tube[k][part][labels == i] = 1
    return tube
