"""Scores of a binary grade (benign or malignant), each with what is needed for its interval.

Every statistic here takes case weights of shape ``(replicates, n)`` and answers with one value per
replicate. A row of ones gives the plain value; the rows of a `PatientBootstrap` say how often each
case was drawn and give the interval. So one sort of the scores serves all replicates.

Throughout, ``labels`` is bool ``(n,)`` with True for malignant, ``probabilities`` float ``(n,)``,
and a case is called malignant when its probability reaches the threshold (``>=``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from noduscope.findings import Interval

Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], Floats]
"""Weights ``(replicates, n)`` in, values ``(replicates, ...)`` out."""

_BLOCK_CELLS = 2_000_000
"""Weights held as float at a time: bounds the memory of a bootstrap over many cases."""
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class PatientBootstrap:
    """How often each case is drawn in each replicate when whole patients are drawn.

    Nodules of one patient resemble each other, so drawing nodules would give intervals that are too
    narrow; drawing patients keeps each patient's nodules together.

    Parameters
    ----------
    weights : uint16 ``(replicates, n)``.
    """

    weights: NDArray[np.uint16]

    @classmethod
    def draw(cls, patients: Sequence[str] | NDArray[np.str_], replicates: int, seed: int) -> PatientBootstrap:
        """Draw as many patients as there are, with replacement, `replicates` times."""
        _, patient_of_case = np.unique(np.asarray(patients), return_inverse=True)
        count = int(patient_of_case.max()) + 1
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=replicates)
        return cls(drawn[:, patient_of_case].astype(np.uint16))

    def of(self, cases: NDArray[np.intp] | Flags) -> PatientBootstrap:
        """The same draws seen by some of the cases: subgroups share the replicates of the whole."""
        return PatientBootstrap(self.weights[:, cases])

    def replicates_of(self, statistic: Statistic) -> Floats:
        """The statistic in every replicate, worked out in blocks of bounded size."""
        block = max(1, _BLOCK_CELLS // max(1, self.weights.shape[1]))
        parts = [
            statistic(self.weights[start : start + block].astype(np.float64))
            for start in range(0, len(self.weights), block)
        ]
        replicates: Floats = np.concatenate(parts)
        return replicates

    def interval(self, statistic: Statistic, value: float | None = None) -> Interval:
        """The plain value (or the given one) with its 95 % percentile interval.

        Replicates in which the statistic is undefined (one class only) are left out.
        """
        if value is None:
            value = float(statistic(np.ones((1, self.weights.shape[1])))[0])
        low, high = percentile_interval(self.replicates_of(statistic))
        return Interval(value, float(low), float(high))


def percentile_interval(replicates: Floats) -> tuple[Floats, Floats]:
    """2.5 and 97.5 % along the first axis, ignoring NaN; NaN where nothing is defined."""
    defined = ~np.all(np.isnan(replicates), axis=0)
    filled = np.where(defined, replicates, 0.0)
    low, high = np.nanpercentile(filled, [2.5, 97.5], axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    """Element-wise quotient, NaN where it is 0/0."""
    quotient: Floats = np.full(np.broadcast(top, bottom).shape, np.nan)
    return np.divide(top, bottom, out=quotient, where=bottom != 0)


# --- ranking --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores sorted once, for AUC, average precision, the ROC curve and fixed sensitivity.

    Parameters
    ----------
    thresholds : the distinct scores, highest first, shape ``(groups,)``.
    """

    thresholds: Floats
    _order: NDArray[np.intp]
    _last: NDArray[np.intp]
    _positive: Flags

    @classmethod
    def of(cls, labels: Flags, scores: Floats) -> Ranking:
        """Sort; equal scores form one group, since no threshold can part them."""
        order = np.argsort(-scores, kind="stable")
        ordered = scores[order]
        last = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
        return cls(ordered[last], order, last, labels[order])

    def counts(self, weights: Floats) -> tuple[Floats, Floats]:
        """True and false positives at each threshold, each ``(replicates, groups)``."""
        ordered = weights[:, self._order]
        positive = np.cumsum(ordered * self._positive, axis=1)[:, self._last]
        negative = np.cumsum(ordered * ~self._positive, axis=1)[:, self._last]
        return positive, negative

    def auc(self, weights: Floats) -> Floats:
        """Area under the ROC curve; ties count half."""
        positive, negative = self.counts(weights)
        width = np.diff(negative, axis=1, prepend=0.0)
        height = positive - 0.5 * np.diff(positive, axis=1, prepend=0.0)
        return _ratio((width * height).sum(axis=1), positive[:, -1] * negative[:, -1])

    def average_precision(self, weights: Floats) -> Floats:
        """Mean of the precision over the steps in recall (no interpolation, as scikit-learn has it)."""
        positive, negative = self.counts(weights)
        called = positive + negative
        precision = np.divide(positive, called, out=np.zeros_like(positive), where=called > 0)
        steps = np.diff(positive, axis=1, prepend=0.0)
        return _ratio((precision * steps).sum(axis=1), positive[:, -1])

    def confusion_at_sensitivity(self, target: float) -> Callable[[Floats], Confusion]:
        """Confusion at the highest threshold that reaches `target`, chosen anew in each replicate."""

        def confusion(weights: Floats) -> Confusion:
            positive, negative = self.counts(weights)
            reached = positive >= target * positive[:, -1:] - _ROUNDING
            first = np.argmax(reached, axis=1)
            rows = np.arange(len(weights))
            tp, fp = positive[rows, first], negative[rows, first]
            return Confusion(tp, fp, positive[:, -1] - tp, negative[:, -1] - fp)

        return confusion

    def sensitivity_at(self, false_positive_rates: Floats) -> Statistic:
        """The ROC curve, linearly interpolated, at the given false positive rates."""

        def curve(weights: Floats) -> Floats:
            positive, negative = self.counts(weights)
            tpr = np.pad(_ratio(positive, positive[:, -1:]), ((0, 0), (1, 0)))
            fpr = np.pad(_ratio(negative, negative[:, -1:]), ((0, 0), (1, 0)))
            rows = (np.interp(false_positive_rates, f, t) for f, t in zip(fpr, tpr, strict=True))
            return np.stack(list(rows))

        return curve


