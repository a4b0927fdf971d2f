"""A nodule's place in two box-shaped lungs, where every distance can be read off."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.errors import InputRefused
from noduscope.lungs import LEFT, RIGHT, Lungs
from noduscope.place import nodule_place
from noduscope.scan import Geometry, ScanWarning

# voxels of 2 mm; each lung is 30 × 30 × 30 voxels: 60 mm wide and deep, its slice centres 58 mm apart
LABELS = np.zeros((50, 40, 90), np.uint8)
LABELS[10:40, 5:35, 5:35] = RIGHT
LABELS[10:40, 5:35, 55:85] = LEFT
LUNGS = Lungs(LABELS, Geometry(LABELS.shape, (2.0, 2.0, 2.0), (-89.0, -40.0, 100.0)))


def at(z: float, y: float, x: float, diameter: float = 6.0, lungs: Lungs = LUNGS):
    return nodule_place(lungs, lungs.geometry.to_world([z, y, x]), diameter)


def test_sides_follow_the_labels():
    assert at(25, 20, 20).side == "right"
    assert at(25, 20, 70).side == "left"
    assert at(25, 20, 54).side == "left"  # just outside: the nearer lung
    far = nodule_place(LUNGS, (0.0, 0.0, 400.0), 6.0)
    assert (far.side, far.zone, far.height, far.border_mm, far.pleural_contact) == (None,) * 5
    assert far.limits == ("The point lies in neither lung.",)


# slices 10 to 39: a share of 1/3 lies at slice 19.67, 2/3 at 29.33
@pytest.mark.parametrize(
    ("z", "zone", "height"),
    [
        (39, "upper", 1.0),
        (30, "upper", 20 / 29),
        (29, "middle", 19 / 29),
        (20, "middle", 10 / 29),
        (19, "lower", 9 / 29),
        (10, "lower", 0.0),
        (5, "lower", 0.0),
        (45, "upper", 1.0),
    ],
)
def test_zones_are_thirds_of_the_lungs_height(z, zone, height):
    place = at(z, 20, 20)
    assert place.zone == zone
    assert place.height == pytest.approx(height)


def test_thirds_are_those_of_the_nodules_own_lung():
    labels = LABELS.copy()
    labels[:25][labels[:25] == LEFT] = 0  # a collapsed base: the left lung is left with slices 25 to 39
    lungs = Lungs(labels, LUNGS.geometry)
    assert at(28, 20, 20, lungs=lungs).zone == "middle"
    assert at(28, 20, 70, lungs=lungs).zone == "lower"


# the face at the side lies half a voxel beyond column 5, at column 4.5
@pytest.mark.parametrize(("x", "border"), [(5, 1.0), (6, 3.0), (10, 11.0), (4, -1.0), (2, -5.0)])
def test_the_border_is_the_face_between_lung_and_not_lung(x, border):
    assert at(25, 20, x).border_mm == pytest.approx(border)


def test_the_distance_is_found_however_deep_the_point_lies():
    # the middle of a lung of 100 × 100 × 100 voxels of 2 mm is 100 mm from its faces
    labels = np.zeros((104, 104, 104), np.uint8)
    labels[2:102, 2:102, 2:102] = RIGHT
    deep = Lungs(labels, Geometry(labels.shape, (2.0, 2.0, 2.0)))
    assert at(51.5, 51.5, 51.5, lungs=deep).border_mm == pytest.approx(100.0, abs=2.0)


@pytest.mark.parametrize(("diameter", "contact"), [(3.9, False), (4.1, True), (12.0, True)])
def test_contact_is_a_radius_that_reaches_the_border(diameter, contact):
    # 3 mm from the border; half a voxel (1 mm) is allowed for: contact from a radius of 2 mm on
    assert at(25, 20, 6, diameter).pleural_contact is contact


def test_limits_are_told():
    cut = Lungs(
        LABELS, LUNGS.geometry, (ScanWarning("lungs-cut", "The upper end of the scan cuts through the lungs."),)
    )
    assert "lobes and fissures are not seen" in at(25, 20, 20).limits[0]
    assert len(at(25, 20, 20).limits) == 1
    assert "The scan ends inside the lungs" in at(25, 20, 20, lungs=cut).limits[1]


@given(st.floats(5, 34), st.floats(5.5, 33.5), st.floats(1.0, 30.0), st.floats(0.1, 30.0))
def test_a_larger_nodule_never_loses_contact(y, x, diameter, more):
    small, large = at(25, y, x, diameter), at(25, y, x, diameter + more)
    assert large.pleural_contact or not small.pleural_contact


@pytest.mark.parametrize(
    ("position", "diameter"),
    [((0.0, 0.0), 5.0), ((math.nan, 0.0, 0.0), 5.0), ((0.0, 0.0, 0.0), 0.0), ((0.0, 0.0, 0.0), math.nan)],
)
def test_what_cannot_be_is_refused(position, diameter):
    with pytest.raises(InputRefused):
        nodule_place(LUNGS, position, diameter)
