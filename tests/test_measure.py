"""Sizes of made nodules whose size is known, and of real ones that radiologists outlined."""

from __future__ import annotations

import numpy as np
import pytest

from noduscope.measure import Measured, axial_axes_mm, measure_nodule
from noduscope.scan import Geometry, Scan, ScanSource

SPACING_XYZ = (0.7, 0.7, 1.25)
SHAPE = (40, 80, 80)
LUNG, TISSUE, GROUND_GLASS = -860, 40, -560


class Scene:
    """A block of lung in which every voxel holds the share of tissue that lies in it (27 points a voxel)."""

    def __init__(self, spacing_xyz=SPACING_XYZ, shape=SHAPE, origin=(-20.0, 30.0, -110.0)):
        self.geometry = Geometry(shape, spacing_xyz, origin)
        self.centre = tuple(self.geometry.to_world((np.array(shape) - 1) / 2))
        steps = (-1 / 3, 0, 1 / 3)
        offsets = np.array([(z, y, x) for z in steps for y in steps for x in steps])
        grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
        self.points = [self.geometry.to_world(grid + o) for o in offsets]
        self.hu = np.full(shape, float(LUNG))

    def put(self, inside, hu=TISSUE):
        share = np.mean([inside(p) for p in self.points], axis=0)
        self.hu += share * (hu - self.hu)
        return self

    def sphere(self, diameter, at=None, hu=TISSUE):
        middle = np.asarray(self.centre if at is None else at)
        return self.put(lambda p: ((p - middle) ** 2).sum(-1) <= (diameter / 2) ** 2, hu)

    def scan(self):
        noise = np.random.default_rng(0).normal(0, 15, self.hu.shape)
        return Scan(np.rint(self.hu + noise).astype(np.int16), self.geometry, ScanSource("1.2.3", "phantom"))


def sphere_volume(diameter):
    return np.pi / 6 * diameter**3


def check_sphere(found: Measured | None, diameter: float, tolerance: float = 0.1) -> None:
    assert found is not None
    assert found.diameter_mm.mean == pytest.approx(diameter, rel=tolerance)
    assert found.diameter_mm.short <= found.diameter_mm.long
    assert found.diameter_mm.mean == pytest.approx((found.diameter_mm.long + found.diameter_mm.short) / 2)
    assert found.diameter_mm.low < diameter < found.diameter_mm.high
    assert found.volume_mm3.value == pytest.approx(sphere_volume(diameter), rel=3 * tolerance)
    assert found.volume_mm3.low < sphere_volume(diameter) < found.volume_mm3.high


@pytest.mark.parametrize("diameter", [5.0, 8.0, 14.0, 24.0])
def test_a_free_sphere_has_its_diameter_and_volume(diameter):
    scene = Scene().sphere(diameter)
    check_sphere(measure_nodule(scene.scan(), scene.centre, diameter), diameter)


@pytest.mark.parametrize("error", [0.7, 1.4])
def test_a_wrong_hint_and_a_point_off_centre_change_little(error):
    scene = Scene().sphere(12.0)
    point = tuple(np.add(scene.centre, (1.5, -1.0, 1.0)))
    check_sphere(measure_nodule(scene.scan(), point, 12.0 * error), 12.0)


def test_ground_glass_has_its_own_border():
    scene = Scene().sphere(12.0, hu=GROUND_GLASS)
    check_sphere(measure_nodule(scene.scan(), scene.centre, 12.0), 12.0)


def test_calcium_does_not_shrink_the_nodule():
    scene = Scene().sphere(10.0, hu=900)
    found = measure_nodule(scene.scan(), scene.centre, 10.0)
    # the border lies at the level of soft tissue, so partial volume adds at most a voxel
    assert found is not None and 9.5 < found.diameter_mm.mean < 11.2


def test_thick_slices_keep_the_axial_diameter():
    scene = Scene((0.8, 0.8, 5.0), (14, 60, 60)).sphere(15.0)
    found = measure_nodule(scene.scan(), scene.centre, 15.0)
    assert found is not None and found.diameter_mm.mean == pytest.approx(15.0, rel=0.1)


def test_a_sphere_on_the_chest_wall_is_cut_from_it():
    scene = Scene()
    wall = scene.centre[0] + 4.5
    scene.put(lambda p: p[..., 0] > wall).sphere(10.0)
    found = measure_nodule(scene.scan(), scene.centre, 10.0)
    assert found is not None
    assert found.diameter_mm.mean == pytest.approx(10.0, rel=0.2)
    right_edge = scene.geometry.to_world((0, 0, found.mask.box[2].stop - 1))[0]
    assert right_edge < wall + 2.0


