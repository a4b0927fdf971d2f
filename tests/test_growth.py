"""Follow-up: which nodule is which, which change counts, and what the guidelines' growth rules say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers_followup import GOOD, result_of, shifted
from noduscope.changes import change, doubling_time, growth_rules
from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Interval, Nodule
from noduscope.growth import compare, match_nodules
from noduscope.scan import Geometry, Scan, ScanSource
from noduscope.settings import GrowthSettings

SETTINGS = GrowthSettings()
DAYS = 180
SPOTS = ((-30.0, 0.0, 0.0), (0.0, 0.0, 0.0), (30.0, 0.0, 0.0))


def nodule(number, place, diameter=6.0, error=0.05):
    low, high = diameter / (1 + error), diameter * (1 + error)
    volume = math.pi / 6 * diameter**3
    return Nodule(
        number,
        0.9,
        place,
        (0.0, 0.0, 0.0),
        1,
        None,
        Diameter(diameter, diameter, diameter, low, high),
        Interval(volume, volume / (1 + error) ** 3, volume * (1 + error) ** 3),
    )


def exact(value):
    return Interval(value, value, value)


# --- change and doubling time -----------------------------------------------------------------------


def test_doubling_time_worked():
    # V2/V1 = 1.728 over 180 days: 180 ln 2 / ln 1.728 = 124.7656 / 0.546965 = 228.1 days;
    # repeat scans of the unchanged differ by up to 27 %: ln 1.27 = 0.239017 either way,
    # 124.7656 / 0.785982 = 158.7 and 124.7656 / 0.307948 = 405.2 days
    time = doubling_time(exact(100.0), exact(172.8), DAYS, 0.27)
    assert (time.days, time.low, time.high) == pytest.approx((228.1, 158.7, 405.2), abs=0.1)


def test_doubling_time_inside_the_error_has_no_value_but_a_shortest():
    # ln 1.2 = 0.182322 < 0.239017: no growth fits, too; shortest 124.7656 / 0.421339 = 296.1 days
    time = doubling_time(exact(100.0), exact(120.0), DAYS, 0.27)
    assert time.days is None
    assert time.high is None
    assert time.low == pytest.approx(296.1, abs=0.1)


def test_what_shrinks_beyond_doubt_never_doubles():
    time = doubling_time(exact(100.0), exact(50.0), DAYS, 0.27)
    assert (time.days, time.low, time.high) == (None, None, None)


def test_own_intervals_count_where_they_are_wider():
    # errors of both sides in quadrature: sqrt(ln(2)^2 + ln(1.5)^2) = 0.803027; exp: 2.2323
    made = change(Interval(100, 100 / 1.5, 150), Interval(100, 50, 200), 0.27)
    assert made.percent.high == pytest.approx(123.23, abs=0.01)
    assert made.percent.low == pytest.approx(100 / 2.2323 - 100, abs=0.01)
    assert not made.measurable


@given(st.floats(10, 5000), st.floats(10, 5000), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_time_reversed_change_is_the_inverse_ratio(a, b, error_a, error_b):
    one, two = Interval(a, a / error_a, a * error_a), Interval(b, b / error_b, b * error_b)
    there, back = change(one, two, 0.27).percent, change(two, one, 0.27).percent
    assert (1 + there.value / 100) * (1 + back.value / 100) == pytest.approx(1)
    assert (1 + there.low / 100) * (1 + back.high / 100) == pytest.approx(1)
    assert there.low < there.value < there.high


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(InputRefused, match="positive"):
        change(exact(0.0), exact(10.0), 0.27)
    with pytest.raises(InputRefused, match="days"):
        doubling_time(exact(10.0), exact(20.0), 0, 0.27)


# --- the guidelines' rules --------------------------------------------------------------------------


def rules(diameter=None, volume=None, days=DAYS):
    sizes = change(exact(6.0), exact(6.0 + diameter), 0.0) if diameter is not None else None
    volumes = change(exact(100.0), exact(100.0 + volume), 0.0) if volume is not None else None
    return {r.key: r for r in growth_rules(sizes, volumes, days)}


@pytest.mark.parametrize(
    ("diameter", "lung_rads", "fleischner"),
    [(1.5, False, False), (1.6, True, False), (2.0, True, True), (-3, False, False)],
)
def test_diameter_rules_at_their_thresholds(diameter, lung_rads, fleischner):
    made = rules(diameter=diameter)
    assert made["lung_rads_2022"].met is lung_rads
    assert made["fleischner_2017"].met is fleischner


@pytest.mark.parametrize(("percent", "met"), [(24.9, False), (25.0, True)])
def test_volume_rule_at_its_threshold(percent, met):
    assert rules(volume=percent)["bts_2015"].met is met


@pytest.mark.parametrize(("days", "met"), [(366, True), (367, None), (None, None)])
def test_lung_rads_rule_speaks_of_twelve_months(days, met):
    assert rules(diameter=3.0, days=days)["lung_rads_2022"].met is met


def test_a_rule_is_certain_only_when_the_whole_interval_is_on_one_side():
    wide = change(Interval(6.0, 5.0, 7.2), Interval(9.0, 7.5, 10.8), 0.0)
    made = {r.key: r for r in growth_rules(wide, None, DAYS)}
    assert made["fleischner_2017"].met
    assert not made["fleischner_2017"].certain
    assert rules(diameter=3.0)["fleischner_2017"].certain


# --- matching ---------------------------------------------------------------------------------------


def test_nodules_are_matched_after_mapping():
    prior = [nodule(k, place) for k, place in enumerate(SPOTS, 1)]
    moved = [nodule(k, (x + 40.0, y, z + 11.0)) for k, (x, y, z) in enumerate(SPOTS[::-1], 1)]
    pairs = match_nodules(prior, moved, shifted((40.0, 0.0, 10.0)), SETTINGS)
    assert {(p.prior, p.current) for p in pairs} == {(0, 2), (1, 1), (2, 0)}
    assert [p.distance_mm for p in pairs] == pytest.approx([1.0] * 3)


def test_an_exact_pair_is_not_given_up_for_two_far_ones():
    prior = [nodule(1, (0.0, 0.0, 0.0)), nodule(2, (7.5, 0.0, 0.0))]
    current = [nodule(1, (0.0, 0.0, 0.0)), nodule(2, (-7.5, 0.0, 0.0))]
    pairs = match_nodules(prior, current, shifted(), SETTINGS)
    assert [(p.prior, p.current) for p in pairs] == [(0, 0)]


@pytest.mark.parametrize(("diameter", "matched"), [(6.0, 0), (16.0, 1)])
def test_the_gate_grows_with_the_nodule(diameter, matched):
    pairs = match_nodules([nodule(1, SPOTS[1])], [nodule(1, (10.0, 0.0, 0.0), diameter)], shifted(), SETTINGS)
    assert len(pairs) == matched


def test_a_poor_registration_widens_the_gate():
    poor = shifted(quality=replace(GOOD, residual_p95_mm=9.0))
    assert len(match_nodules([nodule(1, SPOTS[1])], [nodule(1, (10.0, 0.0, 0.0))], poor, SETTINGS)) == 1


@given(
    st.lists(st.tuples(*[st.floats(-15, 15)] * 3), max_size=5),
    st.lists(st.tuples(*[st.floats(-15, 15)] * 3), max_size=5),
)
def test_matching_is_one_to_one_and_does_not_depend_on_the_order_of_time(before, after):
    one = [nodule(k, p) for k, p in enumerate(before)]
    two = [nodule(k, p) for k, p in enumerate(after)]
    pairs = match_nodules(one, two, shifted(), SETTINGS)
    assert len({p.prior for p in pairs}) == len({p.current for p in pairs}) == len(pairs)
    back = match_nodules(two, one, shifted(), SETTINGS)
    assert sum(1 - (p.distance_mm / 8) ** 2 for p in pairs) == pytest.approx(
        sum(1 - (p.distance_mm / 8) ** 2 for p in back), abs=1e-6
    )


# --- two scans --------------------------------------------------------------------------------------


def chest(spheres, uid="1.2", depth=40):
    """Lung tissue of 1.5 mm voxels all over, with solid spheres ``(place, diameter)``; its lungs' labels."""
    geometry = Geometry((depth, 40, 80), (1.5, 1.5, 1.5), (-60.0, -30.0, -30.0))
    world = geometry.to_world(np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape_zyx), indexing="ij"), -1))
    hu = np.full(geometry.shape_zyx, -860.0)
    for place, diameter in spheres:
        away = np.linalg.norm(world - place, axis=-1) - diameter / 2
        hu += (40.0 - hu) * np.clip(0.5 - away / 1.5, 0, 1)
    scan = Scan(hu.astype(np.int16), geometry, ScanSource(uid, "phantom"))
    return scan, np.ones(geometry.shape_zyx, np.uint8)


