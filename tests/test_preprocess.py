"""Preprocessing: worked values, agreement with SimpleITK, and what must hold for any volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.errors import InputRefused
from noduscope.preprocess import (
    bounding_box,
    box_around,
    clear_view,
    clip_normalise,
    half_size,
    in_threads,
    labels_on,
    resample,
    window,
)
from noduscope.scan import Geometry
from noduscope.settings import PreprocessSettings, ViewSettings

QUARTER_TURN = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def smooth_volume(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise over the whole int16 range of CT, so that a wrong weight or a shift by one shows."""
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.int16)


# --- normalising


def test_normalised_values_are_the_hand_worked_ones_in_every_shape():
    hu = np.array([-32768, -1000, -999, -650, 400, 401, 32767], np.int16)
    # (hu + 1000) / 1400, cut to 0…1
    expected = np.array([0, 0, 1 / 1400, 0.25, 1, 1, 1], np.float32)
    made = clip_normalise(hu, PreprocessSettings())
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=1e-7)
    cube = clip_normalise(np.broadcast_to(hu, (2, 3, 7)), PreprocessSettings())
    np.testing.assert_array_equal(cube, np.broadcast_to(made, (2, 3, 7)))


def test_normalising_leaves_its_input_alone():
    hu = smooth_volume((3, 4, 5))
    before = hu.copy()
    clip_normalise(hu, PreprocessSettings())
    np.testing.assert_array_equal(hu, before)


# --- resampling


@pytest.mark.parametrize(
    ("shape", "spacing_xyz_mm", "to_mm"),
    [
        ((20, 40, 44), (0.7, 0.7, 2.5), 1.0),  # LIDC-like: shrinks in the plane, grows along z
        ((30, 24, 20), (0.9, 1.1, 0.6), 1.0),
        ((12, 20, 20), (1.5, 1.5, 5.0), 1.0),
        ((9, 16, 16), (0.5, 0.5, 3.0), 1.7),
    ],
)
def test_resampling_is_simpleitks_linear_to_one_hu(shape, spacing_xyz_mm, to_mm):
    import SimpleITK as sitk  # noqa: N813

    volume = smooth_volume(shape)
    geometry = Geometry(shape, spacing_xyz_mm, (-100.0, 20.0, 7.5))
    made, grid = resample(volume, geometry, to_mm)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(spacing_xyz_mm)
    image.SetOrigin(geometry.origin_xyz_mm)
    outside = -30000.0
    reference = sitk.GetArrayFromImage(
        sitk.Resample(
            image,
            made.shape[::-1],
            sitk.Transform(),
            sitk.sitkLinear,
            grid.origin_xyz_mm,
            grid.spacing_xyz_mm,
            grid.direction,
            outside,
            sitk.sitkFloat32,
        )
    )
    known = reference > outside
    assert known.mean() > 0.7
    # two roundings (in the plane, along z) of at most half a HU, and float32 weights
    assert np.abs(made - reference)[known].max() <= 1.01


def test_a_ramp_keeps_its_world_values():
    geometry = Geometry((10, 30, 40), (0.8, 0.9, 2.0), (5.0, -8.0, 100.0))
    world = geometry.to_world(np.moveaxis(np.indices(geometry.shape_zyx), 0, -1))
    volume = np.round(world @ [3.0, -2.0, 4.0]).astype(np.int16)
    made, grid = resample(volume, geometry, 1.0)
    expected = grid.to_world(np.moveaxis(np.indices(grid.shape_zyx), 0, -1)) @ [3.0, -2.0, 4.0]
    inner = (slice(2, -2),) * 3
    assert np.abs(made - expected)[inner].max() <= 1.6  # 0.5 in the ramp itself, 1 in resampling


def test_resampling_to_the_own_grid_copies():
    geometry = Geometry((4, 5, 6), (1.0, 1.0, 1.0))
    volume = smooth_volume((4, 5, 6))
    made, grid = resample(volume, geometry, 1.0)
    np.testing.assert_array_equal(made, volume)
    assert grid == geometry
    assert not np.shares_memory(made, volume)


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 8), (8, 8, 1), (1, 1, 1)])
def test_a_single_slice_resamples(shape):
    volume = np.full(shape, -77, np.int16)
    made, grid = resample(volume, Geometry(shape, (2.0, 2.0, 2.0)), 1.0)
    assert made.shape == grid.shape_zyx
    assert (made == -77).all()


def test_a_flipped_view_resamples_like_its_copy():
    volume = smooth_volume((6, 12, 14))[::-1, :, ::-1]
    geometry = Geometry(volume.shape, (0.7, 0.7, 2.0))
    np.testing.assert_array_equal(
        resample(volume, geometry, 1.0)[0], resample(np.ascontiguousarray(volume), geometry, 1.0)[0]
    )


