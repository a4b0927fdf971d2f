"""What the grader's answer holds: one vector of logits per view, and how it is read.

Plain numbers, known to training, inference and evaluation alike; no network library is needed.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Logits: TypeAlias = NDArray[np.float32]

TYPES = ("solid", "part-solid", "ground-glass")
ATTRIBUTES: dict[str, int] = {
    "subtlety": 5,
    "internalStructure": 4,
    "calcification": 6,
    "sphericity": 5,
    "margin": 5,
    "lobulation": 5,
    "spiculation": 5,
    "texture": 5,
}
"""The LIDC's ratings beside malignancy, each from 1 to this."""

SUBPIXELS = 4
"""The mask is answered at half resolution with four subpixels per cell: full resolution at a quarter of the cost."""

NODULE = 0
TYPE = slice(1, 1 + len(TYPES))
ATTRIBUTE = slice(TYPE.stop, TYPE.stop + len(ATTRIBUTES))
MALIGNANCY = slice(ATTRIBUTE.stop, None)
"""As many logits as `GraderSettings.opinions`: heads trained on bootstrapped patients, whose spread is the doubt."""


def channels(opinions: int) -> int:
    """Length of the vector."""
    return ATTRIBUTE.stop + opinions