# --- calls at a threshold -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Confusion:
    """Weighted counts, each ``(replicates,)``; 0/0 gives NaN."""

    tp: Floats
    fp: Floats
    fn: Floats
    tn: Floats

    @classmethod
    def of(cls, labels: Flags, calls: Flags, weights: Floats) -> Confusion:
        """Count the calls against the labels."""
        cells = (labels & calls, ~labels & calls, labels & ~calls, ~labels & ~calls)
        tp, fp, fn, tn = (weights @ cell.astype(np.float64) for cell in cells)
        return cls(tp, fp, fn, tn)

    def metrics(self) -> dict[str, Floats]:
        """Accuracy, balanced accuracy, precision, recall, specificity and F1."""
        recall = _ratio(self.tp, self.tp + self.fn)
        specificity = _ratio(self.tn, self.tn + self.fp)
        return {
            "accuracy": _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn),
            "balanced_accuracy": (recall + specificity) / 2,
            "precision": _ratio(self.tp, self.tp + self.fp),
            "recall": recall,
            "specificity": specificity,
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
        }


def call_intervals(
    confusion: Callable[[Floats], Confusion], bootstrap: PatientBootstrap
) -> tuple[dict[str, Interval], dict[str, int]]:
    """The metrics of a way to call cases, with intervals, and its plain confusion matrix."""
    n = bootstrap.weights.shape[1]
    plain = confusion(np.ones((1, n)))
    names = tuple(plain.metrics())

    def stacked(weights: Floats) -> Floats:
        return np.stack(list(confusion(weights).metrics().values()), axis=1)

    low, high = percentile_interval(bootstrap.replicates_of(stacked))
    values = plain.metrics()
    intervals = {name: Interval(float(values[name][0]), float(low[i]), float(high[i])) for i, name in enumerate(names)}
    return intervals, {cell: round(float(getattr(plain, cell)[0])) for cell in ("tn", "fp", "fn", "tp")}


def score_intervals(
    labels: Flags, probabilities: Floats, bootstrap: PatientBootstrap, bins: int = 10
) -> dict[str, Interval]:
    """AUC, average precision, Brier score and expected calibration error, with intervals.

    The plain values of the first three are scikit-learn's; without both classes AUC and average
    precision are NaN.
    """
    ranking = Ranking.of(labels, probabilities)
    both = labels.any() and not labels.all()
    squared = (probabilities - labels) ** 2
    return {
        "auc": bootstrap.interval(ranking.auc, float(roc_auc_score(labels, probabilities)) if both else np.nan),
        "average_precision": bootstrap.interval(
            ranking.average_precision, float(average_precision_score(labels, probabilities)) if both else np.nan
        ),
        "brier": bootstrap.interval(
            lambda w: _ratio(w @ squared, w.sum(axis=1)),
            float(brier_score_loss(labels, probabilities, pos_label=True)) if both else None,
        ),
        "ece": bootstrap.interval(lambda w: calibration_error(labels, probabilities, w, bins)),
    }


