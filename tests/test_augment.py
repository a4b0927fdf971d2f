"""Augmentation: what is moved lands where the view says, the same seed gives the same crop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.augment import View, cut, cut_mask, degrade, enhanced, noise_bank, random_view, thick_slices
from noduscope.boxes import Lesion

AIR = -1000.0
PLACE = (21.0, 24.0, 19.0)
VIEWS = st.builds(
    lambda offset, zoom, angle: View(tuple(p + o for p, o in zip(PLACE, offset, strict=True)), 32, zoom, angle),
    offset=st.tuples(*(st.floats(-5, 5) for _ in range(3))),
    zoom=st.tuples(*(st.floats(0.85, 1.2) for _ in range(3))),
    angle=st.floats(-np.pi, np.pi),
)
"""Views of a ball there, off its centre."""


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """int16 HU: air with a ball of tissue whose edge is soft over a voxel."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    away = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    return np.rint(AIR + 1000 * np.clip(radius + 0.5 - away, 0, 1)).astype(np.int16)


def centre_of(crop: np.ndarray) -> np.ndarray:
    """Centre of mass of what is denser than air."""
    mass = crop - AIR
    sums = [mass.sum(axis=tuple(o for o in range(3) if o != a)) for a in range(3)]
    return np.array([(s * np.arange(len(s))).sum() for s in sums]) / mass.sum()


def in_scan(view: View) -> np.ndarray:
    """Scan coordinates ``(3, n)`` of all voxels of a view's crop."""
    z, y, x = ((np.indices((view.size,) * 3).reshape(3, -1).T - (view.size - 1) / 2) / view.zoom_zyx).T
    c, s = np.cos(view.angle), np.sin(view.angle)
    return np.stack([z, c * y + s * x, c * x - s * y]) + np.reshape(view.centre_zyx, (3, 1))


@settings(max_examples=40)
@given(view=VIEWS)
def test_a_ball_lands_where_the_view_says(view):
    crop = cut(ball((44, 46, 48), PLACE, 4.0), view, AIR)
    assert crop.shape == (32, 32, 32)
    assert crop.dtype == np.float32
    assert np.abs(centre_of(crop) - view.to_crop(np.asarray([PLACE]))[0]).max() < 0.25


def test_zoom_magnifies():
    volume = ball((44, 46, 48), (21.0, 24.0, 19.0), 5.0)
    for zoom in (0.85, 1.0, 1.2):
        crop = cut(volume, View((21.0, 24.0, 19.0), 32, (zoom,) * 3), AIR)
        radius = (3 * np.count_nonzero(crop > -500) / (4 * np.pi)) ** (1 / 3)
        assert radius == pytest.approx(5.0 * zoom, abs=0.35)


def test_a_straight_view_is_the_voxels_themselves():
    volume = np.random.default_rng(0).integers(-1000, 400, (20, 22, 24)).astype(np.int16)
    # the middle of an even crop lies between two voxels
    crop = cut(volume, View((9.5, 10.5, 11.5), 16), AIR)
    assert np.allclose(crop, volume[2:18, 3:19, 4:20])


def test_outside_the_scan_there_is_the_fill():
    volume = np.zeros((10, 10, 10), np.int16)
    crop = cut(volume, View((0.0, 0.0, 0.0), 16), -777.0)
    assert crop[0, 0, 0] == -777.0
    assert crop[-1, -1, -1] == 0.0
    assert np.all(cut(volume, View((90.0, 90.0, 90.0), 16), -777.0) == -777.0)


@settings(max_examples=20)
@given(view=VIEWS)
def test_a_mask_is_cut_as_its_scan_is(view):
    volume = ball((44, 46, 48), PLACE, 6.0)
    mask = cut_mask(2 * (volume > -500).astype(np.uint8), view)
    assert mask.dtype == bool
    crop = cut(volume, view, AIR)
    # the nearest of eight voxels has at least an eighth of the weight
    assert mask[crop > -500 / 8 + 10].all()
    assert not mask[crop < AIR + 500 / 8 - 10].any()
    # and it is that voxel's, but for places half-way between two, which rounding decides
    place = in_scan(view)
    held = (volume > -500)[tuple(np.clip(np.floor(place + 0.5).astype(int), 0, np.reshape(volume.shape, (3, 1)) - 1))]
    sure = (np.abs(place % 1 - 0.5) > 0.05).all(axis=0)
    assert np.array_equal(mask.ravel()[sure], held[sure])


