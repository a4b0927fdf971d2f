"""Laws of geometry: world and index, crops, resizing, canonical order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.errors import InputRefused
from noduscope.scan import Geometry, Scan, ScanSource

PERMUTATIONS = list(itertools.permutations(range(3)))


@st.composite
def geometries(draw):
    shape = tuple(draw(st.integers(2, 6)) for _ in range(3))
    spacing = tuple(draw(st.floats(0.3, 5.0)) for _ in range(3))
    origin = tuple(draw(st.floats(-400, 400)) for _ in range(3))
    order = draw(st.sampled_from(PERMUTATIONS))
    axes = np.eye(3)[:, order] * [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    a = draw(st.floats(-0.3, 0.3))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return Geometry(shape, spacing, origin, tuple((turn @ axes).ravel()))


def scan_of(geometry: Geometry) -> Scan:
    hu = np.arange(np.prod(geometry.shape_zyx), dtype=np.int16).reshape(geometry.shape_zyx)
    uids = tuple(str(i) for i in range(geometry.shape_zyx[0]))
    return Scan(hu, geometry, ScanSource("1.2.3", "test", uids, tuple(f"f{u}" for u in uids)))


@given(geometries())
def test_world_and_index_are_inverse(geometry):
    index = np.random.default_rng(0).uniform(-3, 9, (20, 3))
    np.testing.assert_allclose(geometry.to_index(geometry.to_world(index)), index, atol=1e-9)


def test_world_of_a_voxel_by_hand():
    # x axis of the array runs to -y of the patient, y axis to +x, z axis to +z
    geometry = Geometry((3, 4, 5), (2.0, 3.0, 4.0), (10.0, 20.0, 30.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    # voxel z=1, y=2, x=3: x + 2*3 = 16, y - 3*2 = 14, z + 1*4 = 34
    np.testing.assert_allclose(geometry.to_world((1, 2, 3)), (16.0, 14.0, 34.0))


@given(geometries())
def test_canonical_moves_no_voxel(geometry):
    scan = scan_of(geometry)
    made = scan.canonical()
    for index in np.ndindex(made.hu.shape):
        place = made.geometry.to_world(index)
        there = tuple(np.rint(geometry.to_index(place)).astype(int))
        assert made.hu[index] == scan.hu[there]
    # each axis runs mostly along its own world axis, in its direction
    assert np.all(np.diag(made.geometry.axes) > 0.7)


@given(geometries())
def test_from_canonical_puts_a_block_back(geometry):
    scan = scan_of(geometry)
    made = scan.canonical()
    box = tuple(slice(1, n) for n in made.hu.shape)
    own, values = scan.from_canonical(box, made.hu[box])
    np.testing.assert_array_equal(values, scan.hu[own])


@given(geometries())
def test_a_crop_keeps_its_place(geometry):
    box = tuple(slice(1, n) for n in geometry.shape_zyx)
    np.testing.assert_allclose(geometry.cropped(box).to_world((0, 0, 0)), geometry.to_world((1, 1, 1)), atol=1e-9)


@given(geometries())
def test_padding_is_the_inverse_of_cropping(geometry):
    padded = geometry.padded((1, 2, 3), (3, 2, 1))
    box = tuple(slice(b, b + n) for b, n in zip((1, 2, 3), geometry.shape_zyx, strict=True))
    back = padded.cropped(box)
    np.testing.assert_allclose(back.origin_xyz_mm, geometry.origin_xyz_mm, atol=1e-9)
    assert back.shape_zyx == geometry.shape_zyx


@given(geometries(), st.integers(1, 9))
def test_resizing_keeps_the_outer_edges(geometry, n):
    made = geometry.resized((n, n + 1, n + 2))
    first, last = np.full(3, -0.5), np.asarray(geometry.shape_zyx) - 0.5
    np.testing.assert_allclose(made.to_world(first), geometry.to_world(first), atol=1e-9)
    np.testing.assert_allclose(made.to_world(np.asarray(made.shape_zyx) - 0.5), geometry.to_world(last), atol=1e-9)


def test_slice_identifiers_follow_a_flip_and_a_crop():
    scan = scan_of(Geometry((4, 3, 3), direction=(1, 0, 0, 0, 1, 0, 0, 0, -1)))
    assert scan.canonical().source.sop_instance_uids == ("3", "2", "1", "0")
    assert scan.canonical().source.files == ("f3", "f2", "f1", "f0")
    assert scan.cropped((slice(1, 3), slice(0, 2), slice(0, 2))).source.sop_instance_uids == ("1", "2")


@pytest.mark.parametrize(
    "bad",
    [
        {"spacing_xyz_mm": (0.0, 1.0, 1.0)},
        {"spacing_xyz_mm": (float("nan"), 1.0, 1.0)},
        {"spacing_xyz_mm": (1.0, -1.0, 1.0)},
        {"origin_xyz_mm": (float("inf"), 0.0, 0.0)},
        {"direction": (1, 0.2, 0, 0, 1, 0, 0, 0, 1)},
        {"shape_zyx": (0, 3, 3)},
    ],
)
def test_what_cannot_be_a_volume_is_refused(bad):
    with pytest.raises(InputRefused):
        Geometry(**{"shape_zyx": (3, 3, 3), **bad})


def test_a_scan_refuses_an_array_that_does_not_fit():
    with pytest.raises(InputRefused, match="int16"):
        Scan(np.zeros((2, 2, 2), np.float32), Geometry((2, 2, 2)), ScanSource("1", "test"))
