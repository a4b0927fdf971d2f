"""Planes through a candidate: where they lie, what hidden neighbours hide, and the way back to the scan."""

from __future__ import annotations

import numpy as np
import pytest

from noduscope.settings import GraderSettings
from noduscope.views import Turn, axial_view, encode, in_plane, view_of, window_index

SETTINGS = GraderSettings(view_voxels=48, spacing_mm=0.7)
SPACING = (2.0, 0.8, 0.6)


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 400, (9, 90, 110)).astype(np.int16)


def test_the_voxel_lies_in_the_middle_and_a_pixel_is_its_spacing():
    hu = np.zeros((5, 81, 101), np.int16)
    hu[2, 40, 50] = 1000
    hu[2, 40, 50 + 7] = 1000  # 4.2 mm to the right: six pixels
    planes = axial_view(hu, (2.0, 0.6, 0.6), (2.0, 40.0, 50.0), SETTINGS)
    middle = (SETTINGS.view_voxels - 1) / 2
    bright = planes[1] > 100
    ys, xs = np.nonzero(bright)
    assert np.isclose(ys.mean(), middle, atol=0.6)
    left, right = xs[xs < middle + 3].mean(), xs[xs > middle + 3].mean()
    assert np.isclose(left, middle, atol=0.6)
    assert np.isclose(right - left, 6.0, atol=0.6)


def test_neighbours_are_the_planes_so_many_millimetres_away():
    hu = np.arange(9, dtype=np.int16)[:, None, None] * np.ones((9, 80, 80), np.int16) * 100
    below, here, above = axial_view(hu, (2.0, 0.7, 0.7), (4.0, 40.0, 40.0), SETTINGS).mean(axis=(1, 2))
    assert (below, here, above) == pytest.approx((400 - 70, 400, 400 + 70))  # 1.4 mm are 0.7 slices of 100 HU


def test_a_plane_alone_tells_nothing_of_what_lies_around_it():
    """However many slices there are, and whatever they hold, the view is the same to the bit."""
    hu = volume()
    alone = encode(axial_view(hu, SPACING, (4.0, 44.5, 55.2), SETTINGS, alone=True))
    other = volume(1)
    other[4] = hu[4]
    assert np.array_equal(alone, encode(axial_view(other, SPACING, (4.0, 44.5, 55.2), SETTINGS, alone=True)))
    assert np.array_equal(alone, encode(axial_view(hu[4:5], SPACING, (0.0, 44.5, 55.2), SETTINGS, alone=True)))
    shown = encode(axial_view(hu, SPACING, (4.0, 44.5, 55.2), SETTINGS))
    assert not np.array_equal(alone, shown)


def test_the_planes_of_the_three_directions_cross_in_the_voxel():
    hu = np.full((60, 70, 80), -900, np.int16)
    hu[30, 33:38, 40] = 500  # a rod along y
    middle = SETTINGS.view_voxels // 2
    axial, coronal, sagittal = (
        view_of(hu, (0.7, 0.7, 0.7), (30.0, 35.0, 40.0), SETTINGS, axis)[1] > -600 for axis in range(3)
    )
    assert np.ptp(np.nonzero(axial)[0]) >= 4 > np.ptp(np.nonzero(axial)[1])
    assert max(np.ptp(n) for n in np.nonzero(coronal)) <= 2
    assert np.ptp(np.nonzero(sagittal)[1]) >= 4 > np.ptp(np.nonzero(sagittal)[0])
    assert all(p[middle - 1 : middle + 1, middle - 1 : middle + 1].any() for p in (axial, coronal, sagittal))


def test_a_turn_moves_outline_and_image_alike():
    image = np.zeros((1, 96, 96), np.int16)
    image[0, 30:50, 40:70] = 1000
    turn = Turn(angle=0.7, zoom=1.1, shift_yx_mm=(2.0, -1.0), mirrored=True)
    seen = axial_view(image, (1.0, 0.7, 0.7), (0.0, 40.0, 52.0), SETTINGS, turn)[1]
    outline = in_plane(image[0] > 0, (0.7, 0.7), (40.0, 52.0), SETTINGS, turn)
    assert np.allclose(seen / 1000, outline, atol=1e-3)


def test_channels_hold_lung_to_bone_and_the_dense_range():
    planes = np.array([-1000.0, 400.0, 1000.0])[:, None, None] * np.ones((3, 2, 2), np.float32)
    below, here, above, dense = encode(planes)[0, 0]
    assert (below, here, above) == (0.0, 1.0, 1.0)
    assert dense == pytest.approx((400 - 100) / 900)


def test_a_mask_comes_back_to_the_voxels_it_was_seen_on():
    inside = np.zeros((90, 110), np.float32)
    y, x = np.ogrid[:90, :110]
    inside[((y - 44) * 0.8) ** 2 + ((x - 55) * 0.6) ** 2 <= 8.0**2] = 1.0
    seen = in_plane(inside, SPACING[1:], (44.5, 55.2), SETTINGS)
    (top, left), (back,) = window_index(seen[None], SPACING[1:], (44.5, 55.2), SETTINGS)
    restored = np.zeros_like(inside)
    restored[top : top + back.shape[0], left : left + back.shape[1]] = back
    wrong = (restored >= 0.5) != (inside >= 0.5)
    assert wrong.sum() <= 0.05 * inside.sum()  # only pixels that the border cuts