def best_threshold(labels: Flags, probabilities: Floats, metric: str = "balanced_accuracy") -> float:
    """The threshold with the best `metric` (a name of `Confusion.metrics`) on these cases.

    It lies half-way to the next lower probability, where it is least sensitive to a new case; the
    highest of equally good ones is taken.
    """
    ranking = Ranking.of(labels, probabilities)
    tp, fp = (counts[0] for counts in ranking.counts(np.ones((1, len(labels)))))
    values = Confusion(tp, fp, tp[-1] - tp, fp[-1] - fp).metrics()[metric]
    best = int(np.argmax(np.nan_to_num(values, nan=-1.0)))
    chosen = ranking.thresholds[best]
    below = ranking.thresholds[best + 1] if best + 1 < len(ranking.thresholds) else chosen
    return float((chosen + below) / 2)


def threshold_at_sensitivity(labels: Flags, probabilities: Floats, target: float) -> float:
    """The highest threshold at which at least `target` of the malignant cases are called."""
    ranking = Ranking.of(labels, probabilities)
    positive, _ = ranking.counts(np.ones((1, len(labels))))
    return float(ranking.thresholds[np.argmax(positive[0] >= target * positive[0, -1] - _ROUNDING)])


# --- calibration and usefulness -------------------------------------------------------------------


def _bin_sums(labels: Flags, probabilities: Floats, weights: Floats, bins: int) -> tuple[Floats, Floats, Floats]:
    """Weight, summed probability and summed label per bin, each ``(replicates, bins)``."""
    bin_of_case = np.minimum((probabilities * bins).astype(np.intp), bins - 1)
    member = np.zeros((len(labels), bins))
    member[np.arange(len(labels)), bin_of_case] = 1.0
    return weights @ member, weights @ (member * probabilities[:, None]), weights @ (member * labels[:, None])


def calibration_error(labels: Flags, probabilities: Floats, weights: Floats, bins: int = 10) -> Floats:
    """Expected calibration error: the bins' |mean probability - share malignant|, weighted by size.

    Bins are of equal width, ``[k/bins, (k+1)/bins)``, the last one closed (Guo et al., ICML 2017,
    eq. 3, for the probability of the malignant class). Returns ``(replicates,)``.

    >>> labels = np.array([False, True, True, True])
    >>> round(float(calibration_error(labels, np.array([0.1, 0.3, 0.9, 0.9]), np.ones((1, 4)))[0]), 6)
    0.25
    """
    size, predicted, observed = _bin_sums(labels, probabilities, weights, bins)
    return _ratio(np.abs(predicted - observed).sum(axis=1), size.sum(axis=1))


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of the reliability diagram; `observed` is the share malignant."""

    lower: float
    upper: float
    n: int
    predicted: float
    observed: Interval


def reliability(
    labels: Flags, probabilities: Floats, bootstrap: PatientBootstrap, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """The reliability diagram's bins that hold any case."""

    def observed_share(weights: Floats) -> Floats:
        size, _, observed = _bin_sums(labels, probabilities, weights, bins)
        return _ratio(observed, size)

    size, predicted, observed = (s[0] for s in _bin_sums(labels, probabilities, np.ones((1, len(labels))), bins))
    low, high = percentile_interval(bootstrap.replicates_of(observed_share))
    return tuple(
        ReliabilityBin(
            k / bins,
            (k + 1) / bins,
            round(float(size[k])),
            float(predicted[k] / size[k]),
            Interval(float(observed[k] / size[k]), float(low[k]), float(high[k])),
        )
        for k in range(bins)
        if size[k] > 0
    )


def net_benefit(labels: Flags, probabilities: Floats, thresholds: Floats) -> Statistic:
    """Decision curve (Vickers & Elkin 2006): TP/n - FP/n · t/(1-t) at each threshold ``0 < t < 1``.

    The statistic's values are ``(replicates, thresholds)``.
    """
    calls = probabilities[:, None] >= thresholds[None, :]
    odds = thresholds / (1 - thresholds)
    gain = np.where(calls, np.where(labels[:, None], 1.0, -odds[None, :]), 0.0)
    return lambda weights: _ratio(weights @ gain, weights.sum(axis=1, keepdims=True))
