"""The declared space of a search: which settings are drawn, from where, and how they become a `Settings`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna

from noduscope.errors import SettingsError
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting that is searched.

    Parameters
    ----------
    table, key : the setting, as in ``[table] key = …``.
    how : ``even`` or ``log`` for a range, ``choice`` for a list.
    values : lowest and highest value of a range; all values of a choice.
    """

    table: str
    key: str
    how: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """``table.key``."""
        return f"{self.table}.{self.key}"

    def draw(self, trial: optuna.Trial) -> None:
        """Let a trial draw a value."""
        if self.how == "choice":
            trial.suggest_categorical(self.name, [_label(v) for v in self.values])
            return
        low, high = self.values
        draw = trial.suggest_int if isinstance(low, int) else trial.suggest_float
        draw(self.name, low, high, log=self.how == "log")

    def drawn(self, value: Any) -> Any:
        """The setting's value for what was drawn: choices are drawn by their label."""
        return self.values[[_label(v) for v in self.values].index(value)] if self.how == "choice" else value

    def as_drawn(self, value: Any) -> Any:
        """What would have to be drawn for this value of the setting."""
        return _label(value) if self.how == "choice" else value

    def holds(self, value: Any) -> bool:
        """Whether a value of the setting lies in the range or is one of the choice."""
        return value in self.values if self.how == "choice" else self.values[0] <= value <= self.values[1]

    def share(self, value: Any) -> float:
        """Where in the space a value lies: 0 at the lowest or first, 1 at the highest or last."""
        if self.how == "choice":
            return self.values.index(value) / (len(self.values) - 1)
        scale = math.log if self.how == "log" else float
        low, high, place = (scale(v) for v in (*self.values, value))
        return (place - low) / (high - low)


@dataclass(frozen=True, slots=True)
class Space:
    """All that is searched.

    Parameters
    ----------
    table : the settings table that declares it; also the study's name.
    """

    table: str
    parameters: tuple[Parameter, ...]

    def drawn(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The settings' values for what was drawn, by name; what was not drawn yet is left out."""
        return {p.name: p.drawn(params[p.name]) for p in self.parameters if p.name in params}

    def apply(self, settings: Settings, params: Mapping[str, Any]) -> Settings:
        """The settings with what was drawn put in."""
        values = self.drawn(params)
        for p in self.parameters:
            table = dataclasses.replace(getattr(settings, p.table), **{p.key: values[p.name]})
            settings = dataclasses.replace(settings, **{p.table: table})
        return settings

    def read_from(self, settings: Settings) -> dict[str, Any] | None:
        """What would have to be drawn for the settings as they are; None where they lie outside the space."""
        held = {p: getattr(getattr(settings, p.table), p.key) for p in self.parameters}
        if not all(p.holds(v) for p, v in held.items()):
            return None
        return {p.name: p.as_drawn(v) for p, v in held.items()}


def declared_space(settings: Settings, network: str) -> Space:
    """The space that ``[tune_<network>]`` declares: its fields name settings of the network or of its training.

    Parameters
    ----------
    network : ``detector`` or ``grader``.

    Raises
    ------
    SettingsError
        When nothing is left to search.

    Examples
    --------
    >>> [p.name for p in declared_space(Settings(), "detector").parameters][:2]
    ['train_detector.learning_rate', 'train_detector.weight_decay']
    """
    declared = f"tune_{network}"
    space = getattr(settings, declared)
    place = {f.name: t for t in (network, f"train_{network}") for f in dataclasses.fields(getattr(settings, t))}
    parameters = tuple(
        Parameter(place[f.name], f.name, f.metadata["search"], getattr(space, f.name))
        for f in dataclasses.fields(space)
        if getattr(space, f.name)
    )
    if not parameters:
        raise SettingsError(f"[{declared}] leaves nothing to search: every list in it is empty")
    return Space(declared, parameters)


def _label(value: Any) -> str:
    """A choice's value as text: Optuna takes no lists."""
    return json.dumps(value)
