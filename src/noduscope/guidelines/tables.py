"""The one data file of the guidelines, read once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import floor
from typing import Any


@cache
def load_tables() -> Mapping[str, Any]:
    """Thresholds, advice, coefficients and sources as ``tables.toml`` has them."""
    return tomllib.loads(files(__package__).joinpath("tables.toml").read_text(encoding="utf-8"))


def cited(rule: str) -> str:
    """The publication a rule comes from."""
    return str(load_tables()[rule]["source"])


def unchecked(rule: str) -> str:
    """A sentence on what of a rule was not compared with its publication; empty when nothing."""
    what = load_tables()[rule].get("open")
    return f"Not checked against the publication: {what}." if what else ""


def band(starts: Sequence[float], size: float) -> int:
    """The last band that starts at or below a size; `starts` ascends from 0."""
    return sum(size >= start for start in starts) - 1


def tenths(size_mm: float) -> float:
    """A size to 0.1 mm, halves up, as Lung-RADS reports it; the guard takes 5.95 for what it is in decimals."""
    return floor(size_mm * 10 + 0.5 + 1e-9) / 10


def whole(size: float) -> int:
    """A diameter or volume to whole mm or mm³, halves up, as the Fleischner Society and Lung-RADS report them."""
    return floor(size + 0.5 + 1e-9)
