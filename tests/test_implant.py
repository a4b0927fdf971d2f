"""Nodules set into lungs bring their own HU, leave what is denser, and are refused where they could not be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.boxes import Lesion, Marks
from noduscope.data.crops import NodulePatch
from noduscope.data.hosts import HostScan
from noduscope.data.implant import PLACES, faded, implant, random_kind, random_place, varied, with_core
from noduscope.data.validation import implanted_volumes, match
from noduscope.scan import Geometry

LUNG, NODULE, VESSEL = -850.0, 25.0, 60.0


def ball_patch(diameter: float = 8.0, hu: float = NODULE) -> NodulePatch:
    edge = 2 * (int(diameter) // 2 + 3) + 1
    grid = np.ogrid[(slice(edge),) * 3]
    away = np.sqrt(sum((g - edge // 2) ** 2 for g in grid))
    alpha = np.clip(diameter / 2 + 0.5 - away, 0, 1).astype(np.float32)
    return NodulePatch("b", "P", "solid", np.full(alpha.shape, hu, np.float32), alpha, (edge // 2,) * 3, diameter)


def lung_crop(edge: int = 48) -> np.ndarray:
    return np.full((edge, edge, edge), LUNG, np.float32)


def test_the_nodule_s_own_hu_are_inside_and_the_lung_is_as_it_was_outside():
    crop = lung_crop()
    lesion = implant(crop, ball_patch(), (20.4, 24.0, 30.0))
    assert lesion == Lesion((20.0, 24.0, 30.0), 8.0)  # the nearest voxel
    away = np.sqrt(sum((g - c) ** 2 for g, c in zip(np.ogrid[(slice(48),) * 3], lesion.centre_zyx, strict=True)))
    assert np.all(crop[away <= 3.4] == NODULE)
    assert np.all(crop[away >= 4.6] == LUNG)
    edge = crop[(away > 3.6) & (away < 4.4)]
    assert edge.min() > LUNG
    assert edge.max() < NODULE


def test_a_vessel_stays_denser_than_the_nodule():
    crop = lung_crop()
    crop[:, 23:25, 23:25] = VESSEL
    implant(crop, ball_patch(), (20.0, 24.0, 24.0))
    assert np.all(crop[:, 23:25, 23:25] == VESSEL)
    assert crop[20, 24, 26] == NODULE


def test_a_faded_nodule_keeps_its_share_of_density_and_its_shape():
    patch = ball_patch(hu=-50.0)
    made = faded(patch, 0.25)
    assert made.hu == pytest.approx(LUNG + 200.0)
    assert made.type == "ground-glass"
    assert (made.alpha is patch.alpha, made.diameter_mm, made.centre_zyx) == (True, 8.0, patch.centre_zyx)


@pytest.mark.parametrize("seed", range(5))
def test_a_part_solid_variant_keeps_its_middle_and_loses_density_around_it(seed):
    patch = ball_patch(12.0)
    made = with_core(np.random.default_rng(seed), patch)
    assert made.type == "part-solid"
    assert np.array_equal(made.alpha, patch.alpha)
    z, y, x = (round(c) for c in patch.centre_zyx)
    assert made.hu[z, y, x] == NODULE
    along = made.hu[z, y, x:][patch.alpha[z, y, x:] > 0.5]
    assert np.all(np.diff(along) <= 0), "no denser outwards"
    assert 0.2 < (along[-1] - LUNG) / (NODULE - LUNG) < 0.6


def test_ground_glass_never_dims_what_is_there():
    crop = lung_crop()
    crop[:, :, 24:] = VESSEL
    held = crop.copy()
    implant(crop, ball_patch(hu=-600.0), (24.0, 24.0, 22.0))
    assert np.all(crop >= held)


def test_ground_glass_fills_part_of_the_air_and_vessels_show_through():
    crop = lung_crop()
    crop[:, 20:23, :] = -700.0
    crop[:, :, 26:28] = VESSEL
    glass = replace(ball_patch(12.0, hu=-600.0), type="ground-glass")
    implant(crop, glass, (24.0, 24.0, 24.0))
    assert crop[24, 24, 24] == pytest.approx(-600.0)  # 250 HU on top of aerated lung
    # 250 HU on top of -700, less in the share of 700 / 850 that the air there has left
    assert crop[24, 21, 24] == pytest.approx(-700 + 250 * 700 / 850)
    assert crop[24, 24, 26] == VESSEL


@pytest.mark.parametrize("place", [(-9.0, 24.0, 24.0), (24.0, 60.0, 24.0), (24.0, 24.0, 48.5), (-300.0, 24.0, 24.0)])
def test_most_of_it_outside_is_refused_and_nothing_changes(place):
    crop = lung_crop()
    assert implant(crop, ball_patch(), place) is None
    assert np.all(crop == LUNG)


def test_a_nodule_on_the_rim_of_the_crop_is_taken_when_most_of_it_shows():
    crop = lung_crop()
    assert implant(crop, ball_patch(), (2.0, 24.0, 24.0)) is not None
    assert crop[0, 24, 24] == NODULE


def test_a_nodule_too_faint_to_be_seen_is_refused_and_nothing_changes():
    crop = lung_crop()
    faint = replace(ball_patch(hu=LUNG + 40), type="ground-glass")
    assert implant(crop, faint, (24.0, 24.0, 24.0)) is None
    assert np.all(crop == LUNG)


def test_dense_tissue_is_refused_and_nothing_changes():
    crop = np.full((48, 48, 48), 40.0, np.float32)
    assert implant(crop, ball_patch(), (24.0, 24.0, 24.0)) is None
    assert np.all(crop == 40.0)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_variants_keep_volume_and_place_in_step_with_their_diameter(seed):
    patch = ball_patch(10.0)
    other = varied(np.random.default_rng(seed), patch)
    scale = other.diameter_mm / patch.diameter_mm
    assert 0.8 <= scale <= 1.25
    # edges are whole voxels, so the volume follows the diameter within a voxel's share of 17
    assert other.alpha.sum() == pytest.approx(patch.alpha.sum() * scale**3, rel=0.15)
    assert np.allclose(other.centre_zyx, (np.asarray(other.alpha.shape) - 1) / 2, atol=0.6)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_places_are_in_aerated_lung_within_the_margin(seed):
    crop, lung = lung_crop(32), np.zeros((32, 32, 32), bool)
    lung[4:28, 4:28, 4:28] = True
    crop[14:18] = VESSEL
    place = random_place(np.random.default_rng(seed), crop, lung, 8.0)
    z, y, x = (int(p) for p in place)
    assert lung[z, y, x]
    assert crop[z, y, x] < -500
    assert min(z, y, x) >= 6
    assert max(z, y, x) < 26


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_a_place_at_a_vessel_or_the_pleura_touches_it(seed):
    crop, lung = lung_crop(40), np.zeros((40, 40, 40), bool)
    lung[2:38, 2:38, 2:38] = True
    crop[:, 20:22, 20:22] = VESSEL
    rng = np.random.default_rng(seed)
    _, y, x = random_place(rng, crop, lung, 10.0, "vessel")
    assert max(abs(y - 20.5), abs(x - 20.5)) <= 0.5 + 4  # 0.45 of the diameter, in whole voxels
    _, y, x = random_place(rng, crop, lung, 20.0, "pleura")
    assert min(y, x, 39 - y, 39 - x) <= 1 + 9


def test_without_a_vessel_there_is_no_place_at_one():
    lung = np.ones((32, 32, 32), bool)
    assert random_place(np.random.default_rng(0), lung_crop(32), lung, 8.0, "vessel") is None


def test_a_third_lies_at_the_pleura_and_a_third_of_the_rest_at_vessels():
    rng = np.random.default_rng(0)
    drawn = [random_kind(rng) for _ in range(4000)]
    shares = [drawn.count(kind) / len(drawn) for kind in ("pleura", "vessel", "free")]
    assert shares == pytest.approx([0.33, 0.67 * 0.33, 0.67 * 0.67], abs=0.03)


def test_without_lung_there_is_no_place():
    crop = lung_crop(32)
    assert random_place(np.random.default_rng(0), crop, np.zeros(crop.shape, bool), 8.0) is None


def host_scan() -> HostScan:
    hu = np.full((72, 72, 72), int(LUNG), np.int16)
    lungs = np.zeros(hu.shape, np.uint8)
    lungs[4:-4, 4:-4, 4:-4] = 1
    return HostScan("host", hu, lungs, Geometry(hu.shape), (Lesion((36.0, 36.0, 36.0), 9.0, counts=False),))


def test_validation_volumes_hold_the_scan_itself_and_copies_with_known_nodules():
    patches = [ball_patch(6.0), ball_patch(8.0), ball_patch(10.0)]
    host = host_scan()
    volumes = implanted_volumes(host, patches, copies=2, each=3, seed=0)
    assert [v.name for v in volumes] == ["host", "host+1", "host+2"]
    assert volumes[0].lesions == host.lesions
    assert np.array_equal(volumes[0].hu, host.hu)
    for volume in volumes[1:]:
        assert volume.types[0] == "real"
        assert len(volume.lesions) == len(volume.types) == len(volume.places) >= 3
        assert set(volume.places[1:]) <= set(PLACES)
        for lesion in volume.lesions[1:]:
            assert volume.hu[tuple(np.rint(lesion.centre_zyx).astype(int))] == NODULE
        # clear of each other: 8 voxels between the surfaces
        for i, a in enumerate(volume.lesions):
            for b in volume.lesions[:i]:
                apart = np.linalg.norm(np.subtract(a.centre_zyx, b.centre_zyx))
                assert apart > 7 + (a.diameter_mm + b.diameter_mm) / 2
    again = implanted_volumes(host, patches, copies=2, each=3, seed=0)
    assert all(np.array_equal(a.hu, b.hu) for a, b in zip(volumes, again, strict=True))


def test_without_patches_there_is_the_scan_alone():
    assert [v.name for v in implanted_volumes(host_scan(), [], copies=2, each=3, seed=0)] == ["host"]


def test_matching_counts_hits_misses_and_false_positives_by_the_radius():
    volume = implanted_volumes(host_scan(), [], 0, 0, 0)[0]
    lesions = (Lesion((20.0, 20.0, 20.0), 10.0), Lesion((50.0, 50.0, 50.0), 6.0), *host_scan().lesions)
    volume = type(volume)(
        "v", volume.hu, volume.lungs, volume.geometry, lesions, ("solid", "solid", "real"), ("free", "free", "real")
    )
    places = [(20, 20, 24.9), (20, 20, 21), (50, 50, 53.1), (36, 36, 36), (5, 5, 5)]
    scores = [2.0, 1.0, 0.5, 3.0, 0.0]
    marks = Marks(np.asarray(places, np.float32), np.asarray(scores, np.float32), np.full(5, 8, np.float32))
    matched = match([volume], [marks])
    # 4.9 of a radius of 5 is a hit, 3.1 of 3 is a false positive, the lesion that counts neither way forgives
    assert matched.best.tolist() == [2.0, -np.inf]
    assert sorted(matched.false_positives.tolist()) == [0.0, 0.5]
    assert matched.sensitivity(1.0) == 0.5
    assert matched.scans == 1
