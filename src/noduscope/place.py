"""Where in its lung a nodule lies, as far as a lung mask can tell.

A mask has no lobes and no fissures: an upper third is not an upper lobe (the left one reaches down to
the diaphragm in front, and the right one's place is shared with the top of the lower lobe behind),
and contact with a fissure is not seen. The border of a mask is the pleura, but at the hilum and the
mediastinum it is where vessels and bronchi leave the lung.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.errors import InputRefused
from noduscope.lungs import LEFT, RIGHT, Lungs

_FIRST_REACH_MM = 20.0
_OUTSIDE_MM = 30.0  # a nodule whose centre is farther from both lungs is not in the lungs


@dataclass(frozen=True, slots=True)
class NodulePlace:
    """A nodule's place; None where it cannot be told.

    Parameters
    ----------
    side : ``left`` or ``right``.
    height : share of the lung's extent along the body, 0 at its base, 1 at its apex.
    zone : ``upper``, ``middle`` or ``lower`` third of that extent.
    border_mm : distance of the centre to the lung's border, negative outside; good to about a voxel of
        the mask.
    pleural_contact : whether the nodule's radius reaches the border, within half a voxel of the mask.
    limits : sentences on what this place cannot be trusted for.
    """

    side: Literal["left", "right"] | None
    height: float | None
    zone: Literal["upper", "middle", "lower"] | None
    border_mm: float | None
    pleural_contact: bool | None
    limits: tuple[str, ...]


_NO_LOBES = "Zone and contact come from the outline of the lung: lobes and fissures are not seen."
_CUT = "The scan ends inside the lungs, so the thirds are those of the part that was scanned."


def nodule_place(lungs: Lungs, position_xyz_mm: ArrayLike, diameter_mm: float) -> NodulePlace:
    """Side, height and distance to the lung's border of a nodule.

    Parameters
    ----------
    position_xyz_mm : LPS centre, ``(3,)``.
    diameter_mm : of the nodule; decides on contact with the border.

    Raises
    ------
    InputRefused
        For a position that is not finite or a diameter that is not over 0.
    """
    centre = np.asarray(position_xyz_mm, dtype=float)
    if centre.shape != (3,) or not np.all(np.isfinite(centre)) or not diameter_mm > 0:
        raise InputRefused(
            f"a place needs a point in mm and a diameter over 0; got {centre.tolist()}, {diameter_mm} mm"
        )
    label = _nearest_lung(lungs, centre)
    if label is None:
        return NodulePlace(None, None, None, None, None, ("The point lies in neither lung.",))
    own: NDArray[np.bool_] = lungs.labels == label
    height = _height(lungs, own, centre)
    border = _border_mm(lungs, own, centre)
    slack = min(lungs.geometry.spacing_xyz_mm) / 2
    return NodulePlace(
        side="left" if label == LEFT else "right",
        height=height,
        zone="upper" if height >= 2 / 3 else "middle" if height >= 1 / 3 else "lower",
        border_mm=border,
        pleural_contact=border <= diameter_mm / 2 + slack,
        limits=(_NO_LOBES, _CUT) if _is_cut(lungs) else (_NO_LOBES,),
    )


def _nearest_lung(lungs: Lungs, centre: NDArray[np.float64]) -> int | None:
    """The lung at a point, or the one whose voxels come nearest to it."""
    distances = {side: _distance_mm(lungs, lungs.labels == side, centre, _OUTSIDE_MM) for side in (LEFT, RIGHT)}
    side = min(distances, key=lambda s: distances[s])
    return side if distances[side] <= _OUTSIDE_MM else None


def _height(lungs: Lungs, own: NDArray[np.bool_], centre: NDArray[np.float64]) -> float:
    """Share of the lung's extent towards the head, cut to 0 to 1; the mask's slices run from foot to head."""
    slices = np.flatnonzero(own.any(axis=(1, 2)))
    low, high = slices[0], slices[-1]
    return float(np.clip((lungs.geometry.to_index(centre)[0] - low) / (high - low), 0.0, 1.0)) if high > low else 0.5


def _border_mm(lungs: Lungs, own: NDArray[np.bool_], centre: NDArray[np.float64]) -> float:
    """Distance to the faces between the lung's voxels and all others; negative outside the lung."""
    half = min(lungs.geometry.spacing_xyz_mm) / 2
    index = np.round(lungs.geometry.to_index(centre)).astype(int)
    within = bool(np.all((index >= 0) & (index < own.shape))) and bool(own[tuple(index)])
    distance = _distance_mm(lungs, ~own if within else own, centre, np.inf)
    return float(max(distance - half, 0.0)) if within else -float(max(distance - half, 0.0))


def _distance_mm(lungs: Lungs, mask: NDArray[np.bool_], centre: NDArray[np.float64], reach_mm: float) -> float:
    """Distance of a point to the nearest voxel centre of a mask; infinite when there is none within reach.

    Looks in a growing box: nothing outside it is nearer than its half width.
    """
    geometry = lungs.geometry
    index, spacing = geometry.to_index(centre), np.asarray(geometry.spacing_zyx_mm)
    reach = min(_FIRST_REACH_MM, reach_mm)
    while True:
        start = np.maximum(np.ceil(index - reach / spacing), 0).astype(int)
        stop = np.minimum(np.floor(index + reach / spacing) + 1, mask.shape).astype(int)
        box = tuple(slice(a, max(a, b)) for a, b in zip(start, stop, strict=True))
        found = np.argwhere(mask[box])
        nearest = float(np.sqrt((((found + start - index) * spacing) ** 2).sum(axis=1).min())) if len(found) else np.inf
        whole = bool(np.all(start == 0) and np.all(stop >= mask.shape))
        if nearest <= reach or whole or reach >= reach_mm:
            return nearest
        reach = min(2 * reach, reach_mm)


def _is_cut(lungs: Lungs) -> bool:
    return any(warning.code == "lungs-cut" for warning in lungs.warnings)
