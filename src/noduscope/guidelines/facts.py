"""What the guidelines ask about a patient and about each nodule. All of it is optional."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Grade, Interval

Kind = Literal["solid", "part-solid", "ground-glass"]
Change = Literal["baseline", "stable", "new", "growing", "slow"]
Uptake = Literal["none", "faint", "moderate", "intense"]

KINDS = ("solid", "part-solid", "ground-glass")
CHANGES = ("baseline", "stable", "new", "growing", "slow")
_UPTAKES = ("none", "faint", "moderate", "intense")
_SPICULATED = 3.0
"""Least rating, of the LIDC's 1 to 5, that counts as spiculated: the middle of the scale."""


@dataclass(frozen=True, slots=True)
class PatientFacts:
    """What is known about the patient; None is not known.

    Parameters
    ----------
    age_years : over 0 and under 130.
    sex : ``female`` or ``male``.
    smoker : ``current``, ``former`` or ``never``.
    years_quit : years since a former smoker's last cigarette.
    family_history : of lung cancer.
    emphysema : seen on this or an earlier CT.
    prior_cancer : any cancer before this scan.
    exam : ``baseline`` (the first screening scan) or ``follow-up``.

    Raises
    ------
    InputRefused
        For a value that cannot be, or years since quitting of someone who did not quit.
    """

    age_years: float | None = None
    sex: Literal["female", "male"] | None = None
    smoker: Literal["current", "former", "never"] | None = None
    years_quit: float | None = None
    family_history: bool | None = None
    emphysema: bool | None = None
    prior_cancer: bool | None = None
    exam: Literal["baseline", "follow-up"] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        among("sex", self.sex, ("female", "male"))
        among("smoker", self.smoker, ("current", "former", "never"))
        among("exam", self.exam, ("baseline", "follow-up"))
        if self.age_years is not None and not 0 < self.age_years < 130:
            raise InputRefused(f"the patient's age must be over 0 and under 130 years; got {self.age_years}")
        if self.years_quit is None:
            return
        if not 0 <= self.years_quit <= (self.age_years or 130):
            raise InputRefused(
                f"years since quitting must be 0 to the patient's age; got {self.years_quit} at age {self.age_years}"
            )
        if self.smoker in ("current", "never"):
            raise InputRefused(
                f"years since quitting go with a former smoker; got {self.years_quit} with smoker={self.smoker!r}"
            )


@dataclass(frozen=True, slots=True)
class NoduleFacts:
    """What is known about one nodule; None is not known.

    Parameters
    ----------
    diameter_mm : axial axes and their mean with its 95 % interval; None when it could not be measured.
    volume_mm3 : with its 95 % interval.
    kind : ``solid``, ``part-solid`` or ``ground-glass``.
    solid_mm : mean diameter of a part-solid nodule's solid part, with its 95 % interval.
    zone : ``upper``, ``middle`` or ``lower`` third of its lung, as `nodule_place` finds it.
    pleural_contact : whether it reaches the border of its lung.
    smooth : smooth margin and an oval, lentiform or triangular shape: what makes a nodule at the pleura benign.
    spiculation : whether its edge is spiculated.
    benign : complete, central, popcorn or ring calcification, or fat.
    change : against earlier scans: ``baseline`` (there is none), ``stable``, ``new``, ``growing``, or
        ``slow`` (grows over several scans, never fast enough to count as growing in one year).
    prior_category : its Lung-RADS category at the scan before.
    fdg_uptake : on PET-CT, ``none``, ``faint``, ``moderate`` or ``intense``.
    seen_by : a sentence on who saw its type and edge, said with each reason that may rest on them.

    Raises
    ------
    InputRefused
        For a size that cannot be or an unknown word.
    """

    diameter_mm: Diameter | None = None
    volume_mm3: Interval | None = None
    kind: Kind | None = None
    solid_mm: Interval | None = None
    zone: Literal["upper", "middle", "lower"] | None = None
    pleural_contact: bool | None = None
    smooth: bool | None = None
    spiculation: bool | None = None
    benign: bool | None = None
    change: Change | None = None
    prior_category: str | None = None
    fdg_uptake: Uptake | None = None
    seen_by: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        among("kind", self.kind, KINDS)
        among("zone", self.zone, ("upper", "middle", "lower"))
        among("change", self.change, CHANGES)
        among("prior Lung-RADS category", self.prior_category, ("1", "2", "3", "4A", "4B", "4X"))
        among("FDG uptake", self.fdg_uptake, _UPTAKES)
        if self.diameter_mm is not None:
            d = self.diameter_mm
            ordered("diameter in mm", (d.low, d.mean, d.high), positive=True)
            if not (math.isfinite(d.long) and d.long >= d.short > 0):
                raise InputRefused(
                    f"a nodule's long axis must be at least its short one; got {d.long} and {d.short} mm"
                )
        if self.volume_mm3 is not None:
            ordered("volume in mm³", (self.volume_mm3.low, self.volume_mm3.value, self.volume_mm3.high), positive=True)
        if self.solid_mm is not None:
            ordered("solid part in mm", (self.solid_mm.low, self.solid_mm.value, self.solid_mm.high), positive=False)

    def graded(self, grade: Grade) -> NoduleFacts:
        """With the type and edge that the grader sees, and the sentence that says so."""
        rating = round(grade.attributes["spiculation"], 1)  # as it is reported
        spiculated = rating >= _SPICULATED
        edge = "spiculated" if spiculated else "not spiculated"
        seen_by = f"The network sees it as {grade.type} and {edge} ({rating:.1f} of 5)."
        return replace(self, kind=cast(Kind, grade.type), spiculation=spiculated, seen_by=seen_by)

    @property
    def long_mm(self) -> Interval | None:
        """The long axis, with the mean diameter's interval scaled to it."""
        d = self.diameter_mm
        if d is None:
            return None
        return Interval(d.long, d.low * d.long / d.mean, d.high * d.long / d.mean)


def among(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a word that is not known."""
    if value is not None and value not in known:
        raise InputRefused(f"{name} must be one of {', '.join(known)}, or left out; got {value!r}")


def check_sizes(rule: str, mean_mm: float, solid_mm: float = 0.0) -> None:
    """Refuse a size that cannot be, or a solid part larger than its nodule."""
    if not (math.isfinite(mean_mm) and mean_mm > 0):
        raise InputRefused(f"{rule} needs a mean diameter over 0 mm; got {mean_mm}")
    if not 0 <= solid_mm <= mean_mm:
        raise InputRefused(f"{rule} needs a solid part of 0 mm to its nodule's {mean_mm} mm; got {solid_mm}")


def ordered(name: str, values: tuple[float, float, float], *, positive: bool) -> None:
    """Refuse a value outside its interval or below what can be."""
    low, value, high = values
    if not (all(map(math.isfinite, values)) and low <= value <= high and (low > 0 if positive else low >= 0)):
        least = "over 0" if positive else "at least 0"
        raise InputRefused(f"a nodule's {name} must be {least} and inside its interval; got {value} in {low} to {high}")
