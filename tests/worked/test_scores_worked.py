"""Scores against answers worked out by hand and against published ones.

The derivation stands beside each expected value.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from noduscope.evaluate.delong import delong_covariance, delong_test
from noduscope.evaluate.scores import (
    Confusion,
    Ranking,
    best_threshold,
    calibration_error,
    net_benefit,
    threshold_at_sensitivity,
)

# Six cases, three malignant. From the highest probability down: M .9, B .8, M .7, M .4, B .4, B .1
LABELS = np.array([True, False, True, True, False, False])
PROBABILITIES = np.array([0.9, 0.8, 0.7, 0.4, 0.4, 0.1])
ONE = np.ones((1, 6))


def test_auc_counts_pairs_and_ties_half():
    # nine pairs (malignant, benign): .9 beats .8 .4 .1 = 3; .7 beats .4 .1 = 2; .4 ties .4 and beats .1 = 1.5
    assert Ranking.of(LABELS, PROBABILITIES).auc(ONE)[0] == pytest.approx(6.5 / 9)


def test_average_precision_steps():
    # recall rises by 1/3 at .9 (precision 1/1), at .7 (2/3) and at .4 (both .4 cases are called: 3/5)
    assert Ranking.of(LABELS, PROBABILITIES).average_precision(ONE)[0] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_confusion_at_half():
    # called at 0.5: M .9, B .8, M .7, so tp 2, fp 1, fn 1 (M .4), tn 2
    found = Confusion.of(LABELS, PROBABILITIES >= 0.5, ONE)
    assert [float(x[0]) for x in (found.tp, found.fp, found.fn, found.tn)] == [2, 1, 1, 2]
    expected = {
        "accuracy": 4 / 6,
        "balanced_accuracy": (2 / 3 + 2 / 3) / 2,
        "precision": 2 / 3,
        "recall": 2 / 3,
        "specificity": 2 / 3,
        "f1": 2 * 2 / (2 * 2 + 1 + 1),
    }
    assert {k: float(v[0]) for k, v in found.metrics().items()} == pytest.approx(expected)


def test_precision_without_any_call_is_undefined_not_zero():
    metrics = Confusion.of(LABELS, np.zeros(6, bool), ONE).metrics()
    assert math.isnan(metrics["precision"][0])
    assert metrics["f1"][0] == 0


def test_threshold_at_a_fixed_sensitivity():
    # 95 % of 3 malignant cases means all 3, and the lowest of them has 0.4; two thirds are reached at 0.7
    assert threshold_at_sensitivity(LABELS, PROBABILITIES, 0.95) == 0.4
    assert threshold_at_sensitivity(LABELS, PROBABILITIES, 2 / 3) == 0.7
    found = Ranking.of(LABELS, PROBABILITIES).confusion_at_sensitivity(0.95)(ONE)
    assert (found.tp[0], found.fp[0], found.fn[0], found.tn[0]) == (3, 2, 0, 1)


def test_best_threshold_lies_half_way_down_to_the_next_case():
    # balanced accuracy: .9 -> (1/3 + 1)/2 = .667; .8 -> .5; .7 -> .667; .4 -> (1 + 1/3)/2 = .667; .1 -> .5
    # the highest of the equal ones is .9; half-way to .8
    assert best_threshold(LABELS, PROBABILITIES) == pytest.approx(0.85)


def test_expected_calibration_error_by_hand():
    # ten bins: .9 -> |.9 - 1|, .8 -> |.8 - 0|, .7 -> |.7 - 1|, two .4 -> |.8 - 1| together, .1 -> |.1 - 0|
    expected = (0.1 + 0.8 + 0.3 + 0.2 + 0.1) / 6
    assert calibration_error(LABELS, PROBABILITIES, ONE)[0] == pytest.approx(expected)
    # one bin: |mean probability - prevalence| = |3.3/6 - 3/6|
    assert calibration_error(LABELS, PROBABILITIES, ONE, bins=1)[0] == pytest.approx(0.3 / 6)


def test_a_probability_of_one_falls_in_the_last_bin():
    assert calibration_error(np.array([True, False]), np.array([1.0, 0.0]), np.ones((1, 2)))[0] == 0


def test_net_benefit_by_hand():
    # at t = 0.5 the odds are 1: tp 2/6 - fp 1/6. At t = 0.2 (odds 1/4) all but B .1 are called: 3/6 - 2/6 · 1/4
    values = net_benefit(LABELS, PROBABILITIES, np.array([0.5, 0.2]))(ONE)[0]
    assert values == pytest.approx([1 / 6, 3 / 6 - 2 / 6 / 4])


def test_delong_by_hand():
    # Positives score 1 3, negatives 0 2. Each positive's share of beaten negatives: V10 = (1/2, 1), mean 3/4.
    # Each negative's share of positives above it: V01 = (1, 1/2).
    # var V10 = (1/4)²·2/(2-1) = 1/8, same for V01, so the variance of the AUC is 1/8/2 + 1/8/2 = 1/8.
    labels = np.array([True, True, False, False])
    auc, covariance = delong_covariance(labels, [1.0, 3.0, 0.0, 2.0])
    assert auc == pytest.approx([0.75])
    assert covariance == pytest.approx(np.array([[1 / 8]]))


def test_delong_covariance_by_hand():
    # A second score: positives 3 1, negatives 0 2, so V10 = (1, 1/2), V01 = (1, 1/2) and AUC 3/4 too.
    # Across the scores cov V10 = (-1/4 · 1/4)·2/1 = -1/8 and cov V01 = +1/8: covariance -1/16 + 1/16 = 0.
    labels = np.array([True, True, False, False])
    first, second = np.array([1.0, 3.0, 0.0, 2.0]), np.array([3.0, 1.0, 0.0, 2.0])
    _, covariance = delong_covariance(labels, np.stack([first, second]))
    assert covariance == pytest.approx(np.diag([1 / 8, 1 / 8]))
    tested = delong_test(labels, first, second)
    assert (tested.z, tested.p_value) == (0.0, 1.0)
    assert tested.difference.high == pytest.approx(1.959964 * math.sqrt(1 / 4), rel=1e-6)


# The data of DeLong, DeLong & Clarke-Pearson (Biometrics 1988;44:837): patients with ovarian cancer and
# intestinal obstruction; albumin, total protein and the K-G score against who benefits from surgery.
# The 43 patients with all three tests, as printed in the SAS/STAT user's guide (PROC LOGISTIC, "Comparing
# Receiver Operating Characteristic Curves"): albumin, total protein, K-G, outcome.
OVARIAN_TEXT = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
OVARIAN = np.array(OVARIAN_TEXT.split(), dtype=float).reshape(-1, 4)


def test_delong_on_the_data_of_its_paper():
    benefits = OVARIAN[:, 3] == 1
    albumin, protein, kg = OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2]
    auc, covariance = delong_covariance(benefits, np.stack([albumin, kg, protein]))
    # as the SAS/STAT guide prints them: area and standard error of each curve
    assert auc == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1028, 0.1000], abs=5e-5)


@pytest.mark.parametrize(
    ("column", "difference", "error", "chi_square", "p_value"),
    # as the SAS/STAT guide prints the contrasts with the K-G score
    [(0, 0.0108, 0.0953, 0.0127, 0.9102), (1, -0.0780, 0.1046, 0.5554, 0.4561)],
)
def test_delong_contrasts_on_the_data_of_its_paper(column, difference, error, chi_square, p_value):
    tested = delong_test(OVARIAN[:, 3] == 1, OVARIAN[:, column], 10 - OVARIAN[:, 2])
    assert tested.difference.value == pytest.approx(difference, abs=5e-5)
    assert (tested.difference.high - tested.difference.value) / 1.959964 == pytest.approx(error, abs=5e-5)
    assert tested.z**2 == pytest.approx(chi_square, abs=5e-5)
    assert tested.p_value == pytest.approx(p_value, abs=5e-5)
