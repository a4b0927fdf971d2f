"""Labelled nodule stacks: HU and outlines as they were stored, and a nodule of the right size between its slices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers_stacks import LUNG_HU, NODULE_HU, Ball, write_stacks
from noduscope.data.crops import CONSENSUS, RATINGS, isotropic_patch, read_stacks, resize_linear, signed_distance_mm
from noduscope.errors import InputRefused

BALLS = (
    Ball("P1"),
    Ball("P2", diameter_mm=20.0, slice_mm=1.25, texture="3|2|3|3"),
    Ball("P3", diameter_mm=6.0, slice_mm=1.0, pixel_mm=0.6, texture="1|1|2|1"),
    Ball("P4", diameter_mm=4.0, slice_mm=5.0),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stacks(tmp_path_factory.mktemp("lidc") / "lidc_nodules", BALLS)


@pytest.fixture(scope="module")
def stacks(folder: Path):
    return list(read_stacks(folder))


def test_stacks_come_in_the_table_s_order_with_its_facts(stacks):
    assert [s.patient_id for s in stacks] == ["P1", "P2", "P3", "P4"]
    assert [s.type for s in stacks] == ["solid", "part-solid", "ground-glass", "solid"]
    assert stacks[0].spacing_zyx_mm == (2.0, 0.75, 0.75)
    assert set(stacks[0].ratings) == set(RATINGS)
    assert stacks[0].ratings["subtlety"] == (4, 4, 5, 4)


def test_the_map_of_each_slice_gives_hu(stacks):
    # 4 * 255 - 1000 = 20, 4 * 35 - 1000 = -860
    for stack in stacks:
        assert stack.hu.dtype == np.int16
        assert stack.hu.shape[1:] == (96, 96)
        assert set(np.unique(stack.hu)) == {LUNG_HU, NODULE_HU}
        assert np.all(stack.hu[stack.agreement >= CONSENSUS] == NODULE_HU)


def test_a_single_slice_has_its_thickness_for_spacing(stacks):
    assert stacks[3].hu.shape[0] == 1
    assert stacks[3].spacing_zyx_mm == (5.0, 0.75, 0.75)


def test_agreement_is_the_share_of_the_readers(stacks):
    # three of four drew the ball, the fourth half a millimetre within it
    assert set(np.unique(stacks[0].agreement)) == {0.0, 0.75, 1.0}
    assert stacks[0].agreement[:, 48, 48].tolist() == [1.0] * len(stacks[0].hu)


def test_more_ratings_than_readers_do_not_thin_the_agreement(stacks):
    """LIDC has nodules with five to seven ratings; their images hold the outlines of four readers."""
    rated_often = replace(stacks[0], n_readers=7)
    assert np.array_equal(rated_often.agreement, stacks[0].agreement)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("spacing", [0.75, 1.0])
def test_a_ball_keeps_its_volume_and_its_place(stacks, number, spacing):
    ball, patch = BALLS[number], isotropic_patch(stacks[number], spacing)
    expected = np.pi / 6 * ball.diameter_mm**3
    assert np.pi / 6 * patch.diameter_mm**3 == pytest.approx(expected, rel=0.10)
    assert np.count_nonzero(patch.alpha > 0.5) * spacing**3 == pytest.approx(expected, rel=0.10)
    # a ball is its own mirror image, so its centre is the middle of the patch
    middle = (np.asarray(patch.alpha.shape) - 1) / 2
    assert np.abs(np.asarray(patch.centre_zyx) - middle).max() < 0.5
    assert patch.hu.shape == patch.alpha.shape
    assert patch.hu[patch.alpha > 0.99].mean() == pytest.approx(NODULE_HU, abs=5)


def test_a_ball_is_round_along_z_too(stacks):
    patch = isotropic_patch(stacks[1], 1.0)
    inside = patch.alpha > 0.5
    extents = [np.count_nonzero(inside.any(axis=tuple(o for o in range(3) if o != a))) for a in range(3)]
    assert max(extents) - min(extents) <= 2
    assert extents[1] == pytest.approx(BALLS[1].diameter_mm, abs=1.5)


def test_one_slice_becomes_a_low_dome_not_a_plate(stacks):
    patch = isotropic_patch(stacks[3], 1.0)
    areas = (patch.alpha > 0.5).sum(axis=(1, 2))
    assert areas[0] < areas.max()
    assert areas[-1] < areas.max()


def test_without_a_consensus_there_is_no_patch(stacks):
    lonely = replace(stacks[0], readers=(stacks[0].readers & 1).astype(np.uint8))
    assert isotropic_patch(lonely, 1.0) is None


def test_distance_to_an_outline_is_signed_and_in_millimetres():
    inside = np.zeros((21, 21), bool)
    inside[8:13, 8:13] = True
    distance = signed_distance_mm(inside, 0.5)
    # from the middle of five voxels it is three steps to the first voxel outside
    assert distance[10, 10] == pytest.approx(1.5)
    assert distance[10, 16] == pytest.approx(-2.0)
    assert np.array_equal(distance > 0, inside)
    assert signed_distance_mm(np.zeros((21, 21), bool), 0.5).max() < -10


def test_resizing_keeps_a_ramp_and_a_constant():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[:, None, None], (8, 6, 6)).copy()
    large = resize_linear(ramp, (16, 6, 12))
    assert large.shape == (16, 6, 12)
    assert np.allclose(large[1:-1, 0, 0], np.arange(1, 15) * 0.5 - 0.25)
    assert np.allclose(resize_linear(np.full((5, 5, 5), 3.0, np.float32), (9, 2, 7)), 3.0)


def test_a_folder_without_its_table_is_refused(tmp_path: Path):
    with pytest.raises(InputRefused, match=r"holds no nodules\.csv"):
        list(read_stacks(tmp_path))


def test_a_missing_or_wrong_image_is_refused(tmp_path: Path):
    folder = write_stacks(tmp_path / "s", BALLS[:1])
    image = folder / "stacks" / "P1_00_image.webp"
    (folder / "stacks" / "P1_00_readers.webp").write_bytes(b"RIFF no picture")
    with pytest.raises(InputRefused, match=r"P1_00_readers\.webp is missing or not 5 tiles"):
        list(read_stacks(folder))
    image.unlink()
    with pytest.raises(InputRefused, match=r"P1_00_image\.webp is missing"):
        list(read_stacks(folder))


@pytest.mark.slow
def test_every_real_stack_is_read_and_nearly_all_give_a_patch(shared_data: Path):
    """Six nodules of the table have no consensus; the others' outlines are as large as it says."""
    slabs, diameters = [], []
    for count, stack in enumerate(read_stacks(shared_data / "lidc_nodules")):
        assert stack.hu.shape == stack.readers.shape
        dz, dy, _ = stack.spacing_zyx_mm
        voxels = np.count_nonzero(stack.agreement >= CONSENSUS)
        slabs.append(((6 / np.pi * voxels * dz * dy**2) ** (1 / 3), stack.diameter_mm))
        if count % 10 == 0:
            patch = isotropic_patch(stack, 1.0)
            if patch is not None:
                diameters.append((patch.diameter_mm, stack.diameter_mm))
    made, table = np.transpose(slabs)
    assert len(made) == 1089
    assert np.count_nonzero(made == 0) == np.count_nonzero(table == 0) == 6
    # the table measured a few over slices that are not in the stack
    assert np.mean(np.abs(made - table) < 0.05) > 0.97
    ratio = np.divide(*np.transpose(diameters))
    assert 0.98 < np.median(ratio) < 1.02
    assert np.percentile(ratio, 5) > 0.94
    assert np.percentile(ratio, 95) < 1.08
