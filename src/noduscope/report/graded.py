"""What the grader says, in words and as a picture."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.findings import Explanation
from noduscope.heads import ATTRIBUTES
from noduscope.preprocess import window
from noduscope.report.figures import LUNG_WINDOW

_PIXELS = 392
_LEAST_LOGIT = 0.25
"""A change of the logit below which a map stays faint: the strongest spot of nothing is nothing."""
_MOST_ALPHA = 0.65
_FOR, _AGAINST = (40, 140, 255), (255, 150, 60)  # blue, green, red

_WORDS: dict[str, tuple[tuple[float, str], ...]] = {
    "spiculation": (
        (1.5, "no spiculation"),
        (3.0, "slightly spiculated margin"),
        (4.5, "spiculated margin"),
        (6.0, "markedly spiculated margin"),
    ),
    "lobulation": (
        (1.5, "no lobulation"),
        (3.0, "slightly lobulated"),
        (4.5, "lobulated"),
        (6.0, "markedly lobulated"),
    ),
    "margin": (
        (2.0, "poorly defined edge"),
        (3.5, "partly defined edge"),
        (4.5, "well-defined edge"),
        (6.0, "sharp edge"),
    ),
    "texture": ((2.0, "ground-glass texture"), (4.0, "mixed texture"), (6.0, "solid texture")),
    "sphericity": ((2.0, "linear shape"), (3.5, "ovoid shape"), (4.5, "nearly round shape"), (6.0, "round shape")),
    "calcification": ((5.5, "calcified"), (7.0, "no calcification")),
    "subtlety": (
        (1.5, "extremely subtle"),
        (2.5, "subtle"),
        (3.5, "fairly subtle"),
        (4.5, "fairly obvious"),
        (6.0, "obvious"),
    ),
    "internalStructure": ((1.5, "soft tissue inside"), (5.0, "fluid, fat or air inside")),
}
"""From the attribute that matters most for suspicion: words for ratings below each bound."""


def in_words(attributes: Mapping[str, float]) -> tuple[str, ...]:
    """The LIDC's ratings as a reader would say them, those that matter most first.

    Source of the scales: McNitt-Gray et al., Acad Radiol 2007;14:1464-1474.

    >>> in_words({"texture": 4.9, "spiculation": 4.2})
    ('spiculated margin 4.2 of 5', 'solid texture 4.9 of 5')
    """
    # by the rating as it is shown: 4.46 reads 4.5 and is called what 4.5 is called
    shown = {name: round(attributes[name], 1) for name in _WORDS if name in attributes}
    return tuple(
        f"{next(words for below, words in _WORDS[name] if rating < below)} {rating:.1f} of {ATTRIBUTES[name]}"
        for name, rating in shown.items()
    )


def explanation_picture(explanation: Explanation) -> NDArray[np.uint8]:
    """The view in grey, orange where what is there speaks for malignancy and blue where it speaks against.

    Returns
    -------
    uint8 (height, width, 3), blue, green, red; the stronger the change, the denser the colour.
    """
    height, width = explanation.image.shape
    scale = _PIXELS / max(height, width)
    size = (round(width * scale), round(height * scale))
    hu = cv2.resize(explanation.image, size, interpolation=cv2.INTER_CUBIC)
    change = cv2.resize(explanation.map, size, interpolation=cv2.INTER_LINEAR)
    strength = np.abs(change) / max(float(np.abs(explanation.map).max()), _LEAST_LOGIT)
    alpha = (_MOST_ALPHA * np.clip(strength, 0.0, 1.0))[..., None]
    colour = np.where(change[..., None] > 0, _FOR, _AGAINST)
    grey = window(hu, *LUNG_WINDOW)[..., None].astype(np.float32)
    made: NDArray[np.uint8] = np.rint(grey + alpha * (colour - grey)).astype(np.uint8)
    return made
