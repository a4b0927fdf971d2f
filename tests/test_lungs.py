"""Lungs of a chest built from ellipsoids, whose every voxel is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from noduscope.errors import InputRefused, NoScanFound
from noduscope.lungs import LEFT, RIGHT, Lungs, find_lungs
from noduscope.scan import Geometry, Scan, ScanSource
from noduscope.settings import LungSettings

GRID = Geometry((80, 104, 144), (2.5, 2.5, 3.0), (-178.75, -128.75, -118.5))
CENTRE = {LEFT: (70.0, 0.0, 0.0), RIGHT: (-70.0, 0.0, 0.0)}
RADII = (52.0, 75.0, 95.0)
ON_THE_WALL = (-119.0, 0.0, 0.0)  # 3 mm inside the right lung's edge


def axes(geometry: Geometry) -> list[np.ndarray]:
    """World x, y and z of an axial grid, ready to be broadcast to (z, y, x)."""
    grids = np.ogrid[tuple(slice(n) for n in geometry.shape_zyx)]
    steps = zip(reversed(grids), geometry.spacing_xyz_mm, geometry.origin_xyz_mm, strict=True)
    return [np.float32(first) + np.float32(step) * grid.astype(np.float32) for grid, step, first in steps]


def ellipsoid(geometry: Geometry, centre, radii) -> np.ndarray:
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes(geometry), centre, radii, strict=True)) < 1


@cache
def truth(geometry: Geometry = GRID) -> np.ndarray:
    """Both lungs with all that lies in them."""
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for side, centre in CENTRE.items():
        labels[ellipsoid(geometry, centre, RADII)] = side
    return labels


@cache
def chest(geometry: Geometry = GRID) -> Scan:
    """Body, lungs with vessels, spine, trachea, nodules, bowel gas, a hollow table, air around."""
    x, y, z = axes(geometry)
    hu = np.full(geometry.shape_zyx, -1000, np.float32)
    table = np.broadcast_to((np.abs(y - 122) < 8) & (np.abs(x) < 150), hu.shape)
    hollow = np.broadcast_to((np.abs(y - 122) < 4) & (np.abs(x) < 146), hu.shape)
    hu[table], hu[hollow] = 100, -990
    hu[np.broadcast_to((x / 165) ** 2 + (y / 105) ** 2 < 1, hu.shape)] = 40
    hu[truth(geometry) != 0] = -850
    hu[(np.hypot(y - 20, z - 10) < 5) & (truth(geometry) != 0)] = 50  # a vessel through both
    hu[np.broadcast_to(np.hypot(x, y - 75) < 16, hu.shape)] = 300  # spine
    hu[(np.hypot(x, y - 25) < 9) & (z > 20)] = -1000  # trachea, and the main bronchi
    hu[(np.hypot(y - 25, z - 20 + 0.5 * np.abs(x)) < 6) & (np.abs(x) < 28)] = -1000
    hu[ellipsoid(geometry, ON_THE_WALL, (9, 9, 9))] = 30
    hu[ellipsoid(geometry, (75.0, 10.0, 30.0), (8, 8, 8))] = 30
    hu[ellipsoid(geometry, (60.0, -30.0, -110.0), (20, 20, 8))] = -1000  # bowel
    hu += np.random.default_rng(5).normal(0, 25, hu.shape).astype(np.float32)
    return Scan(np.round(hu).astype(np.int16), geometry, ScanSource("1.2.3", "phantom"))


def changed(where: np.ndarray, hu: int, scan: Scan | None = None) -> Scan:
    """The chest with some voxels set."""
    scan = scan or chest()
    made = scan.hu.copy()
    made[where] = hu
    return replace(scan, hu=made)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


@pytest.fixture(scope="module")
def lungs() -> Lungs:
    return find_lungs(chest(), LungSettings())


def test_each_lung_is_found_on_its_side(lungs):
    made, expected = lungs.on(GRID), truth()
    for side in (LEFT, RIGHT):
        assert dice(made == side, expected == side) > 0.97
    assert lungs.warnings == ()


def test_the_volume_is_the_ellipsoids(lungs):
    expected = 4 / 3 * np.pi * np.prod(RADII) / 1000
    assert lungs.volume_ml == pytest.approx((expected, expected), rel=0.03)


def test_nodules_on_the_wall_and_vessels_are_inside(lungs):
    wall = np.asarray(ON_THE_WALL)
    assert lungs.at(wall) == RIGHT
    assert lungs.at(wall + np.array([0, 6, 4])) == RIGHT
    assert lungs.at([[75.0, 10.0, 30.0], [70.0, 20.0, 10.0], [-70.0, 20.0, 10.0]]).tolist() == [LEFT, LEFT, RIGHT]


@pytest.mark.parametrize(
    "what",
    [(0.0, 25.0, 60.0), (60.0, -30.0, -110.0), (0.0, 122.0, 0.0), (0.0, 75.0, 0.0), (0.0, -120.0, 0.0), (0, 0, 9999)],
    ids=["trachea", "bowel", "table", "spine", "open air", "far away"],
)
def test_what_is_not_lung_is_outside(lungs, what):
    assert lungs.at(what) == 0


def test_touching_lungs_are_parted_at_the_membrane():
    x, y, z = axes(GRID)
    bridge = (np.abs(x) < 30) & (np.abs(y + 40) < 6) & (np.abs(z) < 30)
    scan = changed(bridge & (np.abs(x) < 2), -500, changed(bridge, -850))
    made = find_lungs(scan, LungSettings()).on(GRID)
    for side, sign in ((LEFT, 1), (RIGHT, -1)):
        assert not ((made == side) & (sign * x < -5)).any()
        assert dice(made == side, truth() == side) > 0.96


def test_a_mass_that_lung_surrounds_is_inside():
    mass = ellipsoid(GRID, (75.0, 0.0, 40.0), (30, 30, 30))
    found = find_lungs(changed(mass, 40), LungSettings())
    assert found.at((75.0, 0.0, 40.0)) == LEFT
    assert dice(found.on(GRID) == LEFT, truth() == LEFT) > 0.96


def test_a_mass_against_the_mediastinum_is_found_by_the_other_side():
    x, _, _ = axes(GRID)
    mass = ellipsoid(GRID, (45.0, 40.0, 50.0), (45, 45, 45)) & (x > 12)
    found = find_lungs(changed(mass, 40), LungSettings())
    assert found.at((45.0, 40.0, 50.0)) == LEFT
    assert [w.code for w in found.warnings] == ["lung-solid"]
    assert "left lung" in found.warnings[0].text


def test_a_scan_cropped_into_the_lungs_still_has_them():
    box = (slice(0, 80), slice(26, 84), slice(27, 117))
    scan, expected = chest().cropped(box), truth()[box]
    assert all(expected[..., side].any() for side in (0, -1))
    made = find_lungs(scan, LungSettings()).on(scan.geometry)
    for side in (LEFT, RIGHT):
        assert dice(made == side, expected == side) > 0.93


def test_a_cut_lung_is_said():
    found = find_lungs(chest().cropped((slice(40, 80), slice(0, 104), slice(0, 144))), LungSettings())
    assert [w.code for w in found.warnings] == ["lungs-cut"]
    assert "lower end" in found.warnings[0].text


def test_a_lung_without_air_is_said():
    found = find_lungs(changed(truth() == RIGHT, 40), LungSettings())
    assert found.at(CENTRE[LEFT]) == LEFT
    assert found.volume_ml[0] == pytest.approx(1552, rel=0.03)
    # its upper part is known by the other lung's mirror image
    assert [w.code for w in found.warnings] == ["lung-solid"]
    assert "right lung" in found.warnings[0].text


def test_one_lung_without_an_airway_is_said():
    scan = chest().cropped((slice(10, 42), slice(0, 104), slice(0, 144)))  # all below the bronchi
    found = find_lungs(changed(truth()[10:42] == RIGHT, 40, scan), LungSettings())
    assert [w.code for w in found.warnings] == ["lung-missing", "lungs-cut"]
    assert found.volume_ml[1] == 0


def test_thick_slices_and_padding_change_little():
    thick = Geometry((48, 104, 144), (2.5, 2.5, 5.0), (-178.75, -128.75, -118.0))
    x, y, _ = axes(thick)
    scan = changed(np.broadcast_to(np.hypot(x, y) > 172, thick.shape_zyx), -2000, chest(thick))
    made = find_lungs(scan, LungSettings()).on(thick)
    for side in (LEFT, RIGHT):
        assert dice(made == side, truth(thick) == side) > 0.95


@pytest.mark.parametrize(
    ("flips", "direction"),
    [((0,), (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)), ((1, 2), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))],
    ids=["feet first", "turned over"],
)
def test_the_orientation_of_the_array_does_not_matter(lungs, flips, direction):
    corner = [n - 1 if axis in flips else 0 for axis, n in enumerate(GRID.shape_zyx)]
    x, y, z = GRID.to_world(corner).tolist()
    geometry = replace(GRID, origin_xyz_mm=(x, y, z), direction=direction)
    scan = Scan(np.ascontiguousarray(np.flip(chest().hu, flips)), geometry, ScanSource("1.2.3", "phantom"))
    found = find_lungs(scan, LungSettings())
    np.testing.assert_array_equal(found.labels, lungs.labels)
    made, expected = found.on(geometry), np.flip(lungs.on(GRID), flips)
    for side in (LEFT, RIGHT):  # OpenCV rounds places to 1/32 of a pixel, not the same way in both directions
        assert dice(made == side, expected == side) > 0.99


def test_the_same_scan_gives_the_same_lungs(lungs):
    np.testing.assert_array_equal(find_lungs(chest(), LungSettings()).labels, lungs.labels)


def test_the_bounding_box_holds_the_lungs_on_any_grid(lungs):
    for geometry in (GRID, Geometry((200, 300, 400), (0.9, 0.9, 1.0), (-180.0, -130.0, -100.0))):
        box = lungs.bounding_box(geometry, margin_mm=5.0)
        labels = lungs.on(geometry)
        assert np.count_nonzero(labels[box]) == np.count_nonzero(labels)
        low, high = (geometry.to_world([getattr(b, end) for b in box]) for end in ("start", "stop"))
        # lungs from -122 to 122, -75 to 75, -95 to 95 mm; 5 mm of margin, at most a coarse voxel more
        for edge, wanted in zip(low, (-127, -80, -100), strict=True):
            assert wanted - 5 < edge < wanted + 2.6
        for edge, wanted in zip(high, (127, 80, 100), strict=True):
            assert wanted - 2.6 < edge < wanted + 5


@pytest.mark.parametrize("fill", [-1000, 0, -1024, -2000])
def test_a_scan_without_lungs_is_refused(fill):
    hu = np.full((40, 90, 90), fill, np.int16)
    hu[:, 30:60, 30:60] = 0
    hu[:, 40:50, 40:50] = -1000  # a pipe
    scan = Scan(hu, Geometry(hu.shape, (3.0, 3.0, 3.0)), ScanSource("9.8.7", "phantom"))
    with pytest.raises(NoScanFound, match=r"no lungs in 9\.8\.7: .* choose a series that shows the chest"):
        find_lungs(scan, LungSettings())


def test_the_belly_alone_is_refused():
    with pytest.raises(InputRefused, match="no lungs"):
        find_lungs(chest().cropped((slice(0, 9), slice(0, 104), slice(0, 144))), LungSettings())
