"""Which blocks of a lung region the detector runs on, and how their answers come together.

Each lung is one block (cut where it would be too large for memory), read with a halo so that what
is kept of it saw its surroundings. Two lung blocks hold about a quarter fewer voxels than the
block around both, and no voxel is computed four times over as with a grid of small overlapping tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noduscope.scan import Box

ALIGN = 8
"""Edges of the blocks are multiples of this: the network's coarsest stride."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One block: `core` is what its answer is kept for, `read` is the core with its halo.

    Both are voxel boxes of the region; `read` may reach outside.
    """

    core: Box
    read: Box


def lung_tiles(lungs: NDArray[np.uint8], halo: int = 16, rim: int = 4, most_voxels: int = 8_000_000) -> list[Tile]:
    """Blocks that together cover all lung voxels with a rim.

    Parameters
    ----------
    lungs : uint8 (z, y, x), one label per lung.
    halo : voxels read around each core; a multiple of `ALIGN`.
    rim : voxels around the lungs that are covered as well.
    most_voxels : a block with its halo is cut until it is no larger.
    """
    tiles = []
    for label in np.unique(lungs[lungs > 0]):
        inside = lungs == label
        spans = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        low = [max(int(s[0]) - rim, 0) // ALIGN * ALIGN for s in spans]
        high = [-(-(int(s[-1]) + 1 + rim) // ALIGN) * ALIGN for s in spans]
        tiles += [_with_halo(core, halo) for core in _cut(low, high, halo, most_voxels)]
    return tiles


def _cut(low: list[int], high: list[int], halo: int, most: int) -> list[Box]:
    """Halve the longest edge until the block with its halo is small enough."""
    size = [b - a for a, b in zip(low, high, strict=True)]
    if np.prod([s + 2 * halo for s in size]) <= most or max(size) <= 2 * ALIGN:
        return [(slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))]
    axis = int(np.argmax(size))
    middle = low[axis] + size[axis] // 2 // ALIGN * ALIGN
    first, second = list(high), list(low)
    first[axis] = second[axis] = middle
    return _cut(low, first, halo, most) + _cut(second, high, halo, most)


def _with_halo(core: Box, halo: int) -> Tile:
    z, y, x = (slice(c.start - halo, c.stop + halo) for c in core)
    return Tile(core, (z, y, x))


def read_tile(volume: NDArray[np.int16], tile: Tile, fill: int) -> NDArray[np.int16]:
    """The voxels of a tile's `read` box, `fill` where it reaches outside the volume."""
    shape = tuple(b.stop - b.start for b in tile.read)
    inside = tuple(slice(max(b.start, 0), min(b.stop, n)) for b, n in zip(tile.read, volume.shape, strict=True))
    target = tuple(slice(i.start - b.start, i.stop - b.start) for i, b in zip(inside, tile.read, strict=True))
    if all(i.start == b.start and i.stop == b.stop for i, b in zip(inside, tile.read, strict=True)):
        return volume[inside]
    block = np.full(shape, fill, np.int16)
    block[target] = volume[inside]
    return block


def keep_core(output: NDArray[np.float32], cells: NDArray[np.float32], tile: Tile, stride: int) -> None:
    """Write the core's part of a tile's answer ``(z, y, x, channels)`` into the region's, keeping the stronger mark.

    Cores of the two lungs overlap in the mediastinum; there the higher heat of the two halves is kept,
    since both saw the place.
    """
    source, target = [], []
    for core, read, n in zip(tile.core, tile.read, output.shape[:3], strict=True):
        start, stop = core.start // stride, min(core.stop // stride, n)
        target.append(slice(start, stop))
        source.append(slice(start - read.start // stride, stop - read.start // stride))
    fresh, held = cells[tuple(source)], output[tuple(target)]
    stronger = fresh[..., 0] > held[..., 0]
    held[stronger] = fresh[stronger]
