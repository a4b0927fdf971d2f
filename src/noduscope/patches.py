"""Which blocks of a lung region the detector runs on, and how their answers come together.

Both lungs are one block, cut only where it would be too large for memory. Smaller blocks that follow
the lungs more closely hold more voxels in sum, because each is read with a halo: two blocks, one a
lung, hold a tenth more, slabs of 64 slices a quarter.
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

    Both are voxel boxes of the region; at the region's end they may reach outside by less than `ALIGN` voxels.
    """

    core: Box
    read: Box


def lung_tiles(lungs: NDArray[np.uint8], halo: int = 16, rim: int = 4, most_voxels: int = 20_000_000) -> list[Tile]:
    """Blocks that together cover all lung voxels with a rim; their cores do not overlap.

    Parameters
    ----------
    lungs : uint8 (z, y, x), nonzero in the lungs.
    halo : voxels read around each core as far as there are any; a multiple of `ALIGN`.
    rim : voxels around the lungs that are covered as well.
    most_voxels : a block with its halo is cut until it is no larger. The default holds the lungs of most
        people at 1 mm; the network takes about 30 bytes a voxel.
    """
    if not lungs.any():
        return []
    ends = [-(-n // ALIGN) * ALIGN for n in lungs.shape]
    spans = [np.flatnonzero(lungs.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    low = [max(int(s[0]) - rim, 0) // ALIGN * ALIGN for s in spans]
    high = [min(-(-(int(s[-1]) + 1 + rim) // ALIGN) * ALIGN, end) for s, end in zip(spans, ends, strict=True)]
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    return _cut(_with_halo((z, y, x), halo, ends), halo, ends, most_voxels)


def _cut(tile: Tile, halo: int, ends: list[int], most: int) -> list[Tile]:
    """Halve the core's longest edge until the block with its halo is small enough."""
    size = [b.stop - b.start for b in tile.core]
    if np.prod([b.stop - b.start for b in tile.read]) <= most or max(size) <= 2 * ALIGN:
        return [tile]
    axis = int(np.argmax(size))
    middle = tile.core[axis].start + size[axis] // 2 // ALIGN * ALIGN
    halves = []
    for half in (slice(tile.core[axis].start, middle), slice(middle, tile.core[axis].stop)):
        z, y, x = (half if a == axis else edge for a, edge in enumerate(tile.core))
        halves += _cut(_with_halo((z, y, x), halo, ends), halo, ends, most)
    return halves


def _with_halo(core: Box, halo: int, ends: list[int]) -> Tile:
    """The tile of a core, read no further than the region goes."""
    z, y, x = (slice(max(c.start - halo, 0), min(c.stop + halo, end)) for c, end in zip(core, ends, strict=True))
    return Tile(core, (z, y, x))


def read_box(volume: NDArray[np.int16], box: Box, fill: int) -> NDArray[np.int16]:
    """The voxels of a box, `fill` where it reaches outside the volume."""
    part = volume[tuple(slice(max(b.start, 0), max(b.stop, 0)) for b in box)]
    if part.shape == tuple(b.stop - b.start for b in box):
        return part
    beyond = [(max(-b.start, 0), max(b.stop - n, 0)) for b, n in zip(box, volume.shape, strict=True)]
    return np.pad(part, beyond, constant_values=fill)


def keep_core(output: NDArray[np.float32], cells: NDArray[np.float32], tile: Tile, stride: int) -> None:
    """Write the core's part of a tile's answer ``(z, y, x, channels)`` into the region's."""
    source, target = [], []
    for core, read, n in zip(tile.core, tile.read, output.shape[:3], strict=True):
        start, stop = core.start // stride, min(core.stop // stride, n)
        target.append(slice(start, stop))
        source.append(slice(start - read.start // stride, stop - read.start // stride))
    output[tuple(target)] = cells[tuple(source)]
