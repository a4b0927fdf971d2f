"""Targets and marks: what is encoded comes back, and what is not known carries no loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.boxes import CHANNELS, HEAT, OFFSET, SIZE, STRIDE, Lesion, Marks, cell_centres, decode, encode, suppress

SHAPE = (48, 40, 32)
WEIGHT, REGRESS = 1, 2


def as_output(target: np.ndarray) -> np.ndarray:
    """The output of a network that answers with the target itself."""
    output = np.empty((*target.shape[:3], CHANNELS), np.float32)
    p = np.clip(target[..., 0], 1e-4, 1 - 1e-4)
    output[..., HEAT] = np.log(p / (1 - p))
    output[..., SIZE] = target[..., 3]
    output[..., OFFSET] = target[..., 4:7]
    return output


def marks_of(rows: list[tuple[tuple[float, float, float], float, float]]) -> Marks:
    centre, score, diameter = zip(*rows, strict=True)
    return Marks(*(np.asarray(v, np.float32) for v in (centre, score, diameter)))


def test_cells_are_four_voxels_wide():
    # the first cell covers voxels 0 to 3, whose middle is 1.5
    assert cell_centres(3).tolist() == [1.5, 5.5, 9.5]


@given(
    place=st.tuples(*(st.floats(0, n - 1) for n in SHAPE)),
    diameter=st.floats(3.0, 40.0),
    spacing=st.sampled_from([0.7, 1.0, 1.5]),
)
def test_encode_then_decode_gives_the_lesion_back(place, diameter, spacing):
    target = encode([Lesion(place, diameter)], SHAPE, None, spacing)
    marks = decode(as_output(target), spacing)
    assert np.abs(marks.centre_zyx[0] - place).max() < 0.5
    assert marks.diameter_mm[0] == pytest.approx(diameter, rel=0.01)


def test_two_lesions_come_back_as_two():
    lesions = [Lesion((10.2, 9.0, 9.0), 8.0), Lesion((36.0, 30.7, 22.0), 14.0)]
    marks = decode(as_output(encode(lesions, SHAPE, None, 1.0)), 1.0, (0.0, 100, 6.0))
    assert len(marks) == 2
    for lesion in lesions:
        nearest = np.linalg.norm(marks.centre_zyx - np.asarray(lesion.centre_zyx), axis=1).argmin()
        assert np.abs(marks.centre_zyx[nearest] - lesion.centre_zyx).max() < 0.5
        assert marks.diameter_mm[nearest] == pytest.approx(lesion.diameter_mm, rel=0.01)


def test_a_counted_lesion_is_learnt_at_its_nearest_cell():
    target = encode([Lesion((21.5, 17.5, 13.5), 6.0)], SHAPE, None, 1.0)
    assert target[5, 4, 3, 0] == 1.0  # 21.5, 17.5 and 13.5 are the centres of cells 5, 4 and 3
    assert np.count_nonzero(target[..., 0] == 1.0) == 1
    assert target[5, 4, 3, REGRESS] == 1.0
    assert target[5, 4, 3, 4:7] == pytest.approx(0.0)
    assert target[5, 4, 3, 3] == pytest.approx(np.log(0.6))  # log of the diameter over 10 mm
    assert target[..., WEIGHT].min() == 1.0


@pytest.mark.parametrize("centre", [(-2.0, 20.0, 16.0), (49.0, 20.0, 16.0), (24.0, 20.0, 34.0)])
def test_a_lesion_whose_centre_is_cut_off_carries_no_loss(centre):
    target = encode([Lesion(centre, 12.0)], SHAPE, None, 1.0)
    assert target[..., 0].max() == 0.0
    assert target[..., REGRESS].max() == 0.0
    nearest = tuple(int(np.clip(c // STRIDE, 0, n // STRIDE - 1)) for c, n in zip(centre, SHAPE, strict=True))
    assert target[(*nearest, WEIGHT)] == 0.0
    # far away everything still counts
    far = tuple(n // STRIDE - 1 - i for i, n in zip(nearest, SHAPE, strict=True))
    assert target[(*far, WEIGHT)] == 1.0


def test_a_lesion_that_does_not_count_is_passed_over():
    centre = (21.5, 17.5, 13.5)
    target = encode([Lesion(centre, 12.0, counts=False)], SHAPE, None, 1.0)
    axes = [cell_centres(n // STRIDE) for n in SHAPE]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    away = np.linalg.norm(grid - centre, axis=-1)
    assert np.all(target[away < 6.0, WEIGHT] == 0.0)  # its inside
    assert np.all(target[away > 12.0, WEIGHT] == 1.0)
    assert target[..., 0].max() == 0.0


def test_readers_own_outlines_among_the_excluded_findings_take_nothing_from_their_nodule():
    # LUNA16's annotations_excluded.csv lists every reader's outline of a nodule, its own reference ones too
    nodule = Lesion((21.5, 17.5, 13.5), 9.0)
    readings = [Lesion((22.0, 17.0, 14.0), 8.0, counts=False), Lesion((21.0, 18.0, 13.0), 10.0, counts=False)]
    alone = encode([nodule], SHAPE, None, 1.0)
    for lesions in ([nodule, *readings], [*readings, nodule]):
        assert np.array_equal(encode(lesions, SHAPE, None, 1.0), alone)


def test_an_excluded_finding_beside_a_nodule_is_passed_over_and_the_nodule_is_not():
    nodule, other = Lesion((21.5, 17.5, 13.5), 6.0), Lesion((21.5, 17.5, 18.5), 6.0, counts=False)
    for lesions in ([nodule, other], [other, nodule]):
        target = encode(lesions, SHAPE, None, 1.0)
        assert target[5, 4, 3, WEIGHT] == 1.0
        assert target[5, 4, 4, WEIGHT] == 0.0


def test_a_nodule_cut_off_beside_a_whole_one_does_not_take_it_away():
    whole, cut_off = Lesion((1.5, 17.5, 13.5), 6.0), Lesion((-2.5, 17.5, 13.5), 6.0)
    for lesions in ([whole, cut_off], [cut_off, whole]):
        assert encode(lesions, SHAPE, None, 1.0)[0, 4, 3, WEIGHT] == 1.0


def test_what_is_given_as_unknown_stays_unknown():
    weight = np.zeros(tuple(n // STRIDE for n in SHAPE), np.float32)
    weight[3:6] = 1.0
    target = encode([], SHAPE, weight, 1.0)
    assert np.array_equal(target[..., WEIGHT], weight)


def test_of_two_near_marks_the_weaker_goes():
    rows = [
        ((10.0, 10.0, 10.0), 3.0, 5.0),
        ((10.0, 10.0, 15.0), 2.0, 5.0),  # 5 mm off: nearer than the separation
        ((10.0, 10.0, 17.0), 1.0, 5.0),  # 7 mm off the first, and the second is gone
    ]
    kept = suppress(marks_of(rows), 1.0, 6.0, 100)
    assert kept.score.tolist() == [3.0, 1.0]


def test_a_large_mark_clears_its_radius():
    rows = [((20.0, 20.0, 20.0), 3.0, 30.0), ((20.0, 20.0, 34.0), 2.0, 5.0), ((20.0, 20.0, 36.0), 1.0, 5.0)]
    assert suppress(marks_of(rows), 1.0, 0.5, 100).score.tolist() == [3.0, 1.0]


def test_separation_is_in_millimetres():
    rows = [((10.0, 10.0, 10.0), 3.0, 2.0), ((10.0, 10.0, 14.0), 2.0, 2.0)]
    assert len(suppress(marks_of(rows), 1.0, 6.0, 100)) == 1
    assert len(suppress(marks_of(rows), 2.0, 6.0, 100)) == 2


def test_at_most_so_many_marks_and_the_strongest_of_them():
    rows = [((10.0 * i, 0.0, 0.0), 10.0 - i, 3.0) for i in range(6)]
    assert suppress(marks_of(rows), 1.0, 6.0, 4).score.tolist() == [10.0, 9.0, 8.0, 7.0]


def test_nothing_above_the_floor_is_no_mark():
    assert len(decode(np.full((4, 4, 4, CHANNELS), -9.0, np.float32), 1.0)) == 0


@given(
    centre=st.tuples(*(st.floats(0, 31) for _ in range(3))),
    axis=st.integers(0, 2),
)
def test_mirroring_twice_is_nothing(centre, axis):
    lesion = Lesion(centre, 5.0, counts=False)
    once = lesion.mirrored(axis, 31)
    assert once.centre_zyx[axis] == 31 - centre[axis]
    assert once.mirrored(axis, 31).centre_zyx == pytest.approx(centre)
    assert once.counts is False
