"""How far readers agree: the ceiling that any model trained on their word meets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float64]
"""How many readers gave each category to each unit, ``(units, categories)``."""
Level = Literal["nominal", "ordinal"]


def rating_counts(ratings: Sequence[Sequence[int]], categories: int) -> Counts:
    """Counts ``(units, categories)`` of ratings 1 to `categories`, one sequence per unit."""
    counts = np.zeros((len(ratings), categories))
    for unit, values in enumerate(ratings):
        np.add.at(counts[unit], np.asarray(values, dtype=int) - 1, 1)
    return counts


def fleiss_kappa(counts: Counts, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Fleiss' kappa of units that all have the same number of readers (Psychol Bull 1971;76:378).

    ``weights`` ``(replicates, units)`` say how often each unit is taken; the answer is
    ``(replicates,)``. Kappa knows no order: 1 against 5 weighs as 4 against 5.
    It is NaN where only one category was given.
    """
    times = np.ones((1, len(counts))) if weights is None else weights
    readers = counts[0].sum()
    agreeing = ((counts**2).sum(axis=1) - readers) / (readers * (readers - 1))
    total = np.maximum(times.sum(axis=1), 1e-300)
    observed = times @ agreeing / total
    by_chance = ((times @ counts / (total * readers)[:, None]) ** 2).sum(axis=1)
    return _chance_corrected(1 - observed, 1 - by_chance)


def krippendorff_alpha(counts: Counts, level: Level, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Krippendorff's alpha of units with any number of readers (Content Analysis, ch. 11).

    Units with one reader say nothing and are left out. Weights and answer as in `fleiss_kappa`.
    """
    times = np.ones((1, len(counts))) if weights is None else weights
    readers = counts.sum(axis=1)
    pairable = readers >= 2
    counts, readers, times = counts[pairable], readers[pairable], times[:, pairable]
    categories = counts.shape[1]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(categories)
    pairs /= (readers - 1)[:, None, None]
    coincidences = np.tensordot(times, pairs, axes=1)
    totals = coincidences.sum(axis=2)
    differences = _differences(totals, level)
    n = totals.sum(axis=1)
    observed = (coincidences * differences).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * differences).sum(axis=(1, 2)) / np.maximum(n - 1, 1)
    return _chance_corrected(observed, expected)


def _chance_corrected(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """One less observed over expected disagreement; NaN where one category was given throughout."""
    varied = expected > 1e-12
    ratio = np.divide(observed, expected, out=np.full(len(observed), np.nan), where=varied)
    return np.asarray(1 - ratio)


def _differences(totals: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    """Squared difference of each pair of categories, ``(replicates, categories, categories)``.

    On ordered categories it is the square of the ratings that lie from the middle of one to the
    middle of the other.
    """
    categories = totals.shape[1]
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(categories), (len(totals), categories, categories))
    middle = np.cumsum(totals, axis=1) - totals / 2
    return np.asarray((middle[:, :, None] - middle[:, None, :]) ** 2)
