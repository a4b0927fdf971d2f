"""How a guideline or a risk model answers, and how far the size's uncertainty carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from noduscope.findings import Interval

T = TypeVar("T")


class Assumptions:
    """Collects what had to be assumed, in words, while a rule is applied."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def take(self, value: T | None, otherwise: T, words: str) -> T:
        """The value, or `otherwise` with a note when it is not known."""
        if value is not None:
            return value
        self.note(words)
        return otherwise

    def note(self, words: str) -> None:
        """Add an assumption, once."""
        if words not in self.told:
            self.told.append(words)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A category or an advice.

    Parameters
    ----------
    rule : its key in ``findings.json``: ``lung_rads_2022``.
    kind : whether `value` is a ``category`` or an ``advice``.
    value : at the measured size; None where the rule does not apply.
    could_be : what else it would be inside the size's 95 % interval, mildest first.
    reason : sentences that explain it.
    source : the publication, and what is not checked against it.
    assumed : what was not known and was assumed.
    """

    rule: str
    kind: Literal["category", "advice"]
    value: str | None
    could_be: tuple[str, ...]
    reason: str
    source: str
    assumed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people: ``2, could be 3``, ``this; or: that``, or ``not given`` where the rule does not apply."""
        if self.value is None:
            return "not given"
        if not self.could_be:
            return self.value
        if self.kind == "category":
            return f"{self.value}, could be {either(self.could_be)}"
        return "; or: ".join((self.value, *self.could_be))

    def to_dict(self) -> dict[str, Any]:
        """Its entry under ``guidelines`` in ``findings.json``."""
        return {
            self.kind: self.value,
            "could_be": list(self.could_be),
            "text": self.text,
            "reason": self.reason,
            "source": self.source,
            "assumed": list(self.assumed),
        }


@dataclass(frozen=True, slots=True)
class Risk:
    """A risk model's probability of cancer, with its range over the size's 95 % interval.

    `probability`, `low` and `high` are None where the model does not apply; `reason` says why. The
    range holds the error of the size alone, not that of the model or of what was assumed.
    """

    rule: str
    probability: float | None
    low: float | None
    high: float | None
    reason: str
    source: str
    assumed: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people: ``4.2 % (2.9 to 6.1 %)``."""
        if self.probability is None or self.low is None or self.high is None:
            return "not given"
        return f"{100 * self.probability:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f} %)"

    def to_dict(self) -> dict[str, Any]:
        """Its entry under ``guidelines`` in ``findings.json``."""
        return {
            **{k: None if (v := getattr(self, k)) is None else round(v, 4) for k in ("probability", "low", "high")},
            "text": self.text,
            "reason": self.reason,
            "source": self.source,
            "assumed": list(self.assumed),
        }


A = TypeVar("A", Verdict, Risk)


@dataclass(frozen=True, slots=True)
class GuidelineAnswer:
    """What every guideline and risk model says about one nodule; Herder's needs a PET-CT."""

    lung_rads: Verdict
    fleischner: Verdict
    bts: Verdict
    brock: Risk
    mayo: Risk
    va: Risk
    herder: Risk | None = None

    def seen_by(self, sentence: str) -> GuidelineAnswer:
        """With a sentence on who saw the nodule's type and edge in each reason; the VA model asks for neither."""
        return replace(
            self,
            lung_rads=_also(self.lung_rads, sentence),
            fleischner=_also(self.fleischner, sentence),
            bts=_also(self.bts, sentence),
            brock=_also(self.brock, sentence),
            mayo=_also(self.mayo, sentence),
            herder=_also(self.herder, sentence) if self.herder else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The nodule's ``guidelines`` in ``findings.json``."""
        given = (self.lung_rads, self.fleischner, self.bts, self.brock, self.mayo, self.va, self.herder)
        return {answer.rule: answer.to_dict() for answer in given if answer is not None}


def _also(answer: A, sentence: str) -> A:
    """With one more sentence of reason."""
    return replace(answer, reason=f"{answer.reason} {sentence}")


def sizes_in(size: Interval, thresholds: Iterable[float]) -> list[float]:
    """Where a stepwise rule must be asked to meet all its steps inside an interval: the ends and the steps."""
    return sorted({size.low, size.high, *(t for t in thresholds if size.low < t <= size.high)})


def others(value: str, found: Iterable[str], rank: Callable[[str], int] | None = None) -> tuple[str, ...]:
    """What else was found, each once, in its order of finding or by rank."""
    kept = [other for other in dict.fromkeys(found) if other != value]
    return tuple(sorted(kept, key=rank) if rank else kept)


def either(words: Sequence[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def span(size: Interval) -> str:
    """``5.9 mm (95 % interval 5.5 to 6.3 mm)``."""
    return f"{size.value:.1f} mm (95 % interval {size.low:.1f} to {size.high:.1f} mm)"
