"""The fast implementation against the slow one, against scikit-learn, and its own corners."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from noduscope.errors import InputRefused, SettingsError
from noduscope.evaluate import froc
from noduscope.evaluate.froc import (
    GRID_RATES,
    RATES,
    FrocSettings,
    Ladder,
    bootstrap,
    build_ladder,
    froc_curve,
    group_sensitivity,
    percentile_interval,
)
from noduscope.evaluate.matching import Findings, Marks, MarkState, Matching, match

Rows = list[tuple[str, float, float, float, float]]


def load_slow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slow_luna16", Path(__file__).with_name("slow_luna16.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slow = load_slow()


def marks_of(rows: Rows) -> Marks:
    numbers = np.array([r[1:] for r in rows], dtype=float).reshape(-1, 4)
    return Marks(tuple(r[0] for r in rows), numbers[:, :3], numbers[:, 3])


def findings_of(rows: Rows) -> Findings:
    numbers = np.array([r[1:] for r in rows], dtype=float).reshape(-1, 4)
    return Findings(tuple(r[0] for r in rows), numbers[:, :3], numbers[:, 3])


def random_case(rng: np.random.Generator) -> tuple[Rows, Rows, Rows, list[str], int]:
    """A small world on a coarse grid with few scores: ties, edges, overlaps and empty scans abound."""
    scans = [f"s{i}" for i in range(int(rng.integers(1, 7)))]
    levels = int(rng.integers(2, 40))

    def rows(most: int, values: list[float]) -> Rows:
        count = int(rng.integers(most // 4, most + 1))
        return [
            (
                str(rng.choice([*scans, "unlisted"])),
                *(float(p) for p in rng.integers(0, 12, 3)),
                float(rng.choice(values)),
            )
            for _ in range(count)
        ]

    nodules = rows(10, [2.0, 2.5, 3.5, 4.0, 6.0, 0.0, -1.0])
    excluded = rows(4, [2.0, 4.0, -1.0])
    marks = rows(int(rng.choice([2, 30, 60])), (np.arange(levels) / 8).tolist())
    near = [nodules[i] for i in rng.integers(0, len(nodules), 12)]
    steps = rng.integers(-1, 2, (12, 3)).astype(float).tolist()
    marks += [
        (uid, x + dx, y + dy, z + dz, float(rng.integers(levels)) / 8)
        for (uid, x, y, z, _), (dx, dy, dz) in zip(near, steps, strict=True)
    ]
    shuffled = [marks[i] for i in rng.permutation(len(marks))]
    return shuffled, nodules, excluded, scans, int(rng.choice([0, 2, 8, 100]))


def run_case(case: tuple[Rows, Rows, Rows, list[str], int]) -> tuple[Matching, Ladder]:
    marks, nodules, excluded, scans, limit = case
    matching = match(marks_of(marks), findings_of(nodules), findings_of(excluded), scans, limit)
    return matching, build_ladder(matching)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_slow_implementation_on_random_cases(seed: int) -> None:
    rng = np.random.default_rng([16, seed])
    with_nodules = 0
    for _ in range(300):
        case = random_case(rng)
        matching, ladder = run_case(case)
        plain = slow.evaluate_scans(*case)
        got = asdict(matching.counts)
        assert {k: got[k] for k in slow.counts(plain)} == slow.counts(plain), case
        curve = froc_curve(ladder)
        pairs = list(zip(curve.false_positives.tolist(), curve.true_positives.tolist(), strict=True))
        world = (slow.points(plain), len(plain), got["nodules"])
        assert pairs == world[0], case
        if curve.nodules == 0:
            assert np.isnan(curve.at(RATES)).all()
            continue
        with_nodules += 1
        for rates in (RATES, tuple(GRID_RATES.tolist())):
            want = [float(slow.interpolated(*world, rate)) for rate in rates]
            assert curve.at(rates) == pytest.approx(want, abs=1e-12), case
        want = [float(slow.nearest(*world, rate)) for rate in RATES]
        assert curve.nearest() == pytest.approx(want, abs=1e-12), case
    assert with_nodules > 200


def test_bootstrap_agrees_with_copying_the_drawn_scans() -> None:
    rng = np.random.default_rng(88)
    compared = 0
    for seed in range(100):
        case = random_case(rng)
        _, ladder = run_case(case)
        plain = slow.evaluate_scans(*case)
        got = bootstrap(ladder, FrocSettings(replicates=6, seed=seed), GRID_RATES)
        draws = np.random.default_rng(seed)
        resampled = [[plain[i] for i in draws.integers(len(plain), size=len(plain))] for _ in range(6)]
        usable = [scans for scans in resampled if slow.counts(scans)["nodules"]]
        assert got.without_nodules == 6 - len(usable)
        for replicate, scans in enumerate(usable):
            world = (slow.points(scans), len(scans), slow.counts(scans)["nodules"])
            want = [float(slow.interpolated(*world, rate)) for rate in GRID_RATES.tolist()]
            assert got.sensitivity[replicate] == pytest.approx(want, abs=1e-12), (case, seed)
            want = [float(slow.nearest(*world, rate)) for rate in RATES]
            assert got.nearest[replicate] == pytest.approx(want, abs=1e-12), (case, seed)
            compared += 1
    assert compared > 300


def many_marks(scans: int = 24, per_scan: int = 60) -> Matching:
    """A detector with far more than 8 false positives a scan, so that the ladder's head is used."""
    rng = np.random.default_rng(5)
    uids = [f"s{i:03d}" for i in range(scans)]
    place = rng.uniform(-100, 100, (scans * per_scan, 3))
    # scores as coarse as those of a detector with few levels; scan means differ, as they do in life
    score = np.round(rng.normal(np.repeat(rng.normal(0, 0.6, scans), per_scan), 1.0), 1)
    nodules = place[:: per_scan // 2] + 0.5
    of = np.repeat(uids, per_scan)
    return match(
        Marks(tuple(of), place, score),
        Findings(tuple(of[:: per_scan // 2]), nodules, np.full(len(nodules), 6.0)),
        Findings.none(),
        uids,
    )


def test_reading_the_head_of_the_ladder_gives_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    ladder = build_ladder(many_marks())
    settings = FrocSettings(replicates=200, seed=3)
    head = froc._head(ladder, 12 * ladder.scans)
    assert len(head.thresholds) < len(ladder.thresholds)
    quick = bootstrap(ladder, settings, GRID_RATES)
    monkeypatch.setattr(froc, "_head", lambda whole, _: whole)
    whole = bootstrap(ladder, settings, GRID_RATES)
    for name in ("sensitivity", "by_group", "nearest"):
        assert np.array_equal(getattr(quick, name), getattr(whole, name))


def test_a_head_that_ends_too_early_falls_back_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    ladder = build_ladder(many_marks())
    settings = FrocSettings(replicates=50, seed=3)
    whole = bootstrap(ladder, settings, GRID_RATES)
    real = froc._head
    # eight a scan is just where some draws reach the last rate and others do not
    monkeypatch.setattr(froc, "_head", lambda ladder, _: real(ladder, 8 * ladder.scans))
    assert np.array_equal(bootstrap(ladder, settings, GRID_RATES).nearest, whole.nearest)


def test_curve_is_scikit_learns_roc_curve_on_the_false_positive_axis() -> None:
    rng = np.random.default_rng(7)
    compared = 0
    while compared < 100:
        matching, ladder = run_case(random_case(rng))
        if min(matching.counts.false_positives, matching.counts.true_positives) > 0:
            compare_with_scikit_learn(matching, ladder)
            compared += 1


def compare_with_scikit_learn(matching: Matching, ladder: Ladder) -> None:
    curve = froc_curve(ladder)
    false, found = curve.false_positives[-1], curve.true_positives[-1]
    score = matching.marks.probability
    of_found = score[matching.nodule_mark[matching.nodule_mark >= 0]]
    of_false = score[matching.rows(MarkState.FALSE_POSITIVE)]
    truth = np.repeat([1, 0], [len(of_found), len(of_false)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate((of_found, of_false)), drop_intermediate=True)
    corner_fp, corner_tp = curve.corners()
    assert fpr * false == pytest.approx(corner_fp)
    assert tpr * found == pytest.approx(corner_tp)


def test_group_sensitivities_add_up_to_the_whole() -> None:
    matching = many_marks()
    group = np.arange(len(matching.nodules)) % 3
    ladder = build_ladder(matching, group, groups=4)
    by_group = group_sensitivity(ladder, GRID_RATES)
    size = ladder.nodules.sum(axis=1)
    assert size.tolist()[3] == 0
    assert np.isnan(by_group[3]).all()
    assert (by_group[:3] * size[:3, None]).sum(axis=0) / size.sum() == pytest.approx(froc_curve(ladder).at(GRID_RATES))


def test_group_sensitivities_of_a_replicate_add_up_to_its_whole() -> None:
    matching = many_marks()
    ladder = build_ladder(matching, np.zeros(len(matching.nodules), dtype=np.int64))
    drawn = bootstrap(ladder, FrocSettings(replicates=20), GRID_RATES)
    assert drawn.by_group[:, 0] == pytest.approx(drawn.sensitivity)


def test_same_seed_same_draws_and_another_seed_others() -> None:
    ladder = build_ladder(many_marks())
    one, same, other = (bootstrap(ladder, FrocSettings(replicates=30, seed=s), GRID_RATES) for s in (1, 1, 2))
    assert np.array_equal(one.sensitivity, same.sensitivity)
    assert not np.array_equal(one.sensitivity, other.sensitivity)


def test_patients_with_one_scan_each_are_drawn_as_scans_are() -> None:
    ladder = build_ladder(many_marks())
    settings = FrocSettings(replicates=30, seed=1)
    by_scan = bootstrap(ladder, settings, GRID_RATES)
    # names that sort as the scans do, so that the same draw is the same scan
    by_patient = bootstrap(ladder, settings, GRID_RATES, [f"{i:05d}" for i in range(ladder.scans)])
    assert np.array_equal(by_patient.sensitivity, by_scan.sensitivity)
    assert np.array_equal(by_patient.nearest, by_scan.nearest)


def test_two_patients_give_what_either_or_both_of_them_have() -> None:
    """Worked by hand: of a's two scans both nodules are found, of b's one none, and b has the only false mark."""
    marks = marks_of([("a1", 0, 0, 0, 0.9), ("a2", 0, 0, 0, 0.8), ("b", 90, 0, 0, 0.95)])
    nodules = findings_of([("a1", 0, 0, 0, 8.0), ("a2", 0, 0, 0, 8.0), ("b", 0, 0, 0, 8.0)])
    matching = match(marks, nodules, Findings.none(), ["a1", "a2", "b"])
    drawn = bootstrap(build_ladder(matching), FrocSettings(replicates=60), np.array([1.0]), ["a", "a", "b"])
    assert set(np.round(drawn.sensitivity[:, 0], 6)) == {1.0, round(2 / 3, 6), 0.0}


def test_no_replicates_give_no_interval() -> None:
    drawn = bootstrap(build_ladder(many_marks()), FrocSettings(replicates=0), GRID_RATES)
    assert drawn.sensitivity.shape == (0, 7)
    assert np.isnan(percentile_interval(drawn.sensitivity[:, 0])).all()


def test_percentile_interval_takes_the_26th_and_976th_of_a_thousand() -> None:
    # LUNA16's script sorts and takes the places floor(0.025 n) and floor(0.975 n), counted from 0
    values = np.random.default_rng(0).permutation(1000).astype(float)
    assert percentile_interval(values) == (25.0, 975.0)
    assert percentile_interval(np.append(values, np.nan)) == (25.0, 975.0)
    assert percentile_interval(np.array([4.0])) == (4.0, 4.0)


def test_official_grid_reads_next_to_the_rates() -> None:
    # the grid's step is 7.875 / 10000 = 0.0007875; 1/8 and 8 are its ends
    steps = (np.array(RATES) - 0.125) / 0.0007875
    assert pytest.approx(0.125 + np.round(steps) * 0.0007875) == GRID_RATES
    assert GRID_RATES[[0, 6]].tolist() == [0.125, 8.0]
    assert (np.abs(GRID_RATES - RATES) < 3e-4).all()


def test_threshold_within_keeps_to_the_rate() -> None:
    curve = froc_curve(build_ladder(many_marks()))
    for rate, threshold in zip(RATES, curve.threshold_within(RATES), strict=True):
        at = int(np.flatnonzero(curve.thresholds == threshold)[0])
        assert curve.fps_per_scan[at] <= rate
        assert curve.fps_per_scan[at + 1] > rate
    assert curve.threshold_within([0.0]).tolist() == [curve.thresholds[np.flatnonzero(curve.false_positives == 0)[-1]]]


def test_settings_refuse_negative_numbers() -> None:
    for field in ("replicates", "seed", "max_marks"):
        with pytest.raises(SettingsError, match="must not be negative"):
            replace(FrocSettings(), **{field: -1})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_marks_and_findings_refuse_what_is_not_finite(bad: float) -> None:
    place = np.array([[0.0, 0, 0], [1, 2, bad]])
    with pytest.raises(InputRefused, match="row 2 holds a NaN or an infinity"):
        Marks(("a", "a"), place, np.ones(2))
    with pytest.raises(InputRefused, match="row 1 holds"):
        Findings(("a",), np.zeros((1, 3)), np.array([bad]))


def test_marks_refuse_arrays_that_do_not_fit() -> None:
    with pytest.raises(InputRefused, match="2 ids"):
        Marks(("a", "b"), np.zeros((1, 3)), np.zeros(2))
    with pytest.raises(InputRefused, match=r"shape \(1, 2\)"):
        Findings(("a",), np.zeros((1, 2)), np.zeros(1))
