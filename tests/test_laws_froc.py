"""Laws that hold for every evaluation of detections, whatever the marks."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from noduscope.evaluate.detection_scores import DetectionScores, evaluate_detections
from noduscope.evaluate.detection_tables import DetectionTables
from noduscope.evaluate.froc import GRID_RATES, RATES, FrocSettings
from noduscope.evaluate.matching import Findings, Marks, MarkState

FINE = np.geomspace(0.05, 12, 60)
QUICK = FrocSettings(replicates=10, seed=4, max_marks=6)
SCANS = ("a", "b", "c", "d")

place = st.tuples(*[st.integers(0, 9).map(float)] * 3)
score = st.integers(0, 9).map(lambda n: n / 9)
diameter = st.sampled_from([2.0, 3.5, 4.0, 7.0, -1.0])
scan = st.sampled_from([*SCANS[:3], "unlisted"])


def rows(value: st.SearchStrategy[float], most: int) -> st.SearchStrategy[list[tuple[object, ...]]]:
    return st.lists(st.tuples(scan, place, value), max_size=most)


def columns(table: list[tuple[object, ...]]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    return (
        tuple(str(r[0]) for r in table),
        np.array([r[1] for r in table], dtype=float).reshape(-1, 3),
        np.array([r[2] for r in table], dtype=float),
    )


@st.composite
def worlds(draw: st.DrawFn) -> DetectionTables:
    return DetectionTables(
        Marks(*columns(draw(rows(score, 25)))),
        Findings(*columns(draw(rows(diameter, 6)))),
        Findings(*columns(draw(rows(diameter, 3)))),
        SCANS,
    )


def score_of(tables: DetectionTables, how: FrocSettings = QUICK) -> DetectionScores:
    return evaluate_detections(tables, how)


def without(marks: Marks, row: int) -> Marks:
    kept = [i for i in range(len(marks)) if i != row]
    return Marks(tuple(marks.series[i] for i in kept), marks.position_xyz_mm[kept], marks.probability[kept])


@settings(max_examples=60, deadline=None)
@given(worlds(), st.integers(0, 1000))
def test_removing_a_false_positive_never_lowers_any_point(world: DetectionTables, pick: int) -> None:
    # without the limit: under it, taking one mark away may let another false positive in
    free = replace(QUICK, max_marks=0, replicates=0)
    before = score_of(world, free)
    false = before.matching.rows(MarkState.FALSE_POSITIVE)
    assume(len(false) and before.curve.nodules)
    after = score_of(replace(world, marks=without(world.marks, int(false[pick % len(false)]))), free)
    for rates in (RATES, GRID_RATES, FINE):
        assert (after.curve.at(rates) >= before.curve.at(rates) - 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_a_scan_without_nodules_or_marks_only_rescales_the_axis(world: DetectionTables) -> None:
    before, after = score_of(world), score_of(replace(world, series=(*SCANS, "e")))
    assert np.array_equal(after.curve.false_positives, before.curve.false_positives)
    assert np.array_equal(after.curve.true_positives, before.curve.true_positives)
    assert np.array_equal(after.curve.thresholds, before.curve.thresholds)
    assert np.allclose(after.curve.fps_per_scan * 5, before.curve.fps_per_scan * 4)
    if before.curve.nodules:
        assert np.allclose(after.curve.at(FINE * 4 / 5), before.curve.at(FINE))
    one, other = asdict(before.matching.counts), asdict(after.matching.counts)
    assert (one.pop("scans"), other.pop("scans")) == (4, 5)
    assert one == other


@settings(max_examples=50, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(world: DetectionTables, random: object) -> None:
    def shuffled(n: int) -> list[int]:
        order = list(range(n))
        random.shuffle(order)  # type: ignore[attr-defined]
        return order

    def reordered(table: Marks | Findings) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        order = shuffled(len(table))
        value = table.probability if isinstance(table, Marks) else table.diameter_mm
        return tuple(table.series[i] for i in order), table.position_xyz_mm[order], value[order]

    assert world.excluded is not None
    again = DetectionTables(
        Marks(*reordered(world.marks)),
        Findings(*reordered(world.nodules)),
        Findings(*reordered(world.excluded)),
        tuple(SCANS[i] for i in shuffled(len(SCANS))),
    )
    assert score_of(again).to_dict() == score_of(world).to_dict()


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_every_mark_and_every_nodule_is_accounted_for(world: DetectionTables) -> None:
    scores = score_of(world)
    c = scores.matching.counts
    assert len(world.marks) == c.candidates + c.cut + c.unlisted
    assert c.nodules == c.true_positives + c.false_negatives
    hits = sum(
        int(np.count_nonzero(scores.matching.mark_state == s)) for s in (MarkState.TRUE_POSITIVE, MarkState.DOUBLE)
    )
    assert c.candidates == hits + c.ignored_excluded + c.false_positives
    # a mark in one nodule only: every hit finds a nodule or is a double of one
    if c.in_two_nodules == 0:
        assert hits == c.true_positives + c.ignored_double
    assert scores.curve.false_positives[-1] == c.false_positives
    assert scores.curve.true_positives[-1] == c.true_positives


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_only_the_order_of_the_scores_matters(world: DetectionTables) -> None:
    bent = Marks(world.marks.series, world.marks.position_xyz_mm, np.exp(3 * world.marks.probability) - 40)
    one, other = score_of(world).to_dict(), score_of(replace(world, marks=bent)).to_dict()
    assert one["cpm"] == other["cpm"]
    assert one["counts"] == other["counts"]


@settings(max_examples=50, deadline=None)
@given(worlds())
def test_the_curve_rises_and_the_intervals_are_ordered(world: DetectionTables) -> None:
    scores = score_of(world)
    assert (np.diff(scores.curve.false_positives) >= 0).all()
    assert (np.diff(scores.curve.true_positives) >= 0).all()
    if scores.curve.nodules:
        at = scores.curve.at(FINE)
        assert (np.diff(at) >= -1e-12).all()
        assert ((at >= 0) & (at <= 1)).all()
        nearest = scores.curve.nearest(FINE)
        assert (np.diff(nearest) >= 0).all()
    for cpm in scores.to_dict()["cpm"].values():
        if cpm["low"] is not None:
            assert 0 <= cpm["low"] <= cpm["high"] <= 1


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_excluding_more_findings_never_adds_a_false_positive(world: DetectionTables) -> None:
    bare = score_of(replace(world, excluded=Findings.none()))
    assert score_of(world).matching.counts.false_positives <= bare.matching.counts.false_positives
    assert np.array_equal(score_of(world).matching.nodule_mark, bare.matching.nodule_mark)