def followed(before, after, marked=(None, None), depth=40, days=DAYS):
    """Compare two such chests; `marked` says which spheres the detector marks (all by default)."""
    results = []
    for k, spheres in enumerate((before, after)):
        scan, labels = chest(spheres, uid=f"1.{k}", depth=40 if k == 0 else depth)
        shown = spheres if marked[k] is None else [spheres[i] for i in marked[k]]
        results.append(result_of(scan, shown, labels))
    return compare(results[0], results[1], shifted(), days, SETTINGS)


def test_each_fate():
    before = [(SPOTS[0], 8.0), (SPOTS[1], 8.0), (SPOTS[2], 8.0)]
    after = [(SPOTS[0], 18.0), (SPOTS[1], 8.0), ((0.0, 0.0, 20.0), 7.0)]
    rows = {row.status: row for row in followed(before, after).rows}
    assert list(rows) == ["grown", "new", "stable", "gone"]
    assert rows["grown"].prior_place_xyz_mm == SPOTS[0]
    assert rows["grown"].doubling.low < rows["grown"].doubling.days < rows["grown"].doubling.high
    assert rows["stable"].doubling.days is None
    assert rows["gone"].current is None
    assert rows["gone"].current_place_xyz_mm == pytest.approx(SPOTS[2])
    assert rows["new"].prior is None


