"""The one probability that is reported for a mark, of what detector and grader say of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Combination:
    """Logit of a nodule: ``detector * d + grader * g + intercept`` (logistic regression on validation volumes).

    ``ungraded`` stands for the grader's logit at marks too weak to be graded: the median of false marks.
    """

    detector: float
    grader: float
    intercept: float
    ungraded: float

    def logits(self, detector: NDArray[np.floating], grader: NDArray[np.floating]) -> NDArray[np.float64]:
        """Combined logits, ``(n,)``; a NaN of the grader counts as ungraded."""
        filled = np.where(np.isnan(grader), self.ungraded, grader)
        return np.asarray(self.detector * detector.astype(float) + self.grader * filled + self.intercept)
