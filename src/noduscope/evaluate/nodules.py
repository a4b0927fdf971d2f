"""Scores of a grader beyond one class: sizes matched, attributes, outlines, and whether its doubt means something.

Plain arrays in, plain numbers out. ``labels`` is bool ``(n,)`` with True for malignant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from sklearn.model_selection import GroupKFold

from noduscope.evaluate.scores import Flags, Floats, PatientBootstrap, percentile_interval

_REPLICATES = 1000


def interval_of_mean(values: Floats, patients: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Mean with its 95 % interval by patient."""
    kept = np.isfinite(values)
    values, who = values[kept], np.asarray(patients)[kept]
    weights = PatientBootstrap.draw(who, _REPLICATES, seed).weights.astype(float)
    low, high = percentile_interval((weights @ values / np.maximum(weights.sum(axis=1), 1))[:, None])
    return {"value": float(values.mean()), "low": float(low[0]), "high": float(high[0]), "n": int(kept.sum())}


def size_matched(labels: Flags, scores: Floats, diameters_mm: Floats, within: float = 0.1) -> dict[str, Any]:
    """Of malignant-benign pairs of nearly the same diameter, how many are ranked right, by the score and by the size.

    Each malignant nodule is compared with every benign one whose diameter differs by at most `within` of its own.
    """
    malignant, benign = np.flatnonzero(labels), np.flatnonzero(~labels)
    apart = np.abs(np.log(diameters_mm[malignant])[:, None] - np.log(diameters_mm[benign])[None])
    rows, columns = np.nonzero(apart <= np.log1p(within))
    if not len(rows):
        return {"pairs": 0}

    def right(values: Floats) -> float:
        difference = values[malignant[rows]] - values[benign[columns]]
        return float((difference > 0).mean() + 0.5 * (difference == 0).mean())

    return {"pairs": len(rows), "nodules": len({*malignant[rows].tolist(), *benign[columns].tolist()}),
            "model": right(scores), "size": right(diameters_mm)}  # fmt: skip


def deferral(labels: Flags, probabilities: Floats, widths: Floats, share: float = 0.2) -> dict[str, Any]:
    """What is left when the cases of the widest intervals are deferred, and the error per third of the widths."""
    wrong = (probabilities >= 0.5) != labels
    kept = np.argsort(widths, kind="stable")[: round(len(labels) * (1 - share))]
    thirds = np.array_split(np.argsort(widths, kind="stable"), 3)
    return {
        "deferred": share,
        "accuracy_all": float(1 - wrong.mean()),
        "accuracy_kept": float(1 - wrong[kept].mean()),
        "auc_all": _auc(labels, probabilities),
        "auc_kept": _auc(labels[kept], probabilities[kept]),
        "error_by_width_third": [float(wrong[t].mean()) for t in thirds],
    }


def _auc(labels: Flags, scores: Floats) -> float | None:
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else None


def rating_kappa(predicted: Floats, ratings: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Quadratic-weighted kappa of predicted ratings with the readers' mean, and of readers with one another.

    Both are rounded to whole ratings. Reader to reader: every ordered pair of readers of a nodule.
    """
    mean = np.array([np.mean(r) for r in ratings])
    first = [a for r in ratings for i, a in enumerate(r) for j in range(len(r)) if i != j]
    second = [b for r in ratings for i in range(len(r)) for j, b in enumerate(r) if i != j]
    return {
        "model": _kappa(np.rint(predicted), np.rint(mean)),
        "readers": _kappa(np.asarray(first), np.asarray(second)),
        "correlation": float(np.corrcoef(predicted, mean)[0, 1]) if np.ptp(mean) and np.ptp(predicted) else None,
    }


def _kappa(first: NDArray[Any], second: NDArray[Any]) -> float | None:
    """Quadratic-weighted kappa; None where only one rating was given, of which it says nothing."""
    first, second = first.astype(int), second.astype(int)
    low, high = min(first.min(), second.min()), max(first.max(), second.max())
    if low == high:
        return None
    return float(cohen_kappa_score(first, second, weights="quadratic", labels=list(range(low, high + 1))))


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice's overlap of two masks; 1 for two empty ones."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2 * int((first & second).sum()) / total


def readers_against_the_others(readers: NDArray[np.uint8], n_readers: int, consensus: float) -> list[dict[str, float]]:
    """Each reader against the consensus of the others: Dice, and log of the ratio of volumes.

    Parameters
    ----------
    readers : uint8 (n, y, x), bit j set inside reader j's outline.
    consensus : share of the others from which a voxel is theirs.

    Readers without a voxel, and others without a consensus, are left out.
    """
    masks = [(readers >> j) & 1 > 0 for j in range(min(n_readers, 4))]
    made = []
    for j, own in enumerate(masks):
        others = np.mean([m for i, m in enumerate(masks) if i != j], axis=0) >= consensus
        if own.any() and others.any():
            made.append({"dice": dice(own, others), "log_volume": float(np.log(own.sum() / others.sum()))})
    return made


def added_by(extra: Floats, sizes: Floats, labels: Flags, patients: Sequence[str]) -> dict[str, Any]:
    """AUC of a logistic model on log size, and with something else beside it: what that gives away.

    Five folds by patient.
    """
    alone, both = np.log(sizes)[:, None], np.column_stack([np.log(sizes), extra])
    scores = {"size": np.zeros(len(labels)), "size_and_extra": np.zeros(len(labels))}
    for fit, out in GroupKFold(5).split(alone, labels, np.asarray(patients)):
        for name, x in (("size", alone), ("size_and_extra", both)):
            centre, scale = x[fit].mean(axis=0), x[fit].std(axis=0) + 1e-9
            model = LogisticRegression().fit((x[fit] - centre) / scale, labels[fit])
            scores[name][out] = model.decision_function((x[out] - centre) / scale)
    return {name: _auc(labels, s) for name, s in scores.items()}
