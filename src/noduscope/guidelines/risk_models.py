"""Published risk models for a lung nodule, as pure functions.

Public copies of these formulas disagree, so each set of coefficients stands once, in ``tables.toml``,
with its source, and is pinned by worked values in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noduscope.errors import InputRefused
from noduscope.guidelines.facts import Uptake
from noduscope.guidelines.tables import load_tables

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
        _check_age("Brock", self.age_years)
        if self.nodule_count < 1:
            raise InputRefused(f"the Brock model needs a nodule count of 1 or more; got {self.nodule_count}")
        if self.nodule_type not in ("solid", "part-solid", "non-solid"):
            raise InputRefused(
                f"the Brock model knows the types solid, part-solid and non-solid; got {self.nodule_type!r}"
            )


def brock_probability(inputs: BrockInputs) -> float:
    """Probability of cancer by the Brock (PanCan) full model, with spiculation where it is known.

    Source: McWilliams et al., N Engl J Med 2013;369:910-919, models 2b (with spiculation) and 2a.
    The model speaks of a nodule found at screening in a smoker; elsewhere it is only a yardstick.

    >>> round(brock_probability(BrockInputs(diameter_mm=8.0, spiculation=False)), 5)
    0.01716
    """
    table = load_tables()["brock"]
    c = table["without_spiculation" if inputs.spiculation is None else "with_spiculation"]
    kind = {"solid": 0.0, "part-solid": c["part_solid"], "non-solid": c["non_solid"]}[inputs.nodule_type]
    return _logistic(
        c["intercept"]
        + c["age"] * (inputs.age_years - table["age_centre"])
        + c["female"] * inputs.female
        + c["family_history"] * inputs.family_history
        + c["emphysema"] * inputs.emphysema
        + c["size"] * ((inputs.diameter_mm / 10) ** -0.5 - table["size_centre"])
        + kind
        + c["upper_lobe"] * inputs.upper_lobe
        + c["count"] * (inputs.nodule_count - table["count_centre"])
        + c["spiculation"] * bool(inputs.spiculation)
    )


@dataclass(frozen=True, slots=True)
class MayoInputs:
    """What the Mayo model asks about a patient and a solitary nodule.

    Parameters
    ----------
    diameter_mm : 4 to 30, the sizes it was derived on.
    age_years : the patient's age.
    ever_smoked : now or formerly.
    prior_cancer : outside the chest, more than five years ago.
    spiculation : whether the nodule's edge is spiculated.
    upper_lobe : whether it lies in an upper lobe.

    Raises
    ------
    InputRefused
        For a diameter outside the model's range or an age that cannot be.
    """

    diameter_mm: float
    age_years: float = 62.0
    ever_smoked: bool = False
    prior_cancer: bool = False
    spiculation: bool = False
    upper_lobe: bool = False

    def __post_init__(self) -> None:
        """Refuse what the model is not defined for."""
        _check_range("mayo", self.diameter_mm)
        _check_age("Mayo", self.age_years)


def mayo_probability(inputs: MayoInputs) -> float:
    """Probability of cancer by the Mayo model.

    Source: Swensen et al., Arch Intern Med 1997;157:849-855.

    >>> round(mayo_probability(MayoInputs(diameter_mm=10.0, age_years=62.0, ever_smoked=True)), 5)
    0.08808
    """
    c = load_tables()["mayo"]
    return _logistic(
        c["intercept"]
        + c["age"] * inputs.age_years
        + c["ever_smoked"] * inputs.ever_smoked
        + c["prior_cancer"] * inputs.prior_cancer
        + c["diameter"] * inputs.diameter_mm
        + c["spiculation"] * inputs.spiculation
        + c["upper_lobe"] * inputs.upper_lobe
    )


@dataclass(frozen=True, slots=True)
class VaInputs:
    """What the Veterans Affairs model asks.

    Parameters
    ----------
    diameter_mm : 7 to 30, the sizes it was derived on.
    age_years : the patient's age.
    ever_smoked : now or formerly.
    years_quit : years since the last cigarette, 0 for one who smokes or never did.

    Raises
    ------
    InputRefused
        For a diameter outside the model's range, an age or a time since quitting that cannot be.
    """

    diameter_mm: float
    age_years: float = 62.0
    ever_smoked: bool = False
    years_quit: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what the model is not defined for."""
        _check_range("va", self.diameter_mm)
        _check_age("Veterans Affairs", self.age_years)
        if not 0 <= self.years_quit <= self.age_years or (self.years_quit and not self.ever_smoked):
            raise InputRefused(
                "the Veterans Affairs model needs 0 to age years since quitting, 0 for who never smoked; "
                f"got {self.years_quit}"
            )


def va_probability(inputs: VaInputs) -> float:
    """Probability of cancer by the Veterans Affairs model.

    Source: Gould et al., CHEST 2007;131:383-388.

    >>> round(va_probability(VaInputs(diameter_mm=10.0, age_years=62.0)), 3)
    0.079
    """
    c = load_tables()["va"]
    return _logistic(
        c["intercept"]
        + c["age"] * inputs.age_years
        + c["ever_smoked"] * inputs.ever_smoked
        + c["diameter"] * inputs.diameter_mm
        + c["years_quit"] * inputs.years_quit
    )


def herder_probability(mayo: float, uptake: Uptake) -> float:
    """Probability of cancer by the Herder model: the Mayo probability, revised by PET-CT.

    Source: Herder et al., CHEST 2005;128:2490-2496.

    Parameters
    ----------
    mayo : what `mayo_probability` gave, 0 to 1.
    uptake : of FDG; ``none`` (as the lung), ``faint`` (up to the blood pool), ``moderate`` (above it)
        or ``intense`` (far above it).

    Raises
    ------
    InputRefused
        For a probability outside 0 to 1 or an unknown uptake.

    >>> round(herder_probability(0.08808, "moderate"), 4)
    0.5506
    """
    c = load_tables()["herder"]
    if not 0 <= mayo <= 1:
        raise InputRefused(f"the Herder model needs the Mayo model's probability, 0 to 1; got {mayo}")
    if uptake not in c["uptake"]:
        raise InputRefused(f"FDG uptake must be one of {', '.join(c['uptake'])}; got {uptake!r}")
    return _logistic(c["intercept"] + c["mayo"] * mayo + c["uptake"][uptake])


def _logistic(predictor: float) -> float:
    return 1 / (1 + math.exp(-predictor))


def _check_age(model: str, age_years: float) -> None:
    if not (math.isfinite(age_years) and 0 < age_years < 130):
        raise InputRefused(f"the {model} model needs an age in years; got {age_years}")


def _check_range(model: str, diameter_mm: float) -> None:
    table = load_tables()[model]
    if not table["from_mm"] <= diameter_mm <= table["to_mm"]:
        raise InputRefused(
            f"the {table['name']} model was derived on nodules of {table['from_mm']:g} to {table['to_mm']:g} mm "
            f"and says nothing about others; got {diameter_mm:g} mm"
        )
