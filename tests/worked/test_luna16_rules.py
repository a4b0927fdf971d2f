"""LUNA16's rules by hand: each case is small enough to be worked out on paper, and is, beside it."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from noduscope.evaluate.detection_scores import DetectionScores, evaluate_detections
from noduscope.evaluate.detection_tables import DetectionTables
from noduscope.evaluate.froc import GRID_RATES, RATES, FrocSettings
from noduscope.evaluate.matching import Findings, Marks, MarkState, match

Row = tuple[str, float, float, float, float]


def marks(*rows: Row) -> Marks:
    numbers = np.array([r[1:] for r in rows], dtype=float).reshape(-1, 4)
    return Marks(tuple(r[0] for r in rows), numbers[:, :3], numbers[:, 3])


def findings(*rows: Row) -> Findings:
    numbers = np.array([r[1:] for r in rows], dtype=float).reshape(-1, 4)
    return Findings(tuple(r[0] for r in rows), numbers[:, :3], numbers[:, 3])


def evaluate(
    marked: Marks, nodules: Findings, scans: list[str], excluded: Findings | None = None, max_marks: int = 100
) -> DetectionScores:
    tables = DetectionTables(marked, nodules, excluded or Findings.none(), tuple(scans))
    return evaluate_detections(tables, FrocSettings(replicates=20, max_marks=max_marks))


def states(scores: DetectionScores) -> list[str]:
    return [MarkState(s).name for s in scores.matching.mark_state]


# --- what a hit is ---------------------------------------------------------------------------------------------


def test_a_mark_exactly_on_the_radius_misses() -> None:
    # (3, 4, 0) is exactly 5 mm from the centre of a nodule of 10 mm: 25 < 25 is false
    nodule = findings(("a", 0, 0, 0, 10))
    assert states(evaluate(marks(("a", 3, 4, 0, 0.9)), nodule, ["a"])) == ["FALSE_POSITIVE"]
    # the next number below 4 is nearer
    inside = float(np.nextafter(4, 0))
    assert states(evaluate(marks(("a", 3, inside, 0, 0.9)), nodule, ["a"])) == ["TRUE_POSITIVE"]


def test_a_negative_diameter_is_ten_millimetres() -> None:
    excluded = findings(("a", 0, 0, 0, -1))
    marked = marks(("a", 4.9, 0, 0, 0.9), ("a", 5, 0, 0, 0.8))
    scores = evaluate(marked, findings(("a", 90, 0, 0, 6)), ["a"], excluded)
    assert states(scores) == ["IGNORED", "FALSE_POSITIVE"]


def test_a_diameter_of_zero_cannot_be_hit() -> None:
    # 0 < 0 is false: not even the centre itself
    assert states(evaluate(marks(("a", 0, 0, 0, 0.9)), findings(("a", 0, 0, 0, 0)), ["a"])) == ["FALSE_POSITIVE"]


def test_a_mark_hits_only_in_its_own_scan() -> None:
    scores = evaluate(marks(("b", 0, 0, 0, 0.9)), findings(("a", 0, 0, 0, 6)), ["a", "b"])
    assert states(scores) == ["FALSE_POSITIVE"]
    assert scores.matching.counts.false_negatives == 1


# --- which mark counts ------------------------------------------------------------------------------------------


def test_the_most_probable_hit_counts_and_the_others_are_neither() -> None:
    # three hits on one nodule: the one at 0.8 counts, two are doubles; the nearest one has no privilege
    marked = marks(("a", 0, 0, 0, 0.3), ("a", 2, 0, 0, 0.8), ("a", 0, 1, 0, 0.5), ("a", 50, 0, 0, 0.6))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"])
    assert states(scores) == ["DOUBLE", "TRUE_POSITIVE", "DOUBLE", "FALSE_POSITIVE"]
    c = scores.matching.counts
    assert (c.candidates, c.true_positives, c.false_positives, c.ignored_double) == (4, 1, 1, 2)
    # the nodule comes in at 0.8, before the false positive at 0.6
    assert scores.curve.thresholds.tolist() == [np.inf, 0.8, 0.6]
    assert scores.curve.true_positives.tolist() == [0, 1, 1]
    assert scores.curve.false_positives.tolist() == [0, 0, 1]


def test_a_mark_in_two_nodules_finds_both() -> None:
    scores = evaluate(marks(("a", 0, 0, 0, 0.9)), findings(("a", 1, 0, 0, 6), ("a", -1, 0, 0, 6)), ["a"])
    c = scores.matching.counts
    assert (c.true_positives, c.false_negatives, c.ignored_double, c.in_two_nodules) == (2, 0, 0, 1)
    assert scores.curve.true_positives.tolist() == [0, 2]


def test_doubles_are_counted_per_nodule() -> None:
    # two marks, both inside both nodules: each nodule has one hit beyond its first, as the script counts
    marked = marks(("a", 0, 0, 0, 0.9), ("a", 0, 1, 0, 0.7))
    scores = evaluate(marked, findings(("a", 1, 0, 0, 6), ("a", -1, 0, 0, 6)), ["a"])
    assert scores.matching.counts.ignored_double == 2
    assert states(scores) == ["TRUE_POSITIVE", "DOUBLE"]


def test_a_duplicate_row_is_a_double_on_a_nodule_and_a_second_false_positive_elsewhere() -> None:
    marked = marks(("a", 0, 0, 0, 0.9), ("a", 0, 0, 0, 0.9), ("a", 50, 0, 0, 0.5), ("a", 50, 0, 0, 0.5))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"])
    c = scores.matching.counts
    assert (c.true_positives, c.ignored_double, c.false_positives) == (1, 1, 2)
    # equal probabilities are one threshold: both false positives come in together
    assert scores.curve.false_positives.tolist() == [0, 0, 2]
    assert [w.code for w in scores.warnings] == ["duplicate-marks"]


# --- excluded findings ------------------------------------------------------------------------------------------


def test_a_mark_on_an_excluded_finding_is_neither() -> None:
    marked = marks(("a", 20, 0, 0, 0.9), ("a", 21, 0, 0, 0.8), ("a", 0, 0, 0, 0.7))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"], findings(("a", 20, 0, 0, 8)))
    assert states(scores) == ["IGNORED", "IGNORED", "TRUE_POSITIVE"]
    c = scores.matching.counts
    assert (c.ignored_excluded, c.ignored_double, c.false_positives, c.candidates) == (2, 0, 0, 3)


def test_a_nodule_claims_a_mark_before_an_excluded_finding_does() -> None:
    # the mark is nearer to the excluded finding, and counts for the nodule all the same
    scores = evaluate(marks(("a", 2, 0, 0, 0.9)), findings(("a", 0, 0, 0, 6)), ["a"], findings(("a", 2, 0, 0, 6)))
    assert states(scores) == ["TRUE_POSITIVE"]
    assert scores.matching.counts.ignored_excluded == 0


def test_a_mark_in_two_excluded_findings_is_ignored_once() -> None:
    excluded = findings(("a", 20, 0, 0, 8), ("a", 21, 0, 0, 8))
    scores = evaluate(marks(("a", 20.5, 0, 0, 0.9)), findings(("a", 0, 0, 0, 6)), ["a"], excluded)
    assert scores.matching.counts.ignored_excluded == 1


# --- the limit of marks per scan --------------------------------------------------------------------------------


def test_only_the_most_probable_marks_of_a_scan_count() -> None:
    # limit 2: the third best is 0.6, and 0.9 and 0.8 are above it. The cut mark on the nodule does not find it
    marked = marks(("a", 50, 0, 0, 0.8), ("a", 0, 0, 0, 0.5), ("a", 60, 0, 0, 0.9), ("a", 70, 0, 0, 0.6))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"], max_marks=2)
    assert states(scores) == ["FALSE_POSITIVE", "CUT", "FALSE_POSITIVE", "CUT"]
    c = scores.matching.counts
    assert (c.candidates, c.cut, c.false_negatives) == (2, 2, 1)


def test_marks_tied_with_the_first_beyond_the_limit_all_drop() -> None:
    # limit 2 and scores 0.9, 0.7, 0.7: the third best is 0.7, and only 0.9 is above it
    marked = marks(("a", 50, 0, 0, 0.9), ("a", 60, 0, 0, 0.7), ("a", 70, 0, 0, 0.7))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"], max_marks=2)
    assert states(scores) == ["FALSE_POSITIVE", "CUT", "CUT"]
    assert [w.code for w in scores.warnings] == ["ties-at-the-cut"]
    assert "1 marks within the limit of 2" in scores.warnings[0].text


def test_three_equal_marks_and_a_limit_of_two_leave_none() -> None:
    marked = marks(*(("a", 10.0 * i, 0, 0, 0.7) for i in range(3)))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"], max_marks=2)
    assert scores.matching.counts.candidates == 0


def test_as_many_marks_as_the_limit_are_not_cut() -> None:
    marked = marks(("a", 50, 0, 0, 0.7), ("a", 60, 0, 0, 0.7))
    assert evaluate(marked, findings(("a", 0, 0, 0, 6)), ["a"], max_marks=2).matching.counts.cut == 0


def test_the_limit_is_per_scan_and_zero_is_none() -> None:
    rows = [(s, 10.0 * i, 0, 0, 0.1 * i) for s in "ab" for i in range(3)]
    assert match(marks(*rows), Findings.none(), Findings.none(), ["a", "b"], 2).counts.candidates == 4
    assert match(marks(*rows), Findings.none(), Findings.none(), ["a", "b"], 0).counts.candidates == 6


# --- which scans count ------------------------------------------------------------------------------------------


def test_what_is_not_on_the_list_does_not_count() -> None:
    marked = marks(("a", 0, 0, 0, 0.9), ("z", 0, 0, 0, 0.99), ("z", 40, 0, 0, 0.98))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6), ("z", 0, 0, 0, 6)), ["a"])
    assert states(scores) == ["TRUE_POSITIVE", "UNLISTED", "UNLISTED"]
    c = scores.matching.counts
    assert (c.scans, c.nodules, c.candidates, c.false_positives, c.unlisted) == (1, 1, 1, 0, 2)


def test_a_listed_scan_without_marks_divides_the_axis_and_its_nodules_are_missed() -> None:
    # 2 false positives over 4 scans: the curve ends at 0.5 per scan; 1 of 2 nodules found
    marked = marks(("a", 0, 0, 0, 0.9), ("a", 40, 0, 0, 0.5), ("a", 60, 0, 0, 0.4))
    scores = evaluate(marked, findings(("a", 0, 0, 0, 6), ("b", 0, 0, 0, 6)), ["a", "b", "c", "d"])
    assert scores.curve.fps_per_scan.tolist() == [0, 0, 0.25, 0.5]
    assert scores.curve.sensitivity.tolist() == [0, 0.5, 0.5, 0.5]


def test_a_scan_listed_twice_counts_once() -> None:
    scores = evaluate(marks(("a", 40, 0, 0, 0.5)), findings(("a", 0, 0, 0, 6)), ["a", "a"])
    assert scores.curve.fps_per_scan.tolist() == [0, 1]
    assert "scans-listed-twice" in [w.code for w in scores.warnings]


def test_ids_are_compared_as_written() -> None:
    scores = evaluate(marks(("56", 0, 0, 0, 0.9)), findings(("056", 0, 0, 0, 6)), ["056"])
    assert scores.matching.counts.unlisted == 1
    assert scores.matching.counts.false_negatives == 1
    assert scores.warnings[0].code == "ids-differ-in-format"


# --- the curve and the two CPMs ---------------------------------------------------------------------------------


def eight_scans() -> DetectionScores:
    """Eight scans, four nodules; falling scores: hit, FP, hit, FP, FP, hit, FP and one nodule missed.

    Points (FP, hits): (0,0) (0,1) (1,1) (1,2) (2,2) (3,2) (3,3) (4,3); per scan FP / 8, sensitivity hits / 4.
    """
    order = ["hit", "fp", "hit", "fp", "fp", "hit", "fp"]
    rows, nodules = [], [("s7", 0.0, 0.0, 0.0, 6.0)]
    for i, kind in enumerate(order):
        rows.append((f"s{i}", 0.0, 0.0, 0.0, 0.9 - 0.1 * i))
        if kind == "hit":
            nodules.append((f"s{i}", 0.0, 0.0, 0.0, 6.0))
    return evaluate(marks(*rows), findings(*nodules), [f"s{i}" for i in range(8)])


def test_the_curve_of_eight_scans() -> None:
    curve = eight_scans().curve
    assert curve.false_positives.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert curve.true_positives.tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
    assert curve.fps_per_scan[-1] == 0.5


def test_interpolated_cpm_of_eight_scans() -> None:
    # 1/8 is 1 FP: at the top of the step there, 2 of 4. 1/4 is read at 0.2502125 = 2.0017 FP: level, 2 of 4.
    # 1/2 is read at 0.49985 = 3.9988 FP: level between (3,3) and (4,3), 3 of 4. Beyond the end: 3 of 4.
    scores = eight_scans()
    assert scores.curve.at(GRID_RATES).tolist() == [0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75]
    cpm = scores.to_dict()["cpm"]["interpolated"]
    assert cpm["value"] == pytest.approx((2 * 0.5 + 5 * 0.75) / 7)
    assert cpm["low"] <= cpm["value"] <= cpm["high"]


def test_nearest_cpm_of_eight_scans() -> None:
    # the bends: (0,0) (0,1) (1,1) (1,2) (2,2) (3,2) (3,3) (4,3); none lies in the middle of a straight run but
    # (2,2), between (1,2) and (3,2): it is left out. 1/8: first at 1 FP, 1 of 4. 1/4 is 2 FP: 1 and 3 are equally
    # near, the first counts, 1 of 4. 1/2: (4,3), 3 of 4. Beyond the end its last point: 3 of 4.
    scores = eight_scans()
    assert scores.curve.nearest().tolist() == [0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert scores.to_dict()["cpm"]["nearest"]["value"] == pytest.approx((2 * 0.25 + 5 * 0.75) / 7)


def test_the_grid_reads_just_before_one_half_and_one() -> None:
    # one scan a rate of FPs: hit at 1 FP/scan exactly. The grid reads 1 at 0.9999125: between (0, 0) and (1, 0)
    scores = evaluate(marks(("a", 50, 0, 0, 0.9), ("a", 0, 0, 0, 0.8)), findings(("a", 0, 0, 0, 6)), ["a"])
    assert scores.curve.at([1.0]).tolist() == [1.0]
    assert scores.curve.at(GRID_RATES).tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_tied_scores_of_both_kinds_are_one_sloping_step() -> None:
    # a hit and a false positive at the same score: no threshold parts them, so the curve goes (0,0) to (1,1)
    scores = evaluate(marks(("a", 0, 0, 0, 0.5), ("a", 50, 0, 0, 0.5)), findings(("a", 0, 0, 0, 6)), ["a"])
    assert scores.curve.true_positives.tolist() == [0, 1]
    assert scores.curve.at([0.25, 0.5, 1.0]).tolist() == [0.25, 0.5, 1.0]


def test_a_rate_hit_exactly_counts_what_comes_in_there() -> None:
    """1/8 FP per scan over 40 scans is 5 false positives; the nodule that follows them is in.

    The script takes the axis through floating point as (k / F) * F / 40, F being all false positives. For F = 147
    the fifth lands one bit beyond 1/8, and the nodule is out, only because of how many worse marks there are; for
    F = 146 it is in. Whole numbers read both alike. This is the one place where ours departs from the script.
    """
    script, ours = {}, {}
    for total in (146, 147):
        rows = [(f"s{i % 40:02d}", 50.0, float(i), 0.0, 0.9 - 0.001 * i) for i in range(total)]
        rows.append(("s00", 0.0, 0.0, 0.0, 0.8955))  # after five
        scores = evaluate(marks(*rows), findings(("s00", 0, 0, 0, 6)), [f"s{i:02d}" for i in range(40)])
        assert scores.matching.counts.false_positives == total
        ours[total] = float(scores.curve.at([0.125])[0])
        fps = scores.curve.false_positives / total * total / 40
        script[total] = round(float(np.interp(0.125, fps, scores.curve.sensitivity)), 9)
    assert script == {146: 1.0, 147: 0.0}
    assert ours == {146: 1.0, 147: 1.0}


def test_nearest_can_fall_when_a_false_positive_goes() -> None:
    """Why `interpolated` stands first: of hit, FP, hit in one scan, take the FP away.

    With it the point nearest to 1 FP/scan is the first at 1: 1 of 2 found. Without it the curve is (0,0), (0,1),
    (0,2), which ends at no FP, so its last point counts: 2 of 2. At 1/8, however, both read the first point at
    0 FP, which is (0,0) with the FP, and the last point without it.
    """
    both = findings(("a", 0, 0, 0, 6), ("a", 30, 0, 0, 6))
    rows = (("a", 0, 0, 0, 0.9), ("a", 90, 0, 0, 0.8), ("a", 30, 0, 0, 0.7))
    assert evaluate(marks(*rows), both, ["a"]).curve.nearest().tolist() == [0, 0, 0, 0.5, 1, 1, 1]
    assert evaluate(marks(rows[0], rows[2]), both, ["a"]).curve.nearest().tolist() == [1] * 7


# --- corners ----------------------------------------------------------------------------------------------------


def test_all_found_without_a_false_positive() -> None:
    scores = evaluate(
        marks(("a", 0, 0, 0, 0.9), ("b", 0, 0, 0, 0.8)), findings(("a", 0, 0, 0, 6), ("b", 1, 0, 0, 6)), ["a", "b"]
    )
    metrics = scores.to_dict()
    assert metrics["froc"]["sensitivity"] == [1.0] * 7
    # a replicate that draws a scan twice finds the same: the interval has no width
    for cpm in metrics["cpm"].values():
        assert cpm == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert metrics["warnings"] == []


def test_no_marks_at_all() -> None:
    scores = evaluate(marks(), findings(("a", 0, 0, 0, 6)), ["a", "b"])
    metrics = scores.to_dict()
    assert metrics["froc"]["sensitivity"] == [0.0] * 7
    assert metrics["cpm"]["interpolated"]["value"] == metrics["cpm"]["nearest"]["value"] == 0.0
    assert metrics["counts"]["false_negatives"] == 1
    assert [w["code"] for w in metrics["warnings"]] == ["scans-without-marks"]


def test_no_hit_at_all() -> None:
    metrics = evaluate(marks(("a", 50, 0, 0, 0.9)), findings(("a", 0, 0, 0, 6)), ["a"]).to_dict()
    assert metrics["cpm"]["interpolated"]["value"] == metrics["cpm"]["nearest"]["value"] == 0.0


def test_no_nodules_leave_sensitivity_undefined() -> None:
    scores = evaluate(marks(("a", 50, 0, 0, 0.9)), Findings.none(), ["a"])
    metrics = scores.to_dict()
    assert metrics["froc"]["sensitivity"] == [None] * 7
    assert metrics["cpm"]["interpolated"] == {"value": None, "low": None, "high": None}
    assert metrics["counts"]["false_positives"] == 1
    assert metrics["bootstrap"]["replicates_without_nodules"] == 20
    assert "no-nodules" in [w["code"] for w in metrics["warnings"]]


def test_one_scan_has_no_spread_between_scans() -> None:
    # every replicate draws the one scan once
    marked = marks(("a", 0, 0, 0, 0.9), ("a", 50, 0, 0, 0.95))
    cpm = evaluate(marked, findings(("a", 0, 0, 0, 6), ("a", 20, 0, 0, 6)), ["a"]).to_dict()["cpm"]["interpolated"]
    assert cpm["low"] == cpm["value"] == cpm["high"]


def test_by_diameter_parts_at_6_8_and_15_mm() -> None:
    sizes = (3, 5.9, 6, 7.9, 8, 14.9, 15, 40)
    nodules = findings(*((f"s{i}", 0.0, 0.0, 0.0, d) for i, d in enumerate(sizes)))
    marked = marks(*((f"s{i}", 0.0, 0.0, 0.0, 0.9) for i in (0, 2, 3, 6)))
    rows = evaluate(marked, nodules, [f"s{i}" for i in range(8)]).to_dict()["by_diameter"]
    assert [(r["from_mm"], r["below_mm"], r["nodules"], r["found"]) for r in rows] == [
        (0.0, 6.0, 2, 1),
        (6.0, 8.0, 2, 2),
        (8.0, 15.0, 2, 0),
        (15.0, None, 2, 1),
    ]
    assert [r["cpm"]["value"] for r in rows] == [0.5, 1.0, 0.0, 0.5]


def test_counts_are_whole_and_named_as_documented() -> None:
    counts = asdict(eight_scans().matching.counts)
    assert counts == {
        "scans": 8,
        "nodules": 4,
        "candidates": 7,
        "true_positives": 3,
        "false_positives": 4,
        "false_negatives": 1,
        "ignored_excluded": 0,
        "ignored_double": 0,
        "cut": 0,
        "unlisted": 0,
        "in_two_nodules": 0,
    }
    assert len(RATES) == 7


def test_the_example_of_the_reference_page() -> None:
    # docs/reference/evaluate-detections.md derives each of these
    marked = marks(
        ("scan1", 10, 20, -100, 0.95),
        ("scan1", 11, 20, -100, 0.90),
        ("scan1", 60, 0, -80, 0.85),
        ("scan2", -40, 10, -50, 0.70),
        ("scan2", 5, 5, -60, 0.60),
        ("scan3", 0, 0, -20, 0.40),
    )
    nodules = findings(("scan1", 10, 21, -100, 8), ("scan2", -41, 10, -50, 6), ("scan3", 50, 50, -30, 4))
    excluded = findings(("scan2", 5, 4, -60, -1))
    scores = evaluate(marked, nodules, ["scan1", "scan2", "scan3", "scan4"], excluded)
    assert states(scores) == [
        "TRUE_POSITIVE",
        "DOUBLE",
        "FALSE_POSITIVE",
        "TRUE_POSITIVE",
        "IGNORED",
        "FALSE_POSITIVE",
    ]
    assert scores.curve.fps_per_scan.tolist() == [0, 0, 0.25, 0.25, 0.5]
    assert (3 * scores.curve.sensitivity).tolist() == [0, 1, 1, 2, 2]
    cpm = scores.to_dict()["cpm"]
    assert cpm["interpolated"]["value"] == pytest.approx((1 + 6 * 2) / 21)
    assert cpm["nearest"]["value"] == pytest.approx((0 + 1 + 5 * 2) / 21)
    assert [w.code for w in scores.warnings] == ["scans-without-marks"]
