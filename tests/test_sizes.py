"""Intervals of a size: what one scan tells, what another scan of the same nodule would, and how often that is true."""

from __future__ import annotations

import numpy as np
import pytest

from noduscope.changes import change
from noduscope.findings import Interval
from noduscope.measure import measure_nodule
from noduscope.scan import Geometry, Scan, ScanSource
from noduscope.sizes import reader_interval, repeat_interval

PIXEL_MM = 0.7
REPEATABILITY = 0.27


def scanned(rng, diameter, slice_mm):
    """A ball in lung somewhere on the grid, its border blurred by a voxel, with noise; what is measured of it."""
    shape = tuple(int(np.ceil((1.6 * diameter + 12) / s)) for s in (slice_mm, PIXEL_MM, PIXEL_MM))
    geometry = Geometry(shape, (PIXEL_MM, PIXEL_MM, slice_mm))
    index = (np.array(shape) - 1) / 2 + rng.uniform(-0.5, 0.5, 3)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    share = np.zeros(shape)
    for part in np.linspace(-0.4, 0.4, 5):  # a slice holds the mean over its thickness
        away = np.linalg.norm((grid + np.array([part, 0, 0]) - index) * geometry.spacing_zyx_mm, axis=-1) - diameter / 2
        share += np.clip(0.5 - away / (2 * PIXEL_MM), 0, 1) / 5
    hu = -860 + 900 * share + rng.normal(0, 30, shape)
    point = geometry.to_world(index) + rng.normal(0, 0.5 + 0.03 * diameter, 3)
    scan = Scan(hu.astype(np.int16), geometry, ScanSource("1", "phantom"))
    found = measure_nodule(scan, tuple(point), diameter * float(np.exp(rng.normal(0, 0.12))))
    assert found is not None
    return found


def repeated(found, slice_mm):
    return repeat_interval("volume", found.volume_mm3, found.diameter_mm.mean, slice_mm)


def test_made_balls_lie_inside_the_intervals_of_one_scan_and_of_a_change():
    rng = np.random.default_rng(3)
    size, ratio, halves = [], [], []
    for trial in range(40):
        slice_mm = (1.0, 2.5, 5.0)[trial % 3]
        first = float(np.exp(rng.uniform(np.log(4.5), np.log(16))))
        second = first * float(rng.choice([1.0, 1.1, 1.26]))
        seen = [scanned(rng, d, slice_mm) for d in (first, second)]
        for found, d in zip(seen, (first, second), strict=True):
            size.append(found.diameter_mm.low <= d <= found.diameter_mm.high)
            size.append(found.volume_mm3.low <= np.pi / 6 * d**3 <= found.volume_mm3.high)
        made = change(*(repeated(found, slice_mm) for found in seen), REPEATABILITY).percent
        ratio.append(made.low <= 100 * ((second / first) ** 3 - 1) <= made.high)
        halves.append(np.log((100 + made.high) / (100 + made.low)) / 2)
    assert np.mean(size) >= 0.9
    assert np.mean(ratio) >= 0.9
    # and are of use: half of all changes are told to a factor of 1.4 or better
    assert np.median(halves) < np.log(1.4)


@pytest.mark.parametrize("slice_mm", [1.0, 2.5])
def test_a_ball_that_doubled_has_grown_for_sure(slice_mm):
    rng = np.random.default_rng(8)
    seen = [repeated(scanned(rng, d, slice_mm), slice_mm) for d in (8.0, 8.0 * 2 ** (1 / 3))]
    assert change(*seen, REPEATABILITY).measurable


def test_an_outline_that_hangs_on_little_repeats_worse():
    firm, loose = (reader_interval("volume", 500.0, 10.0, spread) for spread in (0.0, 0.3))
    assert loose.high > firm.high
    assert repeat_interval("volume", loose, 10.0, 1.0).high > 1.2 * repeat_interval("volume", firm, 10.0, 1.0).high


def test_thick_slices_and_small_nodules_repeat_worse():
    def high(diameter, slice_mm):
        told = reader_interval("volume", 500.0, diameter, 0.0)
        return repeat_interval("volume", told, diameter, slice_mm).high

    assert high(5.0, 1.0) > high(10.0, 1.0)
    assert high(10.0, 5.0) > high(10.0, 1.0)


def test_an_interval_that_is_narrower_than_any_reader_s_is_no_crash():
    made = repeat_interval("diameter", Interval(10.0, 9.9, 10.1), 10.0, 1.0)
    assert made.low < 10.0 < made.high
