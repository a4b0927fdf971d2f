"""Between nodules and the detector's output grid: encode targets, decode marks. NumPy only.

The detector answers on a grid of cells, `STRIDE` voxels wide. Cell ``(i, j, k)`` covers the voxels
``[i * STRIDE, (i + 1) * STRIDE)``; its centre is at voxel ``(i + 0.5) * STRIDE - 0.5``. Channels of an
output: `HEAT` (logit), `SIZE` (log of the diameter over 10 mm), `OFFSET` (three, from the cell's
centre to the nodule's, in cells, z y x).

The heatmap with a Gaussian around each centre and the size regressed at it follow CenterNet
(Zhou et al. 2019, "Objects as Points").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

STRIDE = 4
HEAT, SIZE, OFFSET = 0, 1, slice(2, 5)
CHANNELS = 5
TARGET_CHANNELS = 7  # heat, weight, regression mask, size, offset z y x
_NORMAL_MM = 10.0


@dataclass(frozen=True, slots=True)
class Lesion:
    """A known lesion on a voxel grid.

    ``counts`` is False for what is neither reference nor negative: the loss and the scores pass it over.
    """

    centre_zyx: tuple[float, float, float]
    diameter_mm: float
    counts: bool = True

    def mirrored(self, axis: int, last: int) -> Lesion:
        """The lesion after one axis of the grid, whose last voxel is `last`, was reversed."""
        z, y, x = (last - v if a == axis else v for a, v in enumerate(self.centre_zyx))
        return Lesion((z, y, x), self.diameter_mm, self.counts)


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """The detector's marks on a voxel grid, strongest first.

    Parameters
    ----------
    centre_zyx : float32 (n, 3), voxels.
    score : float32 (n,), logit.
    diameter_mm : float32 (n,).
    """

    centre_zyx: NDArray[np.float32]
    score: NDArray[np.float32]
    diameter_mm: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, index: NDArray[np.intp]) -> Marks:
        """These rows, in this order."""
        return Marks(self.centre_zyx[index], self.score[index], self.diameter_mm[index])


def cell_centres(cells: int) -> NDArray[np.float32]:
    """Voxel coordinate of each cell's centre along one axis."""
    return ((np.arange(cells) + 0.5) * STRIDE - 0.5).astype(np.float32)


