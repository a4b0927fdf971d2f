"""Regions, closing and hole filling against SciPy and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage as ndi
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.morphology import close, dilate, erode, fill_holes, regions


def random_mask(seed: int, shape: tuple[int, int, int], share: float) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def ball(radius: float) -> np.ndarray:
    reach = int(radius)
    z, y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1, -reach : reach + 1]
    return z * z + y * y + x * x <= radius**2 + 1e-9


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), shape=st.tuples(*[st.integers(1, 12)] * 3))
@settings(max_examples=80, deadline=None)
def test_regions_are_scipys(seed, share, shape):
    mask = random_mask(seed, shape, share)
    found = regions(mask)
    expected, count = ndi.label(mask)
    assert len(found.sizes) == count + 1
    # the same partition: each of our labels meets one of theirs and the other way round
    pairs = {(a, b) for a, b in zip(found.labels.ravel().tolist(), expected.ravel().tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    np.testing.assert_array_equal(found.sizes[1:], np.bincount(found.labels.ravel(), minlength=count + 1)[1:])


def test_regions_that_meet_late_are_one():
    # two columns that only the last slice joins, and a third on its own
    mask = np.zeros((5, 3, 9), np.uint8)
    mask[:, 1, [1, 5]] = 1
    mask[4, 1, 1:6] = 1
    mask[:, 1, 8] = 1
    found = regions(mask)
    assert sorted(found.sizes[1:].tolist()) == [5, 13]
    assert found.labels[0, 1, 1] == found.labels[0, 1, 5] != found.labels[0, 1, 8]
    np.testing.assert_array_equal(
        found.chosen(found.sizes > 6).any(axis=(0, 1)), mask[:, :, :6].any(axis=(0, 1)).tolist() + [0] * 3
    )


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0, 3.2, 5.0])
def test_dilation_erosion_and_closing_are_by_a_ball(radius):
    mask = random_mask(7, (14, 16, 18), 0.01)
    np.testing.assert_array_equal(dilate(mask, radius), ndi.binary_dilation(mask, ball(radius)))
    full = 1 - mask
    np.testing.assert_array_equal(erode(full, radius), ndi.binary_erosion(full, ball(radius), border_value=1))
    pad = int(radius) + 2
    expected = ndi.binary_closing(np.pad(mask, pad), ball(radius))[pad:-pad, pad:-pad, pad:-pad]
    np.testing.assert_array_equal(close(mask, radius), expected)


@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 0.6), radius=st.floats(1.0, 4.0))
@settings(max_examples=30, deadline=None)
def test_closing_only_adds_and_is_done_after_once(seed, share, radius):
    mask = random_mask(seed, (7, 9, 8), share)
    closed = close(mask, radius)
    assert (closed >= mask).all()
    np.testing.assert_array_equal(close(closed, radius), closed)


def test_holes_are_filled_slice_by_slice():
    mask = np.zeros((3, 9, 9), np.uint8)
    mask[1, 2:7, 2:7] = 1
    mask[1, 4, 4] = 0  # a hole
    mask[2, 2:7, 2:7] = 1
    mask[2, 4, 4:] = 0  # a bay, open to the right
    filled = fill_holes(mask)
    assert filled[1].sum() == 25
    np.testing.assert_array_equal(filled[2], mask[2])
    np.testing.assert_array_equal(filled[0], mask[0])
    np.testing.assert_array_equal(mask[1, 4, 4], 0)
