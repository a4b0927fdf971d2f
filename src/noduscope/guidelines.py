"""Published risk models for a lung nodule, as pure functions.

Public copies of these formulas disagree, so each set of coefficients stands here once, with its
source, and is pinned by worked values in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noduscope.errors import InputRefused

NoduleType = Literal["solid", "part-solid", "non-solid"]


@dataclass(frozen=True, slots=True)
class BrockInputs:
    """What the Brock model asks about a patient and one nodule.

    Parameters
    ----------
    diameter_mm : the nodule's diameter, over 0.
    age_years : the patient's age.
    female, family_history, emphysema : about the patient; the family history is of lung cancer.
    nodule_type : ``solid``, ``part-solid`` or ``non-solid`` (pure ground-glass).
    upper_lobe : whether the nodule lies in an upper lobe.
    nodule_count : nodules in the scan, 1 or more.
    spiculation : whether its edge is spiculated; None (not known) takes the model without it.

    Raises
    ------
    InputRefused
        For a diameter, an age or a count that cannot be, or an unknown type.
    """

    diameter_mm: float
    age_years: float = 62.0
    female: bool = False
    family_history: bool = False
    emphysema: bool = False
    nodule_type: NoduleType = "solid"
    upper_lobe: bool = False
    nodule_count: int = 1
    spiculation: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what the model is not defined for."""
        if not (math.isfinite(self.diameter_mm) and self.diameter_mm > 0):
            raise InputRefused(f"the Brock model needs a diameter over 0 mm; got {self.diameter_mm}")
        if not (math.isfinite(self.age_years) and 0 < self.age_years < 130):
            raise InputRefused(f"the Brock model needs an age in years; got {self.age_years}")
        if self.nodule_count < 1:
            raise InputRefused(f"the Brock model needs a nodule count of 1 or more; got {self.nodule_count}")
        if self.nodule_type not in ("solid", "part-solid", "non-solid"):
            raise InputRefused(
                f"the Brock model knows the types solid, part-solid and non-solid; got {self.nodule_type!r}"
            )


@dataclass(frozen=True, slots=True)
class _Brock:
    """One set of coefficients; age is centred at 62, size at 4 mm, count at 4."""

    intercept: float
    age: float
    female: float
    family_history: float
    emphysema: float
    size: float
    part_solid: float
    non_solid: float
    upper_lobe: float
    count: float
    spiculation: float = 0.0


# McWilliams et al., N Engl J Med 2013;369:910, full models 2b and 2a
_WITH_SPICULATION = _Brock(-6.7892, 0.0287, 0.6011, 0.2961, 0.2953, -5.3854, 0.3770, -0.1276, 0.6581, -0.0824, 0.7729)
_WITHOUT_SPICULATION = _Brock(-6.8071, 0.0321, 0.5635, 0.3013, 0.3462, -5.6693, 0.3395, -0.3055, 0.7116, -0.0803)
_SIZE_CENTRE = 1.58113883  # (4 mm / 10) ** -0.5


def brock_probability(inputs: BrockInputs) -> float:
    """Probability of cancer by the Brock (PanCan) full model, with spiculation where it is known.

    Source: McWilliams et al., N Engl J Med 2013;369:910-919, models 2b (with spiculation) and 2a.
    The model speaks of a nodule found at screening in a smoker; elsewhere it is only a yardstick.

    >>> round(brock_probability(BrockInputs(diameter_mm=8.0, spiculation=False)), 5)
    0.01716
    """
    c = _WITHOUT_SPICULATION if inputs.spiculation is None else _WITH_SPICULATION
    type_term = {"solid": 0.0, "part-solid": c.part_solid, "non-solid": c.non_solid}[inputs.nodule_type]
    predictor = (
        c.intercept
        + c.age * (inputs.age_years - 62)
        + c.female * inputs.female
        + c.family_history * inputs.family_history
        + c.emphysema * inputs.emphysema
        + c.size * ((inputs.diameter_mm / 10) ** -0.5 - _SIZE_CENTRE)
        + type_term
        + c.upper_lobe * inputs.upper_lobe
        + c.count * (inputs.nodule_count - 4)
        + c.spiculation * bool(inputs.spiculation)
    )
    return 1 / (1 + math.exp(-predictor))