def test_the_lung_mask_cuts_where_it_ends():
    scene = Scene()
    wall = scene.centre[0] + 3.0
    scene.put(lambda p: p[..., 0] > wall).sphere(10.0)
    lungs = np.ones(SHAPE, np.uint8)
    first_out = int(np.ceil(scene.geometry.to_index((wall, *scene.centre[1:]))[2]))
    lungs[:, :, first_out:] = 0
    found = measure_nodule(scene.scan(), scene.centre, 10.0, lungs)
    assert found is not None and found.mask.box[2].stop <= first_out + 1


def test_a_lung_mask_that_misses_the_nodule_is_not_believed():
    scene = Scene().sphere(10.0)
    check_sphere(measure_nodule(scene.scan(), scene.centre, 10.0, np.zeros(SHAPE, np.uint8)), 10.0)


def test_a_vessel_is_cut_off():
    scene = Scene().sphere(10.0)
    _, y, z = scene.centre
    scene.put(lambda p: (p[..., 1] - y) ** 2 + (p[..., 2] - z) ** 2 <= 1.2**2)
    found = measure_nodule(scene.scan(), scene.centre, 10.0)
    assert found is not None
    # stubs as long as the opening is deep may stay (2 mm a side), its run through the whole block (56 mm) may not
    assert found.diameter_mm.long < 14.2
    assert found.volume_mm3.value == pytest.approx(sphere_volume(10.0), rel=0.2)


def test_a_neighbour_that_does_not_touch_is_left_out():
    scene = Scene().sphere(8.0)
    scene.sphere(8.0, at=np.add(scene.centre, (9.5, 0, 0)))
    check_sphere(measure_nodule(scene.scan(), scene.centre, 8.0), 8.0)


def test_the_mask_lies_on_the_scan_grid():
    scene = Scene().sphere(12.0)
    found = measure_nodule(scene.scan(), scene.centre, 12.0)
    full = np.zeros(SHAPE, bool)
    full[found.mask.box] = found.mask.mask
    truth = scene.hu > (LUNG + TISSUE) / 2
    assert 2 * (full & truth).sum() / (full.sum() + truth.sum()) > 0.93
    assert all(found.mask.mask.any(axis=tuple(b for b in range(3) if b != a))[[0, -1]].all() for a in range(3))


def test_a_nodule_at_the_volume_border_is_measured_inside_it():
    scene = Scene()
    corner = tuple(scene.geometry.to_world((0, 40, 40)))
    scene.sphere(12.0, at=corner)
    found = measure_nodule(scene.scan(), corner, 12.0)
    assert found is not None and found.mask.box[0].start == 0
    assert found.diameter_mm.mean == pytest.approx(12.0, rel=0.1)
    # half of the sphere and the half slice below the first slice's centre
    half = sphere_volume(12.0) / 2 + np.pi * 6.0**2 * SPACING_XYZ[2] / 2
    assert found.volume_mm3.value == pytest.approx(half, rel=0.2)


def test_a_flipped_scan_measures_the_same():
    scene = Scene().sphere(11.0)
    scan = scene.scan()
    x, y, z = SPACING_XYZ
    last = tuple(scan.geometry.to_world((SHAPE[0] - 1, SHAPE[1] - 1, 0)))
    turned = Scan(
        np.ascontiguousarray(scan.hu[::-1, ::-1]),
        Geometry(SHAPE, (x, y, z), last, (1, 0, 0, 0, -1, 0, 0, 0, -1)),
        scan.source,
    )
    a = measure_nodule(scan, scene.centre, 11.0)
    b = measure_nodule(turned.canonical(), scene.centre, 11.0)
    assert b.mask.box == a.mask.box and (b.mask.mask == a.mask.mask).all()


@pytest.mark.parametrize("where", [(1e4, 0.0, 0.0), (float("nan"), 0.0, 0.0)])
def test_a_point_outside_the_volume_has_no_size(where):
    assert measure_nodule(Scene().sphere(8.0).scan(), where, 8.0) is None


def test_plain_lung_has_no_size():
    scene = Scene()
    assert measure_nodule(scene.scan(), scene.centre, 8.0) is None


def test_a_nodule_below_one_voxel_is_no_crash():
    scene = Scene((1.0, 1.0, 5.0), (12, 50, 50)).sphere(1.5)
    found = measure_nodule(scene.scan(), scene.centre, 1.5)
    assert found is None or found.diameter_mm.mean < 5.0


def test_axes_of_an_ellipse():
    y, x = np.mgrid[-30:31, -30:31] * 0.5
    turn = np.deg2rad(30)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    section = (u / 10) ** 2 + (v / 6) ** 2 <= 1
    smaller = (u / 5) ** 2 + (v / 3) ** 2 <= 1
    long, short = axial_axes_mm(np.stack([smaller, section, smaller]), 0.5)
    assert long == pytest.approx(20.0, abs=0.5) and short == pytest.approx(12.0, abs=0.6)


def test_axes_of_nothing():
    assert axial_axes_mm(np.zeros((2, 5, 5), bool), 1.0) == (0.0, 0.0)