def test_nothing_outside_the_scan_is_in_a_mask():
    mask = np.ones((10, 10, 10), np.uint8)
    shown = cut_mask(mask, View((0.0, 0.0, 0.0), 16))
    assert shown[-8:, -8:, -8:].all()
    assert not shown[:7].any()
    assert not cut_mask(mask, View((90.0, 90.0, 90.0), 16)).any()


def test_the_same_seed_gives_the_same_crop_and_another_does_not():
    volume = ball((40, 40, 40), (20, 20, 20), 6.0)
    bank = noise_bank(np.random.default_rng(1), 40)

    def made(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return degrade(rng, cut(volume, random_view(rng, (20, 20, 20), 32), AIR), bank)

    assert np.array_equal(made(4), made(4))
    assert not np.array_equal(made(4), made(5))


def test_random_views_keep_to_their_range():
    rng = np.random.default_rng(0)
    zooms = np.array([random_view(rng, (0, 0, 0), 8).zoom_zyx for _ in range(500)])
    assert zooms.min() > 0.8
    assert zooms.max() < 1.27
    assert (zooms.max(axis=1) / zooms.min(axis=1)).max() <= np.exp(0.1) + 1e-9


def test_degraded_tissue_keeps_its_place_on_the_grey_scale():
    """Contrast between lung and nodule survives any draw: a nodule never becomes lung; an agent makes it denser."""
    volume = ball((32, 32, 32), (16, 16, 16), 9.0).astype(np.float32)
    bank = noise_bank(np.random.default_rng(1), 40)
    for seed in range(30):
        crop = degrade(np.random.default_rng(seed), volume.copy(), bank)
        assert -120 < crop[12:20, 12:20, 12:20].mean() < 120 + 180 * 1.07
        assert crop[:4, :4, :4].mean() == pytest.approx(AIR, abs=120)


def test_a_contrast_agent_stays_out_of_air_and_adds_in_proportion_to_tissue():
    crop = np.array([[[-1000.0, -850.0, -405.0, 40.0, 700.0]]], np.float32)
    assert enhanced(crop, 100.0).ravel().tolist() == pytest.approx([-1000.0, -850.0, -355.0, 140.0, 800.0])


def test_degrading_leaves_its_input_alone():
    volume = ball((32, 32, 32), (16, 16, 16), 9.0).astype(np.float32)
    held = volume.copy()
    for seed in range(8):
        degrade(np.random.default_rng(seed), volume, noise_bank(np.random.default_rng(1), 40))
    assert np.array_equal(volume, held)


@settings(max_examples=30)
@given(st.floats(1.0, 4.0), st.integers(0, 100))
def test_thick_slices_keep_the_mean(thickness, seed):
    # quiet ends: repeating the end slices on the way back weighs them a little more
    crop = np.zeros((32, 12, 12), np.float32)
    crop[8:24] = np.random.default_rng(seed).normal(-400, 200, (16, 12, 12))
    thick = thick_slices(crop, thickness)
    assert thick.shape == crop.shape
    assert thick.mean() == pytest.approx(crop.mean(), rel=0.02)


def test_thick_slices_blur_along_z_only():
    crop = np.zeros((32, 12, 12), np.float32)
    crop[16, 6, 6] = 1000
    thick = thick_slices(crop, 3.0)
    assert 100 < thick.max() < 500
    elsewhere = thick.copy()
    elsewhere[:, 6, 6] = 0
    assert not elsewhere.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_lesion_follows_its_ball(axis):
    shape, place = (24, 28, 32), (9.0, 12.0, 20.0)
    mirrored = np.flip(ball(shape, place, 4.0), axis)
    lesion = Lesion(place, 8.0).mirrored(axis, shape[axis] - 1)
    assert np.allclose(centre_of(mirrored.astype(np.float32)), lesion.centre_zyx, atol=0.01)