def encode(
    lesions: Sequence[Lesion], shape_zyx: tuple[int, int, int], weight: NDArray[np.float32] | None, spacing_mm: float
) -> NDArray[np.float32]:
    """Training target of a crop, float32 ``(z, y, x, TARGET_CHANNELS)`` in cells.

    Parameters
    ----------
    shape_zyx : the crop in voxels, a multiple of `STRIDE`.
    weight : loss weight per cell, or None for 1 everywhere. Cells of lesions that do not count get 0, unless one
        that counts lies there: LUNA16 lists each reader's outline of a nodule among the excluded findings.
    """
    z, y, x = (n // STRIDE for n in shape_zyx)
    target = np.zeros((z, y, x, TARGET_CHANNELS), np.float32)
    target[..., 1] = 1.0 if weight is None else weight
    axes = [cell_centres(n) for n in (z, y, x)]
    nearest = np.full((z, y, x), np.inf, np.float32)
    counting = [k for k in lesions if k.counts]
    others = [k for k in lesions if not k.counts and not _same_as_any(k, counting, spacing_mm)]
    # nodules to be found come last: what is set aside must not take one with it
    for lesion in others + sorted(counting, key=lambda k: _inside(k, shape_zyx)):
        away = [a - c for a, c in zip(axes, lesion.centre_zyx, strict=True)]
        distance2 = away[0][:, None, None] ** 2 + away[1][:, None] ** 2 + away[2] ** 2
        # one whose centre is cut off: what is left of it is neither a hit nor a false positive
        if not lesion.counts or not _inside(lesion, shape_zyx):
            target[distance2 < (lesion.diameter_mm / spacing_mm / 2 + STRIDE) ** 2, 1] = 0.0
            continue
        _draw(target, nearest, distance2, away, lesion, spacing_mm)
    return target


def _same_as_any(lesion: Lesion, others: Sequence[Lesion], spacing_mm: float) -> bool:
    """Whether its centre lies within another one's radius."""
    return any(
        np.linalg.norm(np.subtract(lesion.centre_zyx, k.centre_zyx)) * spacing_mm < k.diameter_mm / 2 for k in others
    )


def _inside(lesion: Lesion, shape_zyx: tuple[int, int, int]) -> bool:
    return all(-0.5 <= c <= n - 0.5 for c, n in zip(lesion.centre_zyx, shape_zyx, strict=True))


def _draw(
    target: NDArray[np.float32],
    nearest: NDArray[np.float32],
    distance2: NDArray[np.float32],
    away: list[NDArray[np.float32]],
    lesion: Lesion,
    spacing_mm: float,
) -> None:
    """Put one lesion into the target: 1 at the nearest cell, a Gaussian around it, size and offset nearby."""
    sigma = STRIDE * float(np.clip(lesion.diameter_mm / spacing_mm / 6 / STRIDE, 0.5, 2.0))
    heat = np.exp((distance2.min() - distance2) / (2 * sigma**2))
    target[..., 0] = np.maximum(target[..., 0], heat)
    core = (heat > 0.6) & (distance2 < nearest)
    nearest[core] = distance2[core]
    target[core, 1] = 1.0
    target[core, 2] = 1.0
    target[core, 3] = np.log(max(lesion.diameter_mm, 2.0) / _NORMAL_MM)
    grids = np.broadcast_arrays(-away[0][:, None, None], -away[1][:, None], -away[2])
    for channel, grid in enumerate(grids):
        target[core, 4 + channel] = grid[core] / STRIDE


def decode(
    output: NDArray[np.float32], spacing_mm: float, settings: tuple[float, int, float] = (-4.0, 100, 6.0)
) -> Marks:
    """Marks of a whole-volume output ``(z, y, x, CHANNELS)``: local maxima, near duplicates removed.

    Parameters
    ----------
    settings : lowest logit kept; most marks kept; least separation in mm.
    """
    floor, most, separation_mm = settings
    heat = output[..., HEAT]
    peak = (heat > floor) & (heat >= _max_3x3x3(heat))
    index = np.argwhere(peak)
    order = np.argsort(-heat[peak], kind="stable")[: 4 * most]
    index = index[order]
    rows = output[tuple(index.T)]
    centre = (index + 0.5 + np.clip(rows[:, OFFSET], -2, 2)) * STRIDE - 0.5
    diameter = _NORMAL_MM * np.exp(np.clip(rows[:, SIZE], -1.6, 2.5))
    marks = Marks(centre.astype(np.float32), rows[:, HEAT], diameter.astype(np.float32))
    return suppress(marks, spacing_mm, separation_mm, most)


def strongest(parts: Sequence[Marks], spacing_mm: float, separation_mm: float, most: int) -> Marks:
    """Several searches' marks on one grid as those of one, strongest first; see `suppress`."""
    together = Marks(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Marks)))
    return suppress(together.take(np.argsort(-together.score, kind="stable")), spacing_mm, separation_mm, most)


def suppress(marks: Marks, spacing_mm: float, separation_mm: float, most: int) -> Marks:
    """Drop each mark nearer to a stronger one than `separation_mm` or that one's radius."""
    kept: list[int] = []
    for i in range(len(marks)):
        if kept:
            apart = np.linalg.norm(marks.centre_zyx[kept] - marks.centre_zyx[i], axis=1) * spacing_mm
            if np.any(apart < np.maximum(separation_mm, marks.diameter_mm[kept] / 2)):
                continue
        kept.append(i)
        if len(kept) == most:
            break
    return marks.take(np.asarray(kept, dtype=np.intp))


def _max_3x3x3(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest of each voxel's 27 neighbours, itself included."""
    made = volume
    for axis in range(3):
        padded = np.pad(made, [(1, 1) if a == axis else (0, 0) for a in range(3)], constant_values=-np.inf)
        parts = [np.take(padded, range(i, i + volume.shape[axis]), axis=axis) for i in range(3)]
        made = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return made
