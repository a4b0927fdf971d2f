"""British Thoracic Society 2015: what to do about a nodule by size and risk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from noduscope.errors import InputRefused
from noduscope.findings import Interval
from noduscope.guidelines.answers import Assumptions, Verdict, others, span
from noduscope.guidelines.facts import KINDS, Kind, NoduleFacts, PatientFacts, among, check_sizes
from noduscope.guidelines.risk_models import herder_probability
from noduscope.guidelines.risks import Case, brock_of, mayo_of
from noduscope.guidelines.tables import band, cited, load_tables

RULE = "bts_2015"

_BY_RISK = ("risk", "subsolid")


@dataclass(frozen=True, slots=True)
class BtsSize:
    """A nodule's size as this guideline takes it: the volume where there is one, else the long axis."""

    long_mm: float
    volume_mm3: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_sizes("the BTS guideline", self.long_mm)
        if self.volume_mm3 is not None and not (math.isfinite(self.volume_mm3) and self.volume_mm3 > 0):
            raise InputRefused(f"the BTS guideline needs a volume over 0 mm³; got {self.volume_mm3}")


def bts_step(kind: Kind, size: BtsSize) -> str:
    """The step of the guideline that a size leads to.

    Returns
    -------
    ``discharge``, ``ct_12``, ``ct_3`` or ``risk`` for a solid nodule; ``discharge`` or ``subsolid``.

    >>> bts_step("solid", BtsSize(5.5)), bts_step("solid", BtsSize(5.5, volume_mm3=87.0))
    ('ct_12', 'ct_3')
    """
    among("kind", kind, KINDS)
    if kind != "solid":
        row = _table()["subsolid"]
        return str(row["step_mm"][band(row["from_mm"], size.long_mm)])
    row = _table()["solid"]
    if size.volume_mm3 is None:
        return str(row["step_mm"][band(row["from_mm"], size.long_mm)])
    return str(row["step_mm3"][band(row["from_mm3"], size.volume_mm3)])


def bts_advice(step: str, brock: float, herder: float | None = None) -> str:
    """The advice for a step, which for larger nodules goes by the probability of cancer.

    Parameters
    ----------
    brock : probability by the Brock model, 0 to 1.
    herder : by the Herder model, where a PET-CT was made.
    """
    table = _table()
    if step in _BY_RISK:
        high = brock >= table["brock_from"]
        if step == "risk" and high and herder is not None:
            step = _herder_step(herder)
        else:
            step = f"{step}_{'high' if high else 'low'}"
    return str(table["advice"][step])


