"""Tiles: every lung voxel is answered for, from a block that saw its surroundings and fits in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.boxes import CHANNELS, HEAT, SIZE, STRIDE, Marks, strongest
from noduscope.model.engine import _NOTHING, MASS_MM, find_marks, heat_volume
from noduscope.patches import ALIGN, lung_tiles, read_box
from noduscope.settings import DetectSettings, PreprocessSettings

SHAPES = st.tuples(*(st.integers(9, 60) for _ in range(3)))


@st.composite
def lung_labels(draw: st.DrawFn) -> np.ndarray:
    """Two boxes of lung anywhere in a small volume; they may meet or be absent."""
    shape = draw(SHAPES)
    lungs = np.zeros(shape, np.uint8)
    for label in (1, 2):
        low = [draw(st.integers(0, n - 1)) for n in shape]
        high = [draw(st.integers(a, n)) for a, n in zip(low, shape, strict=True)]
        lungs[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = label
    return lungs


def clipped(box: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(max(b.start, 0), min(b.stop, n)) for b, n in zip(box, shape, strict=True))


@settings(max_examples=50)
@given(lung_labels(), st.integers(4_000, 200_000))
def test_every_lung_voxel_is_in_a_core(lungs, most):
    seen = np.zeros(lungs.shape, bool)
    for tile in lung_tiles(lungs, halo=8, most_voxels=most):
        seen[clipped(tile.core, lungs.shape)] = True
    assert seen[lungs > 0].all()


@settings(max_examples=50)
@given(lung_labels(), st.sampled_from([0, 8, 16]), st.integers(4_000, 200_000))
def test_each_core_has_its_halo_as_far_as_there_are_voxels_and_fits_the_strides(lungs, halo, most):
    for tile in lung_tiles(lungs, halo=halo, most_voxels=most):
        for core in tile.core:
            assert core.start % ALIGN == core.stop % ALIGN == 0
            assert core.stop > core.start
        ends = (-(-n // ALIGN) * ALIGN for n in lungs.shape)
        for core, read, end in zip(tile.core, tile.read, ends, strict=True):
            assert (read.start, read.stop) == (max(core.start - halo, 0), min(core.stop + halo, end))


@settings(max_examples=50)
@given(lung_labels(), st.integers(30_000, 200_000))
def test_no_block_is_larger_than_memory_allows(lungs, most):
    # cores are cut down to two strides at worst, 32 voxels an edge with this halo: 32³ is above the smallest `most`
    for tile in lung_tiles(lungs, halo=8, most_voxels=most):
        edges = [b.stop - b.start for b in tile.read]
        assert np.prod(edges) <= most or max(edges) <= 2 * ALIGN + 16


def test_the_rim_is_covered_too():
    lungs = np.zeros((40, 40, 40), np.uint8)
    lungs[16:24, 16:24, 16:24] = 1
    (tile,) = lung_tiles(lungs, halo=8, rim=4)
    assert all(b.start <= 12 and b.stop >= 28 for b in tile.core)


def test_no_lungs_no_tiles():
    assert lung_tiles(np.zeros((8, 8, 8), np.uint8)) == []


@settings(max_examples=30)
@given(lung_labels())
def test_reading_is_the_volume_where_there_is_one_and_air_beyond(lungs):
    volume = np.arange(lungs.size, dtype=np.int64).reshape(lungs.shape).astype(np.int16)
    padded = np.pad(volume, [(0, ALIGN)] * 3, constant_values=-1000)
    for tile in lung_tiles(lungs, halo=16):
        expected = padded[tile.read]
        assert np.array_equal(read_box(volume, tile.read, -1000), expected)


def averaging(batch: np.ndarray) -> list[np.ndarray]:
    """A network whose cells hold the mean of their own voxels, in every channel."""
    _, z, y, x, _ = batch.shape
    cells = batch.reshape(1, z // STRIDE, STRIDE, y // STRIDE, STRIDE, x // STRIDE, STRIDE).mean(axis=(2, 4, 6))
    return [np.repeat(cells[..., None], CHANNELS, axis=-1).astype(np.float32)]


@pytest.mark.parametrize("shape", [(48, 56, 64), (45, 53, 62)])
def test_stitched_tiles_are_the_whole_volume_at_once(shape):
    rng = np.random.default_rng(3)
    hu = rng.integers(-1000, 400, shape).astype(np.int16)
    lungs = np.zeros(shape, np.uint8)
    lungs[10:40, 12:44, 8:26], lungs[6:36, 14:40, 34:58] = 1, 2
    settings_ = PreprocessSettings()
    stitched = heat_volume(averaging, hu, lungs, settings_)
    edges = [(0, -n % STRIDE) for n in shape]
    whole = np.pad((hu + 1000.0) / 1400.0, edges)[None, ..., None]
    (direct,) = averaging(whole.astype(np.float32))
    looked = stitched[..., HEAT] > _NOTHING
    assert looked[tuple(i // STRIDE for i in np.nonzero(lungs))].all()
    assert np.allclose(stitched[looked], direct[0][looked], atol=1e-5)
    assert np.all(stitched[~looked, HEAT] == _NOTHING)


@settings(max_examples=50)
@given(lung_labels(), st.integers(4_000, 200_000))
def test_no_voxel_is_in_two_cores(lungs, most):
    times = np.zeros([n + ALIGN for n in lungs.shape], np.uint8)
    for tile in lung_tiles(lungs, halo=8, most_voxels=most):
        times[tile.core] += 1
    assert times.max(initial=0) <= 1


def test_both_lungs_are_one_block_where_it_fits_the_memory():
    lungs = np.zeros((48, 48, 96), np.uint8)
    lungs[8:40, 8:40, 8:36], lungs[8:40, 8:40, 60:88] = 1, 2
    assert [t.core for t in lung_tiles(lungs)] == [(slice(0, 48), slice(0, 48), slice(0, 96))]


LARGEST_SEEN = 30
"""Voxels: the widest ball that `short_sighted` takes for a nodule."""


def short_sighted(batch: np.ndarray) -> list[np.ndarray]:
    """A network that marks the one bright ball of each block, with its size, unless it is too wide."""
    cells = np.full((len(batch), *(n // STRIDE for n in batch.shape[1:4]), CHANNELS), 0.0, np.float32)
    cells[..., HEAT] = -9.0
    for block, answer in zip(batch[..., 0], cells, strict=True):
        bright = np.argwhere(block > 0.5)
        diameter = (6 * len(bright) / np.pi) ** (1 / 3)
        if 0 < diameter <= LARGEST_SEEN:
            at = tuple(int(c) // STRIDE for c in np.rint(bright.mean(axis=0)))
            answer[at][HEAT] = 2.0
            answer[at][SIZE] = np.log(diameter / 10)
    return [cells]


@pytest.mark.parametrize(("diameter", "found"), [(12, 12), (28, 28), (44, 44), (58, 58), (70, None)])
def test_what_is_too_large_to_be_seen_is_found_at_half_size(diameter: int, found: int | None):
    centre, shape = (45, 50, 52), (96, 97, 99)
    away = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.ogrid[tuple(slice(n) for n in shape)], centre, strict=True)))
    hu = np.where(away < diameter / 2, 100, -850).astype(np.int16)
    marks = find_marks(short_sighted, hu, np.ones(shape, np.uint8), PreprocessSettings(), DetectSettings())
    if found is None:
        assert len(marks) == 0
        return
    assert len(marks) == 1  # at most one of the two searches' marks stays
    assert np.linalg.norm(marks.centre_zyx[0] - centre) < 2 * STRIDE
    assert marks.diameter_mm[0] == pytest.approx(found, rel=0.06)


def test_small_things_are_not_sought_at_half_size():
    """At half size a vessel looks like a nodule: only what is then large enough counts."""
    shape = (64, 64, 64)
    hu = np.full(shape, -850, np.int16)
    hu[20:36, 20:36, 20:36] = 100  # 20 mm wide, less than MASS_MM
    asked = []

    def deaf_at_full_size(batch: np.ndarray) -> list[np.ndarray]:
        asked.append(batch.shape)
        cells = short_sighted(batch)
        if len(asked) == 1:
            cells[0][..., HEAT] = -9.0
        return cells

    marks = find_marks(deaf_at_full_size, hu, np.ones(shape, np.uint8), PreprocessSettings(), DetectSettings())
    assert len(asked) == 2
    assert len(marks) == 0
    assert MASS_MM > 20


def test_of_two_searches_the_stronger_mark_stays():
    near = np.array([[10.0, 10, 10], [40, 40, 40]], np.float32)
    fine = Marks(near, np.array([1.0, -1.0], np.float32), np.array([6.0, 6.0], np.float32))
    coarse = Marks(near + 3, np.array([0.5, 0.5], np.float32), np.array([30.0, 30.0], np.float32))
    kept = strongest((fine, coarse), 1.0, 6.0, 10)
    assert kept.score.tolist() == [1.0, 0.5]
    assert kept.diameter_mm.tolist() == [6.0, 30.0]
    assert len(strongest((fine, coarse), 1.0, 6.0, 1)) == 1
