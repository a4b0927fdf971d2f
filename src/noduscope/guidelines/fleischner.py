"""Fleischner Society 2017: what to do about a nodule found by chance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from noduscope.findings import Interval
from noduscope.guidelines.answers import Assumptions, Verdict, others, sizes_in, span
from noduscope.guidelines.facts import KINDS, Kind, NoduleFacts, PatientFacts, among, check_sizes
from noduscope.guidelines.tables import band, cited, load_tables, whole

RULE = "fleischner_2017"

PatientRisk = Literal["low", "high"]

_HALF = 0.5  # a size this far below a whole mm is rounded up to it


@dataclass(frozen=True, slots=True)
class FleischnerCase:
    """The row of the table, size apart.

    Parameters
    ----------
    kind : as in `NoduleFacts`.
    multiple : whether the scan holds more nodules of the class (solid; or ground-glass and part-solid).
    risk : of the patient; None (not known) gives the advice for both.
    """

    kind: Kind
    multiple: bool = False
    risk: PatientRisk | None = None

    def __post_init__(self) -> None:
        """Refuse what has no row."""
        among("kind", self.kind, KINDS)
        among("risk", self.risk, ("low", "high"))


def fleischner_advice(case: FleischnerCase, mean_mm: float, solid_mm: float = 0.0) -> str:
    """The advice for a size; diameters are rounded to whole mm first, as the society reports them.

    Parameters
    ----------
    mean_mm : mean of long and short axis.
    solid_mm : mean diameter of the solid part; only asked of a single part-solid nodule.

    Raises
    ------
    InputRefused
        For a size that is not over 0 or a solid part larger than its nodule.

    >>> fleischner_advice(FleischnerCase("ground-glass"), 5.4)
    'no routine follow-up'
    """
    check_sizes("the Fleischner table", mean_mm, solid_mm)
    row = _row(case)
    place = band(row["from_mm"], whole(mean_mm))
    if "any" in row:
        if place and "solid" in row and whole(solid_mm) >= row["solid_from_mm"]:
            return str(row["solid"])
        return str(row["any"][place])
    low, high = row["low"][place], row["high"][place]
    if case.risk is not None:
        return str(row[case.risk][place])
    return str(low) if low == high else f"low risk: {low}; high risk: {high}"


def fleischner_verdict(nodule: NoduleFacts, patient: PatientFacts, others_of_class: int) -> Verdict:
    """The advice for one nodule, with what else it could be inside the size's interval.

    Parameters
    ----------
    others_of_class : further nodules in the scan that are solid, or ground-glass or part-solid, like this one.
    """
    refusal = _refusal(nodule, patient)
    if refusal:
        return _verdict(None, (), refusal, Assumptions())
    assumed = Assumptions()
    assumed.take(patient.age_years, 0.0, f"age: {_table()['least_age']} years or more")
    assumed.take(patient.prior_cancer, False, "earlier cancer: none")
    assumed.note("found by chance, not at screening; immune system not suppressed")
    kind: Kind = assumed.take(nodule.kind, "solid", "type: solid")
    case = FleischnerCase(kind, others_of_class > 0, _risk(nodule, patient, assumed) if kind == "solid" else None)
    d = nodule.diameter_mm
    if d is None:
        return _verdict(None, (), "The Fleischner table goes by size, and no diameter was measured.", assumed)
    size = Interval(d.mean, d.low, d.high)
    solid = _solid(nodule, case, size, assumed)
    value = fleischner_advice(case, size.value, min(solid.value, size.value))
    could_be = others(value, _reached(case, size, solid))
    return _verdict(value, could_be, _reason(case, size, nodule), assumed)


def _table() -> Any:
    return load_tables()[RULE]


def _row(case: FleischnerCase) -> Any:
    count = "multiple" if case.multiple else "single"
    group = "subsolid" if case.multiple and case.kind != "solid" else case.kind
    return _table()[group][count]


def _reached(case: FleischnerCase, size: Interval, solid: Interval) -> Iterable[str]:
    row = _row(case)
    for mean_mm in sizes_in(size, [start - _HALF for start in row["from_mm"]]):
        for solid_mm in sizes_in(solid, [row.get("solid_from_mm", 0) - _HALF]):
            yield fleischner_advice(case, mean_mm, min(solid_mm, mean_mm))


def _solid(nodule: NoduleFacts, case: FleischnerCase, size: Interval, assumed: Assumptions) -> Interval:
    if case.kind != "part-solid" or case.multiple:
        return Interval(0.0, 0.0, 0.0)
    if nodule.solid_mm is None:
        assumed.note("solid part: not measured; anything from nothing to the whole nodule, the least taken first")
        return Interval(0.0, 0.0, size.high)
    return nodule.solid_mm


def _refusal(nodule: NoduleFacts, patient: PatientFacts) -> str:
    """Why the guideline does not speak of this patient or nodule; empty when it does."""
    least = _table()["least_age"]
    if nodule.benign:
        return "Benign calcification or fat needs no follow-up by this guideline."
    if patient.age_years is not None and patient.age_years < least:
        return f"The guideline is for patients of {least} years or more; this one is {patient.age_years:g}."
    if patient.prior_cancer:
        return "The guideline is not for patients with a known cancer."
    return ""


def _risk(nodule: NoduleFacts, patient: PatientFacts, assumed: Assumptions) -> PatientRisk | None:
    """High with any known risk factor, low for a never-smoker without one, else not known.

    The guideline leaves this to judgement; it names smoking, family history, emphysema, spiculation,
    an upper lobe and age. Place and age alone are not taken for high risk here.
    """
    factors = {
        "smoking": None if patient.smoker is None else patient.smoker != "never",
        "family history": patient.family_history,
        "emphysema": patient.emphysema,
        "spiculation": nodule.spiculation,
    }
    if any(factors.values()):
        return "high"
    if factors["smoking"] is None:
        assumed.note("risk: not known without smoking history, so the advice for both")
        return None
    for name, value in factors.items():
        assumed.take(value, False, f"{name}: none")
    return "low"


def _reason(case: FleischnerCase, size: Interval, nodule: NoduleFacts) -> str:
    number = "One of several" if case.multiple else "Single"
    name = case.kind if case.kind == "solid" or not case.multiple else "subsolid"
    risk = f", {case.risk} risk" if case.risk else ""
    parts = [f"{number} {name} nodule{'s' if case.multiple else ''}{risk}, mean diameter {span(size)}."]
    parts.append(f"Rounded to {whole(size.value)} mm for this table.")
    if case.multiple:
        parts.append("The most suspicious nodule decides.")
    if nodule.change in ("growing", "slow"):
        parts.append(
            "The table is for a nodule seen the first time; one that grows (by 2 mm or more) is more suspicious."
        )
    return " ".join(parts)


def _verdict(value: str | None, could_be: tuple[str, ...], reason: str, assumed: Assumptions) -> Verdict:
    return Verdict(RULE, "advice", value, could_be, reason, cited(RULE), tuple(assumed.told))