def bts_verdict(nodule: NoduleFacts, patient: PatientFacts, count: int) -> Verdict:
    """The advice for one nodule, with what else it could be inside the intervals of its sizes.

    Parameters
    ----------
    count : nodules in the scan.
    """
    assumed, case = Assumptions(), Case(nodule, patient, count)
    refusal = _refusal(nodule, patient)
    if refusal:
        return _verdict(None, (), refusal, assumed)
    if nodule.benign:
        return _verdict(_table()["advice"]["discharge"], (), "Benign calcification or fat.", assumed)
    assumed.take(nodule.benign, False, "benign calcification or fat: none")
    assumed.take(patient.age_years, 0.0, f"age: {_table()['least_age']} years or more")
    kind: Kind = assumed.take(nodule.kind, "solid", "type: solid")
    rule = _Rule(kind, brock_of(case), _herder_of(case), _smooth_at_border(nodule, kind))
    at, sizes = _sizes(nodule, kind)
    value = rule.advice(at)
    could_be = others(value, map(rule.advice, sizes))
    reason = _reason(rule, at, nodule)
    if patient.prior_cancer:
        reason += " An earlier cancer makes spread to the lung possible, which the size bands do not weigh."
    if any(rule.step(size) in _BY_RISK for size in (at, *sizes)):
        for words in case.assumed.told:
            assumed.note(words)
    return _verdict(value, could_be, reason, assumed)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The guideline for one nodule as a function of its size."""

    kind: Kind
    brock: Callable[[float], float]
    herder: Callable[[float], float | None]
    smooth_at_border: bool

    def step(self, size: BtsSize) -> str:
        if self.smooth_at_border and size.long_mm < _table()["juxtapleural_below_mm"]:
            return "discharge"
        return bts_step(self.kind, size)

    def advice(self, size: BtsSize) -> str:
        return bts_advice(self.step(size), self.brock(size.long_mm), self.herder(size.long_mm))


def _table() -> Any:
    return load_tables()[RULE]


def _herder_step(probability: float) -> str:
    table = _table()
    if probability < table["herder_surveillance_below"]:
        return "herder_low"
    return "herder_high" if probability > table["herder_treatment_over"] else "herder_middle"


def _herder_of(case: Case) -> Callable[[float], float | None]:
    """Herder's probability by the long axis; None without PET-CT or outside the Mayo model's range."""
    uptake = case.nodule.fdg_uptake
    if uptake is None:
        return lambda _: None
    mayo, table = mayo_of(case), load_tables()["mayo"]

    def herder(long_mm: float) -> float | None:
        if not table["from_mm"] <= long_mm <= table["to_mm"]:
            return None
        return herder_probability(mayo(long_mm), uptake)

    return herder


def _smooth_at_border(nodule: NoduleFacts, kind: Kind) -> bool:
    return kind == "solid" and bool(nodule.pleural_contact) and bool(nodule.smooth)


def _refusal(nodule: NoduleFacts, patient: PatientFacts) -> str:
    least = _table()["least_age"]
    if patient.age_years is not None and patient.age_years < least:
        return f"The guideline is for patients of {least} years or more; this one is {patient.age_years:g}."
    if nodule.diameter_mm is None and not nodule.benign:
        return "The guideline goes by size, and no diameter was measured."
    return ""


def _sizes(nodule: NoduleFacts, kind: Kind) -> tuple[BtsSize, list[BtsSize]]:
    """The size, and sizes from the low to the high end, both measures moving together.

    Brock's and Herder's thresholds have no closed form in mm, so the way is walked in small steps;
    the size bands' own thresholds are among them.
    """
    long, volume = nodule.long_mm, nodule.volume_mm3 if kind == "solid" else None
    if long is None:
        raise InputRefused("the BTS guideline goes by size, and no diameter was measured")
    table = _table()["solid" if kind == "solid" else "subsolid"]
    shares = {k / 64 for k in range(65)}
    if volume is None:
        shares |= _crossings(long, table["from_mm"])
        sizes = [BtsSize(_between(long, t)) for t in sorted(shares)]
        return BtsSize(long.value), sizes
    shares |= _crossings(volume, table["from_mm3"])
    sizes = [BtsSize(_between(long, t), _between(volume, t)) for t in sorted(shares)]
    return BtsSize(long.value, volume.value), sizes


def _crossings(size: Interval, thresholds: Iterable[float]) -> set[float]:
    """Where on the way from low to high a threshold is reached; just beyond, so that rounding cannot miss it."""
    width = size.high - size.low
    return {min((t - size.low) / width + 1e-9, 1.0) for t in thresholds if size.low < t <= size.high}


def _between(size: Interval, share: float) -> float:
    return size.low + share * (size.high - size.low)


def _reason(rule: _Rule, at: BtsSize, nodule: NoduleFacts) -> str:
    step, long = rule.step(at), nodule.long_mm
    parts = [f"{rule.kind[0].upper()}{rule.kind[1:]} nodule,"]
    if at.volume_mm3 is not None and nodule.volume_mm3 is not None:
        v = nodule.volume_mm3
        parts.append(f"volume {v.value:.0f} mm³ (95 % interval {v.low:.0f} to {v.high:.0f} mm³).")
    elif long is not None:
        parts.append(f"long axis {span(long)}.")
    if step in _BY_RISK:
        parts.append(f"Brock probability {100 * rule.brock(at.long_mm):.1f} %.")
        herder = rule.herder(at.long_mm)
        if step == "risk" and herder is not None:
            parts.append(f"Herder probability {100 * herder:.1f} %.")
    if rule.smooth_at_border and step == "discharge":
        parts.append("Smooth and at the border of the lung.")
    if nodule.change in ("growing", "slow"):
        parts.append("This is the first step; growth goes by the doubling time.")
    return " ".join(parts)


def _verdict(value: str | None, could_be: tuple[str, ...], reason: str, assumed: Assumptions) -> Verdict:
    return Verdict(RULE, "advice", value, could_be, reason, cited(RULE), tuple(assumed.told))
