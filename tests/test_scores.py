"""Scores agree with scikit-learn, with brute force and with the bootstrap, and keep their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from noduscope.errors import InputRefused
from noduscope.evaluate.delong import delong_covariance, delong_test
from noduscope.evaluate.scores import (
    Confusion,
    PatientBootstrap,
    Ranking,
    best_threshold,
    call_intervals,
    net_benefit,
    percentile_interval,
    reliability,
    score_intervals,
)


@st.composite
def graded(draw, smallest=4):
    """Labels with two or more of each class, probabilities with ties, and whole-number weights."""
    n = draw(st.integers(smallest, 40))
    labels = np.array([True, True, False, False, *draw(st.lists(st.booleans(), min_size=n - 4, max_size=n - 4))])
    probabilities = np.array(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))) / 20
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    weights[[0, 2]] = np.maximum(weights[[0, 2]], 1)
    return labels, probabilities, weights


@given(graded())
def test_weighted_scores_are_scikit_learns(case):
    labels, probabilities, weights = case
    ranking = Ranking.of(labels, probabilities)
    assert ranking.auc(weights[None])[0] == pytest.approx(
        sk.roc_auc_score(labels, probabilities, sample_weight=weights)
    )
    assert ranking.average_precision(weights[None])[0] == pytest.approx(
        sk.average_precision_score(labels, probabilities, sample_weight=weights)
    )


@given(graded(), st.floats(0, 1))
def test_weighted_calls_are_scikit_learns(case, threshold):
    labels, probabilities, weights = case
    calls = probabilities >= threshold
    found = {k: v[0] for k, v in Confusion.of(labels, calls, weights[None]).metrics().items()}
    kept = weights > 0
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, calls, sample_weight=weights))
    assert found["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels[kept], calls[kept], sample_weight=weights[kept])
    )
    assert found["precision"] == pytest.approx(
        sk.precision_score(labels, calls, sample_weight=weights, zero_division=np.nan), nan_ok=True
    )
    assert found["recall"] == pytest.approx(sk.recall_score(labels, calls, sample_weight=weights))
    assert found["specificity"] == pytest.approx(sk.recall_score(~labels, ~calls, sample_weight=weights))
    assert found["f1"] == pytest.approx(sk.f1_score(labels, calls, sample_weight=weights))


@given(graded())
def test_whole_number_weights_are_repetitions(case):
    labels, probabilities, weights = case
    repeated = np.repeat(np.arange(len(labels)), weights.astype(int))
    once = np.ones((1, len(repeated)))
    again = Ranking.of(labels[repeated], probabilities[repeated])
    there = Ranking.of(labels, probabilities)
    assert there.auc(weights[None]) == pytest.approx(again.auc(once))
    for name, value in there.confusion_at_sensitivity(0.95)(weights[None]).metrics().items():
        assert value == pytest.approx(again.confusion_at_sensitivity(0.95)(once).metrics()[name], nan_ok=True), name


@given(graded(), st.randoms(use_true_random=False))
def test_the_order_of_cases_does_not_matter(case, random):
    labels, probabilities, _ = case
    order = np.array(random.sample(range(len(labels)), len(labels)))
    bootstrap = PatientBootstrap.draw([f"p{i // 2}" for i in range(len(labels))], 20, 0)
    here = score_intervals(labels, probabilities, bootstrap)
    there = score_intervals(labels[order], probabilities[order], bootstrap.of(order))
    for name, interval in here.items():
        assert (there[name].value, there[name].low) == pytest.approx((interval.value, interval.low), nan_ok=True), name


@given(graded())
def test_a_monotone_change_of_the_score_keeps_the_auc(case):
    labels, probabilities, weights = case
    one = Ranking.of(labels, probabilities).auc(weights[None])
    assert Ranking.of(labels, np.exp(3 * probabilities)).auc(weights[None]) == pytest.approx(one)
    assert Ranking.of(labels, -probabilities).auc(weights[None]) == pytest.approx(1 - one)


def brute_force_delong(labels, scores):
    """The structural components as DeLong et al. write them: the kernel over every pair."""
    v10, v01 = [], []
    for score in scores:
        positive, negative = score[labels][:, None], score[~labels][None, :]
        kernel = (positive > negative) + 0.5 * (positive == negative)
        v10.append(kernel.mean(axis=1))
        v01.append(kernel.mean(axis=0))
    s10, s01 = np.cov(v10), np.cov(v01)
    return np.mean(v10, axis=1), s10 / labels.sum() + s01 / (~labels).sum()


@given(graded(), st.randoms(use_true_random=False))
def test_delong_is_the_pairwise_definition(case, random):
    labels, probabilities, _ = case
    other = np.array([random.randrange(10) for _ in labels], dtype=float)
    auc, covariance = delong_covariance(labels, np.stack([probabilities, other]))
    expected_auc, expected = brute_force_delong(labels, [probabilities, other])
    assert auc == pytest.approx(expected_auc)
    assert covariance == pytest.approx(expected, abs=1e-12)


def simulated(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    signal = labels + rng.normal(size=n)
    return labels, signal + 0.6 * rng.normal(size=n), signal + 1.2 * rng.normal(size=n)


def test_delong_error_is_the_bootstraps_when_cases_are_independent():
    labels, first, second = simulated(500, 1)
    tested = delong_test(labels, first, second)
    bootstrap = PatientBootstrap.draw([str(i) for i in range(500)], 2000, 0)
    a, b = Ranking.of(labels, first), Ranking.of(labels, second)
    spread = bootstrap.replicates_of(lambda w: a.auc(w) - b.auc(w)).std()
    error = (tested.difference.high - tested.difference.low) / 2 / 1.959964
    assert error == pytest.approx(spread, rel=0.08)


def test_delong_rejects_a_true_null_as_often_as_it_says():
    # 400 experiments without a difference: 5 % of p-values below 0.05, give or take 2 standard errors of 1.1 %
    rejected = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        labels = rng.random(120) < 0.5
        shared = labels + rng.normal(size=120)
        first, second = shared + rng.normal(size=120), shared + rng.normal(size=120)
        rejected += delong_test(labels, first, second).p_value < 0.05
    assert 0.028 < rejected / 400 < 0.072


def test_delong_of_a_score_with_itself_and_against_a_constant():
    labels, first, _ = simulated(400, 2)
    same = delong_test(labels, first, np.exp(first))
    assert (same.z, same.p_value) == (0.0, 1.0)
    constant = delong_test(labels, first, np.full(400, 0.3))
    assert constant.second.value == 0.5
    assert constant.p_value < 1e-4
    perfect = delong_test(labels, labels.astype(float), np.full(400, 0.3))
    assert np.isnan(perfect.p_value)


def test_delong_refuses_a_single_case_of_a_class():
    with pytest.raises(InputRefused, match="two or more"):
        delong_covariance(np.array([True, False, False]), [0.1, 0.2, 0.3])


def test_drawing_patients_widens_the_interval_of_clustered_cases():
    # every patient's eight nodules are copies of one: there are 60 facts, not 480
    labels, first, _ = simulated(60, 3)
    labels, first = np.repeat(labels, 8), np.repeat(first, 8)
    by_patient = PatientBootstrap.draw(np.repeat(np.arange(60).astype(str), 8), 500, 0)
    by_case = PatientBootstrap.draw([str(i) for i in range(480)], 500, 0)
    auc = Ranking.of(labels, first).auc
    wide, narrow = by_patient.interval(auc), by_case.interval(auc)
    assert (wide.high - wide.low) > 2 * (narrow.high - narrow.low)


def test_bootstrap_draws_whole_patients_and_repeats_with_its_seed():
    patients = ["b", "a", "b", "c", "a"]
    bootstrap = PatientBootstrap.draw(patients, 50, 7)
    weights = bootstrap.weights
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 1], weights[:, 4])
    assert np.all(weights[:, 0] + weights[:, 1] + weights[:, 3] == 3)
    assert np.array_equal(weights, PatientBootstrap.draw(patients, 50, 7).weights)
    assert not np.array_equal(weights, PatientBootstrap.draw(patients, 50, 8).weights)


def test_blocks_change_nothing(monkeypatch):
    labels, first, _ = simulated(40, 4)
    bootstrap = PatientBootstrap.draw([str(i // 2) for i in range(40)], 30, 0)
    whole = bootstrap.replicates_of(Ranking.of(labels, first).auc)
    monkeypatch.setattr("noduscope.evaluate.scores._BLOCK_CELLS", 100)
    assert np.array_equal(bootstrap.replicates_of(Ranking.of(labels, first).auc), whole)


def test_the_interval_covers_as_often_as_it_says():
    # 200 experiments with a known AUC: normal scores one standard deviation apart have AUC Phi(1/sqrt 2) = 0.760
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.random(150) < 0.5
        score = labels + rng.normal(size=150)
        interval = PatientBootstrap.draw(np.arange(150).astype(str), 200, seed).interval(Ranking.of(labels, score).auc)
        covered += interval.low <= 0.7602 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


@given(graded())
@settings(max_examples=50)
def test_reliability_bins_are_scikit_learns(case):
    labels, probabilities, _ = case
    bins = reliability(labels, probabilities, PatientBootstrap.draw([str(i) for i in range(len(labels))], 20, 0))
    # shifted off the edges, which scikit-learn closes on the other side
    observed, predicted = calibration_curve(labels, np.minimum(probabilities + 1e-9, 1.0), n_bins=10)
    assert [b.observed.value for b in bins] == pytest.approx(list(observed))
    assert [b.predicted for b in bins] == pytest.approx(list(predicted), abs=1e-6)
    assert sum(b.n for b in bins) == len(labels)


def test_calling_everyone_is_the_treat_all_line():
    labels, _, _ = simulated(200, 5)
    thresholds = np.array([0.1, 0.3, 0.6])
    everyone = net_benefit(labels, np.ones(200), thresholds)(np.ones((1, 200)))[0]
    prevalence = labels.mean()
    assert everyone == pytest.approx(prevalence - (1 - prevalence) * thresholds / (1 - thresholds))


@given(graded())
def test_the_best_threshold_cannot_be_beaten(case):
    labels, probabilities, _ = case
    one = np.ones((1, len(labels)))

    def balanced(threshold):
        return Confusion.of(labels, probabilities >= threshold, one).metrics()["balanced_accuracy"][0]

    chosen = balanced(best_threshold(labels, probabilities))
    assert all(chosen >= balanced(t) - 1e-12 for t in np.r_[np.unique(probabilities), 2.0] if t <= probabilities.max())


def test_call_intervals_hold_the_plain_counts():
    labels, first, _ = simulated(100, 6)
    calls = first > 0.5
    bootstrap = PatientBootstrap.draw([str(i) for i in range(100)], 200, 0)
    intervals, counts = call_intervals(lambda w: Confusion.of(labels, calls, w), bootstrap)
    tn, fp, fn, tp = sk.confusion_matrix(labels, calls).ravel()
    assert counts == {"tn": tn, "fp": fp, "fn": fn, "tp": tp}
    assert all(i.low <= i.value <= i.high for i in intervals.values())


def test_one_class_has_no_auc_but_a_brier_score():
    labels, probabilities = np.ones(5, bool), np.full(5, 0.8)
    found = score_intervals(labels, probabilities, PatientBootstrap.draw(list("abcde"), 20, 0))
    assert np.isnan(found["auc"].value) and np.isnan(found["auc"].low)
    assert found["brier"].value == pytest.approx(0.04)


def test_percentiles_ignore_what_is_undefined():
    low, high = percentile_interval(np.array([[0.0, np.nan], [1.0, np.nan], [np.nan, np.nan]]))
    assert (low[0], high[0]) == pytest.approx((0.025, 0.975))
    assert np.isnan(low[1]) and np.isnan(high[1])