def test_averaging_quietens_noise_that_skipping_keeps():
    noise = np.random.default_rng(1).normal(0, 100, (24, 64, 64)).astype(np.int16)
    geometry = Geometry(noise.shape, (0.5, 0.5, 0.5))
    averaged, grid = resample(noise, geometry, 2.0, average=True)
    skipped, same_grid = resample(noise, geometry, 2.0)
    assert grid == same_grid
    # the mean of 4×4×4 voxels has an eighth of the deviation, the middle of 2×2×2 about a third
    assert averaged.std() == pytest.approx(100 / 8, rel=0.15)
    assert skipped.std() > 25


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    to_mm=st.floats(0.5, 4.0),
    average=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_resampling_keeps_the_block_of_tissue_and_the_range_of_values(shape, spacing, to_mm, average):
    volume = smooth_volume(shape)
    geometry = Geometry(shape, spacing)
    made, grid = resample(volume, geometry, to_mm, average=average)
    assert made.shape == grid.shape_zyx
    assert made.dtype == np.int16
    np.testing.assert_allclose(grid.extent_zyx_mm, geometry.extent_zyx_mm)
    np.testing.assert_allclose(grid.to_world([-0.5] * 3), geometry.to_world([-0.5] * 3), atol=1e-9)
    assert volume.min() <= made.min()
    assert made.max() <= volume.max()


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_spacing_is_refused(spacing):
    with pytest.raises(InputRefused, match="positive number of mm"):
        resample(np.zeros((2, 2, 2), np.int16), Geometry((2, 2, 2)), spacing)


@pytest.mark.parametrize("volume", [np.zeros((2, 2, 3), np.int16), np.zeros((2, 2, 2), np.float32)])
def test_a_volume_that_does_not_fit_its_geometry_is_refused(volume):
    with pytest.raises(InputRefused, match="int16 HU of shape"):
        resample(volume, Geometry((2, 2, 2)), 1.0)


# --- boxes


def test_a_box_around_a_point_is_the_hand_worked_one():
    geometry = Geometry((50, 60, 70), (1.0, 2.0, 4.0), (10.0, 20.0, 30.0))
    # point = voxel (10, 15, 20); 6 mm are 1.5, 3 and 6 voxels along z, y, x
    box = box_around(geometry, geometry.to_world([10, 15, 20]), 6.0)
    assert box == (slice(9, 13), slice(12, 19), slice(14, 27))


def test_a_box_at_the_edge_is_clipped_and_one_outside_is_refused():
    geometry = Geometry((10, 10, 10))
    assert box_around(geometry, [[0, 0, 0]], 3.0) == (slice(0, 4),) * 3
    with pytest.raises(InputRefused, match="outside"):
        box_around(geometry, [[50, 0, 0]], 3.0)


def test_an_empty_or_foreign_mask_has_no_box():
    with pytest.raises(InputRefused, match="empty"):
        bounding_box(np.zeros((3, 3, 3)), Geometry((3, 3, 3)))
    with pytest.raises(InputRefused, match="shape"):
        bounding_box(np.ones((3, 3, 3)), Geometry((4, 3, 3)))


