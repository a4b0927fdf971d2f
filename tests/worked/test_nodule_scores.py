"""Scores of a grader, each worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from noduscope.combine import Combination
from noduscope.evaluate.nodules import deferral, dice, rating_kappa, readers_against_the_others, size_matched


def test_pairs_of_like_size():
    labels = np.array([True, True, False, False])
    sizes = np.array([10.0, 20.0, 9.5, 5.0])
    # only (10, 9.5) are within 10 %; the score ranks it wrong, the size right
    made = size_matched(labels, np.array([0.2, 0.9, 0.4, 0.1]), sizes)
    assert made == {"pairs": 1, "nodules": 2, "model": 0.0, "size": 1.0}
    assert size_matched(labels, np.zeros(4), np.array([1.0, 2.0, 30.0, 60.0])) == {"pairs": 0}


def test_deferring_the_widest_interval():
    labels = np.array([True, False, True, False, True])
    probabilities = np.array([0.9, 0.1, 0.8, 0.2, 0.3])  # the last is wrong and has the widest interval
    made = deferral(labels, probabilities, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert made["accuracy_all"] == pytest.approx(0.8)
    assert made["accuracy_kept"] == 1.0
    assert made["auc_kept"] == 1.0
    assert made["error_by_width_third"] == [0.0, 0.0, 1.0]


def test_kappa_of_ratings():
    ratings = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
    exact = rating_kappa(np.array([1.1, 1.9, 3.0, 4.2, 4.8]), ratings)
    assert exact["model"] == 1.0
    assert exact["readers"] == 1.0
    # 1 for 5 and 5 for 1: squared differences 16 and 16 against the expected mean of 8 each
    turned = rating_kappa(np.array([5.0, 1.0]), [(1, 1), (5, 5)])
    assert turned["model"] == -1.0
    assert rating_kappa(np.array([1.0, 1.0]), [(1, 1), (1, 1)])["model"] is None


def test_dice_and_a_reader_left_out():
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    a[0, :3], b[0, 1:4] = True, True
    assert dice(a, b) == pytest.approx(2 * 2 / 6)
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1.0
    # three readers agree on two pixels, the fourth has these and two more
    readers = np.array([[[15, 15, 8, 8]]], np.uint8)
    made = readers_against_the_others(readers, 4, 0.5)
    assert [round(r["dice"], 3) for r in made] == [1.0, 1.0, 1.0, round(2 * 2 / 6, 3)]
    assert made[3]["log_volume"] == pytest.approx(np.log(2))


def test_two_logits_to_one_and_what_was_not_graded():
    combination = Combination(detector=0.5, grader=1.0, intercept=-1.0, ungraded=-3.0)
    made = combination.logits(np.array([2.0, 2.0], np.float32), np.array([1.5, np.nan]))
    assert made.tolist() == [0.5 * 2 + 1.5 - 1, 0.5 * 2 - 3 - 1]
