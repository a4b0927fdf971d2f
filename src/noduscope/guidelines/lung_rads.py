"""Lung-RADS v2022: the category of a nodule and of an examination."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from noduscope.findings import Diameter, Interval
from noduscope.guidelines.answers import Assumptions, GuidelineAnswer, Verdict, others, sizes_in, span
from noduscope.guidelines.facts import CHANGES, KINDS, Change, Kind, NoduleFacts, PatientFacts, among, check_sizes
from noduscope.guidelines.tables import band, cited, load_tables, tenths, unchecked, whole

RULE = "lung_rads_2022"

_HALF_TENTH = 0.05  # a size this far below a threshold is rounded up to it
_SEEN = {
    "baseline": "first seen",
    "stable": "unchanged",
    "new": "new",
    "growing": "growing",
    "slow": "growing slowly over several scans",
}


def lung_rads_category(kind: Kind, change: Change, mean_mm: float, solid_mm: float = 0.0) -> str:
    """The category that a nodule's size gives, to 0.1 mm.

    Parameters
    ----------
    kind, change : as in `NoduleFacts`.
    mean_mm : mean of long and short axis.
    solid_mm : mean diameter of the solid part; only asked of part-solid nodules.

    Raises
    ------
    InputRefused
        For an unknown word, a size that is not over 0 or a solid part larger than its nodule.

    >>> lung_rads_category("solid", "baseline", 5.9), lung_rads_category("solid", "baseline", 6.0)
    ('2', '3')
    """
    bands, size_mm = _bands(kind, change, mean_mm, solid_mm)
    return str(bands["category"][band(bands["from_mm"], tenths(size_mm))])


def _bands(kind: Kind, change: Change, mean_mm: float, solid_mm: float) -> tuple[Any, float]:
    """The row of the table, and the size that it goes by."""
    among("kind", kind, KINDS)
    among("change", change, CHANGES)
    check_sizes("Lung-RADS", mean_mm, solid_mm)
    table = load_tables()[RULE][kind]
    if kind != "part-solid":
        return table[change], mean_mm
    return table[change]["small" if tenths(mean_mm) < table["split_mm"] else "large"], solid_mm


def lung_rads_verdict(nodule: NoduleFacts, patient: PatientFacts) -> Verdict:
    """The category of one nodule, with what else it could be inside the size's interval."""
    assumed = Assumptions()
    if nodule.benign:
        reason = f"Benign calcification or fat is category 1. {_next_step('1')}"
        return _verdict("1", (), reason, assumed)
    if nodule.diameter_mm is None:
        return _verdict(None, (), "Lung-RADS goes by size, and no diameter was measured.", assumed)
    rule = _Rule.of(nodule, patient, assumed)
    size = _mean_interval(nodule.diameter_mm)
    solid = _solid_interval(nodule, size, rule.kind, assumed)
    solid_mm = min(solid.value, size.value)
    value = rule.category(size.value, solid_mm)
    could_be = others(value, rule.reached(size, solid), _rank)
    return _verdict(value, could_be, _reason(rule, size, solid_mm, nodule), assumed)


def lung_rads_of_exam(answers: Sequence[GuidelineAnswer]) -> Verdict:
    """The category of the examination: its most suspicious nodule's, or 1 without any.

    Category 0 and what is not a nodule (airways, cysts, lymph nodes) are for a reader to judge.
    """
    given = [a.lung_rads for a in answers if a.lung_rads.value is not None]
    assumed = Assumptions()
    assumed.note("all of both lungs was seen, without signs of infection")
    if not given:
        reason = "No nodule was found." if not answers else "No nodule could be measured."
        return _verdict(None if answers else "1", (), reason, assumed)
    value = max((str(v.value) for v in given), key=_rank)
    least = max(min(map(_rank, (str(v.value), *v.could_be))) for v in given)
    reached = (c for v in given for c in (str(v.value), *v.could_be) if _rank(c) >= least)
    for verdict in given:
        for words in verdict.assumed:
            assumed.note(words)
    reason = f"The most suspicious of {len(given)} measured nodules is category {value}. {_next_step(value)}"
    return _verdict(value, others(value, reached, _rank), reason, assumed)


@dataclass(frozen=True, slots=True)
class _Rule:
    """The row of the table for one nodule, and what is decided after size."""

    kind: Kind
    change: Change
    juxtapleural: bool
    suspicious: bool
    prior: str | None

    @classmethod
    def of(cls, nodule: NoduleFacts, patient: PatientFacts, assumed: Assumptions) -> _Rule:
        """What applies to this nodule; what is not known goes to `assumed`."""
        kind: Kind = assumed.take(nodule.kind, "solid", "type: solid")
        change = nodule.change or "baseline"
        if nodule.change is None and patient.exam is None:
            assumed.note("scan: the first one, so the nodule counts as first seen")
        elif nodule.change is None and patient.exam == "follow-up":
            assumed.note("change: neither new nor growing")
        assumed.take(nodule.benign, False, "benign calcification or fat: none")
        suspicious = assumed.take(nodule.spiculation, False, "spiculation: none")
        smooth = bool(nodule.pleural_contact and nodule.smooth)
        prior = nodule.prior_category if change == "stable" else None
        stepped = load_tables()[RULE]["stepped"].get(prior)
        if stepped:
            assumed.note(f"time since the scan before: at least {stepped['after_months']} months")
        return cls(kind, change, smooth and kind == "solid", suspicious, prior)

    def category(self, mean_mm: float, solid_mm: float) -> str:
        """By size, then lowered for a benign shape or stability, or raised for spiculation."""
        table = load_tables()[RULE]
        if self.juxtapleural and tenths(mean_mm) < table["juxtapleural_below_mm"]:
            return "2"
        category = lung_rads_category(self.kind, self.change, mean_mm, solid_mm)
        if self.suspicious and _rank(category) >= _rank("3"):
            return "4X"
        if self.prior == category and category in table["stepped"]:
            return str(table["stepped"][category]["category"])
        return category

    def reached(self, size: Interval, solid: Interval) -> Iterable[str]:
        """All categories inside the interval of the size and of the solid part."""
        steps = self._steps()
        for mean_mm in sizes_in(size, steps):
            if self.kind != "part-solid":
                yield self.category(mean_mm, 0.0)
                continue
            for solid_mm in sizes_in(solid, steps):
                yield self.category(mean_mm, min(solid_mm, mean_mm))

    def _steps(self) -> list[float]:
        table = load_tables()[RULE]
        rows = table[self.kind][self.change]
        starts = [*rows.get("from_mm", ()), table["juxtapleural_below_mm"], table["part-solid"]["split_mm"]]
        for part in ("small", "large"):
            starts += rows[part]["from_mm"] if part in rows else ()
        return [start - _HALF_TENTH for start in starts]