@given(
    points=st.lists(st.tuples(*[st.integers(0, 11)] * 3), min_size=1, max_size=6),
    margin=st.integers(0, 80).map(lambda tenths: tenths / 10),
    spacing=st.tuples(*[st.integers(4, 50).map(lambda tenths: tenths / 10)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_a_bounding_box_holds_the_mask_and_its_margin_and_no_more(points, margin, spacing):
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[tuple(np.transpose(points))] = 1
    geometry = Geometry(mask.shape, spacing)
    box = bounding_box(mask, geometry, margin)
    assert mask[box].sum() == mask.sum()
    for axis, (part, step) in enumerate(zip(box, geometry.spacing_zyx_mm, strict=True)):
        low, high = np.min(points, axis=0)[axis], np.max(points, axis=0)[axis]
        assert part.start == 0 or margin - 1e-9 <= (low - part.start) * step < margin + step + 1e-9
        assert part.stop == 12 or margin - 1e-9 <= (part.stop - 1 - high) * step < margin + step + 1e-9


# --- labels on other grids


BALLS = {1: (-30.0, 75.0, 50.0), 2: (25.0, 70.0, 48.0)}


def balls_on(geometry: Geometry) -> np.ndarray:
    """Two balls of 20 mm radius, labels 1 and 2, drawn by their definition."""
    world = geometry.to_world(np.moveaxis(np.indices(geometry.shape_zyx), 0, -1))
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for value, centre in BALLS.items():
        labels[np.linalg.norm(world - centre, axis=-1) < 20] = value
    return labels


COARSE = Geometry((40, 45, 60), (2.0, 2.0, 2.0), (-60.0, 30.0, 10.0))
SLANT = np.deg2rad(20.0)


@pytest.mark.parametrize(
    "target",
    [
        Geometry((30, 80, 100), (1.0, 1.0, 2.5), (-55.0, 31.0, 12.0)),
        Geometry((80, 70, 120), (1.0, 1.5, 1.0), (60.0, 125.0, 8.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)),
        Geometry((40, 112, 90), (1.0, 1.0, 2.0), (55.0, 35.0, 12.0), QUARTER_TURN),
        Geometry((90, 60, 80), (1.4, 1.4, 1.1), (-60.0, 120.0, 20.0), (1.0, 0, 0, 0, 0, -1.0, 0, 1.0, 0)),
        Geometry(
            (40, 70, 80),
            (1.5, 1.5, 2.0),
            (-60.0, 20.0, 10.0),
            (np.cos(SLANT), -np.sin(SLANT), 0, np.sin(SLANT), np.cos(SLANT), 0, 0, 0, 1.0),
        ),
    ],
    ids=["finer", "flipped", "turned", "coronal", "oblique"],
)
def test_labels_land_where_they_lie_in_the_world(target):
    made = labels_on(target, balls_on(COARSE), COARSE)
    expected = balls_on(target)
    assert made.dtype == np.uint8
    assert made.shape == target.shape_zyx
    for value, centre in BALLS.items():
        a, b = made == value, expected == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.96
        # half a coarse voxel, the usual mistake, would be 1 mm
        np.testing.assert_allclose(target.to_world(np.argwhere(a).mean(axis=0)), centre, atol=0.25)


def test_labels_on_their_own_grid_are_themselves_and_beyond_it_are_none():
    labels = balls_on(COARSE)
    np.testing.assert_array_equal(labels_on(COARSE, labels, COARSE), labels)
    full = np.full((4, 4, 4), 7, np.uint8)
    grid = Geometry((4, 4, 4))
    around = labels_on(grid.padded((2, 2, 2), (2, 2, 2)), full, grid)
    np.testing.assert_array_equal(around, np.pad(full, 2))


# --- views


def test_the_window_runs_from_black_to_white():
    hu = np.array([-1351, -1350, -600, 150, 151])
    assert window(hu, -600, 1500).tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(InputRefused, match="width"):
        window(hu, 0, 0)


def test_the_clear_view_smooths_noise_and_keeps_the_edge():
    rng = np.random.default_rng(3)
    clean = np.full((128, 128), -850.0)
    clean[:, 64:] = 40.0
    noisy = clean + rng.normal(0, 40, clean.shape)
    plain = ViewSettings(denoise_hu=0.0, contrast_limit=0.0)
    seen = clear_view(noisy, plain).astype(float)
    smoothed = clear_view(noisy, ViewSettings(contrast_limit=0.0)).astype(float)
    np.testing.assert_array_equal(seen, window(noisy, -600, 1500))
    assert smoothed[:, 4:60].std() < 0.5 * seen[:, 4:60].std()
    step = window(np.array([-850.0, 40.0]), -600, 1500).astype(float)
    assert smoothed[:, 64].mean() - smoothed[:, 63].mean() > 0.9 * (step[1] - step[0])


def test_the_clear_view_spreads_faint_contrast():
    import cv2

    texture = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 400, (160, 160)), (0, 0), 3)
    faint = -700 + texture
    plain = clear_view(faint, ViewSettings(denoise_hu=0.0, contrast_limit=0.0))
    clear = clear_view(faint, ViewSettings(denoise_hu=0.0, contrast_limit=4.0))
    assert clear.std() > 1.5 * plain.std()
    # brighter stays brighter: local contrast is stretched, not turned round
    assert np.corrcoef(clear.ravel(), plain.ravel())[0, 1] > 0.9


def test_a_view_is_of_one_slice():
    with pytest.raises(InputRefused, match="one slice"):
        clear_view(np.zeros((2, 3, 4)), ViewSettings())


# --- threads


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_each_item_is_worked_on_once(count):
    seen = np.zeros(count, int)

    def work(k: int) -> None:
        seen[k] += 1

    in_threads(work, count)
    assert (seen == 1).all()


def test_a_failure_in_a_thread_comes_out():
    def work(k: int) -> None:
        if k == 5:
            raise InputRefused("five")

    with pytest.raises(InputRefused, match="five"):
        in_threads(work, 9)


@settings(max_examples=30)
@given(st.tuples(*[st.integers(2, 9)] * 3), st.integers(0, 2), st.integers(-40, 40))
def test_half_size_keeps_places_and_values(shape, axis, slope):
    """A ramp along any axis: voxel i of the half lies at 2 i + 0.5 of the whole."""
    index = np.indices(shape)[axis]
    made = half_size((10 * slope * index).astype(np.int16))
    assert made.shape == tuple(n // 2 for n in shape)
    assert np.array_equal(made, np.rint(10 * slope * (2 * np.indices(made.shape)[axis] + 0.5)))