def test_what_halved_twice_is_smaller():
    (row,) = followed([(SPOTS[1], 18.0)], [(SPOTS[1], 8.0)]).rows
    assert row.status == "smaller"
    assert row.volume.percent.high < 0


def test_a_doubled_volume_is_grown():
    (row,) = followed([(SPOTS[1], 8.0)], [(SPOTS[1], 10.2)]).rows
    assert row.status == "grown"
    assert row.volume.percent.low > 0


def test_a_small_nodule_s_change_inside_its_own_interval_is_unsure_but_not_stable():
    (row,) = followed([(SPOTS[1], 5.0)], [(SPOTS[1], 5.6)]).rows
    assert row.status == "unsure"
    assert row.volume.percent.low < 0
    assert row.volume.percent.value > 27
    # with a doubling time: the value, its shortest, no longest
    assert row.doubling.low < row.doubling.days
    assert row.doubling.high is None


@pytest.mark.parametrize("missing", ["prior", "current"])
def test_a_nodule_that_was_not_marked_is_seen_at_its_place(missing):
    spheres = [(SPOTS[1], 9.0)]
    marked = ((), None) if missing == "prior" else (None, ())
    (row,) = followed(spheres, spheres, marked).rows
    assert row.status == "unmarked"
    seen = getattr(row, missing)
    assert seen.nodule_id is None
    assert seen.diameter_mm.mean == pytest.approx(9.0, abs=1.0)
    assert row.distance_mm < 1.0


def test_a_place_that_was_not_scanned_is_not_gone():
    (row,) = followed([((0.0, 0.0, 20.0), 8.0)], [], depth=20).rows
    assert row.status == "outside"


def test_without_a_time_there_is_no_doubling_time_but_a_warning():
    made = followed([(SPOTS[1], 8.0)], [(SPOTS[1], 8.0)], days=None)
    assert made.rows[0].doubling is None
    assert "interval-unknown" in {w.code for w in made.warnings}


def test_swapped_scans_are_refused():
    with pytest.raises(InputRefused, match="swap"):
        followed([], [], days=-3)


def test_warnings_name_what_spoils_a_comparison():
    scan, labels = chest([(SPOTS[1], 8.0)])
    thick = replace(scan.geometry, spacing_xyz_mm=(1.5, 1.5, 5.0))
    sources = [replace(scan.source, description=(("Kernel", kernel),)) for kernel in ("B30f", "B70f")]
    one = result_of(replace(scan, source=sources[0]), [(SPOTS[1], 8.0)], labels)
    two = result_of(replace(scan, source=sources[1], geometry=thick), [], labels)
    codes = {w.code for w in compare(one, two, shifted(), DAYS, SETTINGS).warnings}
    assert codes == {"same-series", "slices-thick", "slices-differ", "kernels-differ"}
