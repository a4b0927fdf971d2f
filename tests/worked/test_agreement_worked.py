"""Agreement between readers against the published worked examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.data.agreement import fleiss_kappa, krippendorff_alpha, rating_counts

# Fourteen raters put ten subjects into five categories: the standard worked example of Fleiss' kappa
TEN_SUBJECTS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ],
    dtype=float,
)

# Four observers, twelve units, some without a value: Krippendorff, "Computing Krippendorff's Alpha-Reliability"
# (2011), section C; one list per unit.
TWELVE_UNITS = [
    [1, 1, 1],
    [2, 2, 3, 2],
    [3, 3, 3, 3],
    [3, 3, 3, 3],
    [2, 2, 2, 2],
    [1, 2, 3, 4],
    [4, 4, 4, 4],
    [1, 1, 2, 1],
    [2, 2, 2, 2],
    [5, 5, 5],
    [1, 1],
    [3],
]


def test_fleiss_kappa():
    # P-bar = 0.378 and P_e = 0.213, so (0.378 - 0.213) / (1 - 0.213)
    assert fleiss_kappa(TEN_SUBJECTS)[0] == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_krippendorff_alpha(level, published):
    assert krippendorff_alpha(rating_counts(TWELVE_UNITS, 5), level)[0] == pytest.approx(published, abs=5e-4)


def test_alpha_by_hand():
    # Two units, two readers: (1, 1) and (1, 2). Coincidences o11 = 2, o12 = o21 = 1; n1 = 3, n2 = 1, n = 4.
    # Observed disagreement 2, expected 2·3·1/(4-1) = 2: alpha = 0.
    assert krippendorff_alpha(rating_counts([[1, 1], [1, 2]], 2), "nominal")[0] == pytest.approx(0)


def test_full_agreement_is_one():
    counts = rating_counts([[1, 1, 1, 1], [5, 5, 5, 5]], 5)
    assert fleiss_kappa(counts)[0] == 1
    assert krippendorff_alpha(counts, "ordinal")[0] == 1


@given(st.lists(st.lists(st.integers(1, 5), min_size=4, max_size=4), min_size=3, max_size=12), st.data())
def test_weights_are_repetitions(ratings, data):
    ratings = [[1, 2, 1, 1], [4, 5, 5, 3], *ratings]
    times = data.draw(st.lists(st.integers(0, 3), min_size=len(ratings), max_size=len(ratings)))
    times[0], times[1] = max(times[0], 1), max(times[1], 1)
    counts, weights = rating_counts(ratings, 5), np.array([times], dtype=float)
    repeated = np.repeat(counts, times, axis=0)
    assert fleiss_kappa(counts, weights) == pytest.approx(fleiss_kappa(repeated))
    for level in ("nominal", "ordinal"):
        assert krippendorff_alpha(counts, level, weights) == pytest.approx(krippendorff_alpha(repeated, level))
