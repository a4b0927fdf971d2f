"""DeLong's test: do two grades of the same cases have the same area under the ROC curve?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm, rankdata

from noduscope.errors import InputRefused
from noduscope.evaluate.scores import Flags, Floats
from noduscope.findings import Interval

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class DeLongTest:
    """Two correlated AUCs on the same cases and the test that they are equal (two-sided).

    `z` and `p_value` are NaN when neither AUC has any variance and yet they differ.
    """

    first: Interval
    second: Interval
    difference: Interval
    z: float
    p_value: float


def delong_covariance(labels: Flags, scores: ArrayLike) -> tuple[Floats, Floats]:
    """AUCs ``(k,)`` of k scores ``(k, n)`` and their covariance ``(k, k)``.

    DeLong, DeLong & Clarke-Pearson, Biometrics 1988, with the structural components from midranks
    (Sun & Xu, IEEE Signal Process. Lett. 2014), which takes n log n steps. Cases are taken as
    independent; with several nodules a patient, see also the patient bootstrap of the difference.

    Raises
    ------
    InputRefused
        With fewer than two cases of either class: they have no variance.
    """
    table = np.atleast_2d(np.asarray(scores, dtype=float))
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if min(positives, negatives) < 2:
        raise InputRefused(
            f"DeLong's test needs two or more cases of each class; got {positives} positive and {negatives} negative"
        )
    overall = rankdata(table, axis=1)
    of_positives = (overall[:, labels] - rankdata(table[:, labels], axis=1)) / negatives
    of_negatives = 1 - (overall[:, ~labels] - rankdata(table[:, ~labels], axis=1)) / positives
    covariance = np.atleast_2d(np.cov(of_positives)) / positives + np.atleast_2d(np.cov(of_negatives)) / negatives
    return of_positives.mean(axis=1), covariance


def delong_test(labels: Flags, first: Floats, second: Floats) -> DeLongTest:
    """Test whether two scores of the same cases have the same AUC."""
    auc, covariance = delong_covariance(labels, np.stack([first, second]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    # rounding leaves a tiny variance where the two rank the cases alike
    error = float(np.sqrt(variance)) if variance > 1e-15 else 0.0
    difference = float(auc[0] - auc[1])
    z = difference / error if error > 0 else 0.0 if abs(difference) < _ROUNDING else np.nan
    quantile = float(norm.ppf(0.975))

    def bounded(value: float, spread: float) -> Interval:
        half = quantile * float(np.sqrt(max(spread, 0.0)))
        return Interval(value, max(0.0, value - half), min(1.0, value + half))

    return DeLongTest(
        bounded(float(auc[0]), float(covariance[0, 0])),
        bounded(float(auc[1]), float(covariance[1, 1])),
        Interval(difference, difference - quantile * error, difference + quantile * error),
        float(z),
        float(2 * norm.sf(abs(z))),
    )