def _mean_interval(diameter: Diameter) -> Interval:
    return Interval(diameter.mean, diameter.low, diameter.high)


def _solid_interval(nodule: NoduleFacts, size: Interval, kind: Kind, assumed: Assumptions) -> Interval:
    if kind != "part-solid":
        return Interval(0.0, 0.0, 0.0)
    if nodule.solid_mm is None:
        assumed.note("solid part: not measured; anything from nothing to the whole nodule, the least taken first")
        return Interval(0.0, 0.0, size.high)
    return nodule.solid_mm


def _reason(rule: _Rule, size: Interval, solid_mm: float, nodule: NoduleFacts) -> str:
    value, by_size = (
        rule.category(size.value, solid_mm),
        lung_rads_category(rule.kind, rule.change, size.value, solid_mm),
    )
    kind = rule.kind[0].upper() + rule.kind[1:]
    parts = [f"{kind} nodule, mean diameter {span(size)}, {_SEEN[rule.change]}."]
    parts.append(f"{_band_in_words(rule, size.value, solid_mm)} is category {by_size}.")
    below = load_tables()[RULE]["juxtapleural_below_mm"]
    if rule.juxtapleural and tenths(size.value) < below:
        parts.append(f"It is smooth, lies at the border of the lung and is under {below:g} mm.")
    elif rule.kind == "solid" and nodule.pleural_contact and nodule.smooth is None and size.value < below:
        parts.append("At the border of the lung, it would be 2 if smooth and oval, lentiform or triangular.")
    if value == "4X":
        parts.append("Spiculation raises category 3 or 4 to 4X.")
    stepped = load_tables()[RULE]["stepped"].get(rule.prior)
    if stepped and value == stepped["category"]:
        parts.append(f"A {rule.prior} that has not grown for {stepped['after_months']} months steps down to {value}.")
    parts.append(_by_volume(rule, nodule, value))
    parts.append(_next_step(value))
    parts.append(unchecked(RULE) if (rule.kind, rule.change, by_size) == ("ground-glass", "growing", "3") else "")
    return " ".join(part for part in parts if part)


def _band_in_words(rule: _Rule, mean_mm: float, solid_mm: float) -> str:
    """``6 to under 8 mm``, ``15 mm or more``, ``any size``; of the solid part where the table goes by it."""
    bands, size_mm = _bands(rule.kind, rule.change, mean_mm, solid_mm)
    starts = bands["from_mm"]
    place = band(starts, tenths(size_mm))
    if len(starts) == 1:
        words = "any size" if rule.kind != "part-solid" else "any solid part"
    elif place == len(starts) - 1:
        words = f"{starts[place]:g} mm or more"
    else:
        words = f"{f'{starts[place]:g} to ' if place else ''}under {starts[place + 1]:g} mm"
    if rule.kind == "part-solid":
        split = load_tables()[RULE][rule.kind]["split_mm"]
        total = f"under {split:g} mm" if tenths(mean_mm) < split else f"of {split:g} mm or more"
        words = f"a total {total} with {words if len(starts) == 1 else f'a solid part of {words}'}"
    return words[0].upper() + words[1:]


def _by_volume(rule: _Rule, nodule: NoduleFacts, value: str) -> str:
    """A note where the volume bands of the table would decide otherwise."""
    if nodule.volume_mm3 is None or rule.kind == "part-solid" or rule.juxtapleural or value == "4X" or rule.prior:
        return ""
    bands = load_tables()[RULE][rule.kind][rule.change]
    by_volume = bands["category"][band(bands["from_mm3"], whole(nodule.volume_mm3.value))]
    return "" if by_volume == value else f"By its volume of {nodule.volume_mm3.value:.0f} mm³ it would be {by_volume}."


def _next_step(category: str) -> str:
    row = load_tables()[RULE]["management"][category]
    return f"Next: {row['advice']} (malignant: {row['malignancy']})."


def _rank(category: str) -> int:
    order: list[str] = load_tables()[RULE]["order"]
    return order.index(category)


def _verdict(value: str | None, could_be: tuple[str, ...], reason: str, assumed: Assumptions) -> Verdict:
    return Verdict(RULE, "category", value, could_be, reason, cited(RULE), tuple(assumed.told))
