"""The risk models applied to what is known of a patient and a nodule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from noduscope.errors import InputRefused
from noduscope.findings import Interval
from noduscope.guidelines.answers import Assumptions, Risk, span
from noduscope.guidelines.facts import NoduleFacts, PatientFacts
from noduscope.guidelines.risk_models import (
    BrockInputs,
    MayoInputs,
    NoduleType,
    VaInputs,
    brock_probability,
    herder_probability,
    mayo_probability,
    va_probability,
)
from noduscope.guidelines.tables import cited, load_tables, unchecked

_REFERENCE_AGE = 62.0  # the centre of the Brock model; taken for all models so that they can be compared
_BROCK_TYPE: dict[str, NoduleType] = {"solid": "solid", "part-solid": "part-solid", "ground-glass": "non-solid"}


@dataclass(frozen=True, slots=True)
class Case:
    """One nodule of one patient, as the risk models see it.

    Parameters
    ----------
    count : nodules in the scan.
    """

    nodule: NoduleFacts
    patient: PatientFacts
    count: int
    assumed: Assumptions = field(default_factory=Assumptions)

    def age_years(self) -> float:
        """The age, or the reference."""
        return self.assumed.take(self.patient.age_years, _REFERENCE_AGE, f"age: {_REFERENCE_AGE:.0f} years")

    def upper_lobe(self) -> bool:
        """A lung mask has no lobes: the upper third of the lung stands for the upper lobe."""
        if self.nodule.zone is None:
            self.assumed.note("lobe: not an upper one")
            return False
        upper = self.nodule.zone == "upper"
        words = "upper, from its place in the upper third of the lung" if upper else "not an upper one, from its place"
        self.assumed.note(f"lobe: {words}")
        return upper

    def ever_smoked(self) -> bool:
        """Now or formerly."""
        return self.assumed.take(self.patient.smoker, "never", "smoking: never") != "never"

    def spiculation(self) -> bool:
        """Of the nodule's edge."""
        return self.assumed.take(self.nodule.spiculation, False, "spiculation: none")


def brock_of(case: Case) -> Callable[[float], float]:
    """The Brock probability of a case as a function of the diameter in mm; its assumptions go to the case."""
    patient, take = case.patient, case.assumed.take
    inputs = BrockInputs(
        diameter_mm=1.0,
        age_years=case.age_years(),
        female=take(patient.sex, "male", "sex: male") == "female",
        family_history=take(patient.family_history, False, "family history: none"),
        emphysema=take(patient.emphysema, False, "emphysema: none"),
        nodule_type=_BROCK_TYPE[take(case.nodule.kind, "solid", "type: solid")],
        upper_lobe=case.upper_lobe(),
        nodule_count=max(case.count, 1),
        spiculation=case.nodule.spiculation,
    )
    if case.nodule.spiculation is None:
        case.assumed.note("spiculation: not known, so the model without it")
    return lambda diameter_mm: brock_probability(replace(inputs, diameter_mm=diameter_mm))


def mayo_of(case: Case) -> Callable[[float], float]:
    """The Mayo probability as a function of the diameter in mm."""
    age, smoked, upper, spiculated = case.age_years(), case.ever_smoked(), case.upper_lobe(), case.spiculation()
    cancer = case.assumed.take(case.patient.prior_cancer, False, "earlier cancer: none")
    if cancer:
        case.assumed.note("earlier cancer: outside the chest and more than 5 years ago")
    return lambda diameter_mm: mayo_probability(MayoInputs(diameter_mm, age, smoked, cancer, spiculated, upper))


def va_of(case: Case) -> Callable[[float], float]:
    """The Veterans Affairs probability as a function of the diameter in mm."""
    age, smoked, quit_years = case.age_years(), case.ever_smoked(), 0.0
    if case.patient.smoker == "former":
        quit_years = case.assumed.take(case.patient.years_quit, 0.0, "years since quitting: 0")
    return lambda diameter_mm: va_probability(VaInputs(diameter_mm, age, smoked, quit_years))


def risks_of(nodule: NoduleFacts, patient: PatientFacts, count: int) -> tuple[Risk, Risk, Risk, Risk | None]:
    """Brock, Mayo, Veterans Affairs, and Herder where the uptake on PET-CT is known."""
    cases = [Case(nodule, patient, count) for _ in range(4)]
    mayo, uptake = mayo_of(cases[3]), nodule.fdg_uptake
    herder = None
    if uptake is not None:
        herder = _risk("herder", lambda d: herder_probability(mayo(d), uptake), cases[3])
    return (
        _risk("brock", brock_of(cases[0]), cases[0]),
        _risk("mayo", mayo_of(cases[1]), cases[1]),
        _risk("va", va_of(cases[2]), cases[2]),
        herder,
    )


_SPEAKS_OF = {
    "brock": "a nodule at the first screening scan of a smoker",
    "mayo": "a solitary nodule on a chest radiograph",
    "va": "a solitary nodule on a chest radiograph, mostly of older men who smoked",
    "herder": "a solitary nodule referred for PET-CT",
}


def _risk(rule: str, model: Callable[[float], float], case: Case) -> Risk:
    """A model asked at the long axis and at the ends of its interval."""
    size = case.nodule.long_mm
    name, source = load_tables()[rule]["name"], cited(rule)
    if size is None:
        return Risk(rule, None, None, None, f"The {name} model needs a diameter, and none was measured.", source)
    try:
        probability = model(size.value)
    except InputRefused as error:
        reason = f"{str(error)[0].upper()}{str(error)[1:]}. {unchecked(rule)}".strip()
        return Risk(rule, None, None, None, reason, source, tuple(case.assumed.told))
    ends = _inside(rule, size)
    reason = f"{name} model at a long axis of {span(size)}; it was made for {_SPEAKS_OF[rule]}."
    if (ends.low, ends.high) != (size.low, size.high):
        reason += f" The range covers {ends.low:.0f} to {ends.high:.0f} mm, where the model is defined."
    if rule != "brock" and case.count > 1:
        reason += f" There are {case.count} nodules here, so it is only a yardstick."
    reason = f"{reason} {unchecked(rule)}".strip()
    return Risk(rule, probability, model(ends.low), model(ends.high), reason, source, tuple(case.assumed.told))


def _inside(rule: str, size: Interval) -> Interval:
    """The part of the interval for which the model is defined; Herder's is Mayo's."""
    table = load_tables()["mayo" if rule == "herder" else rule]
    low, high = table.get("from_mm", size.low), table.get("to_mm", size.high)
    return Interval(size.value, max(size.low, low), min(size.high, high))
