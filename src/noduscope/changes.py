"""A change of size between two scans, with its interval; doubling times; what growth rules say of it.

The interval joins, on a logarithmic scale, how far each of the two sizes would move if the nodule were scanned
again, and is never taken narrower than what repeat scans of unchanged nodules show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from noduscope.errors import InputRefused
from noduscope.findings import Interval
from noduscope.guidelines.tables import load_tables

_YEAR_DAYS = 366


@dataclass(frozen=True, slots=True)
class Change:
    """A change of size with its 95 % interval, in the size's own unit and in per cent of the prior's.

    Parameters
    ----------
    repeatable : no more than repeat scans of an unchanged nodule differ.
    """

    absolute: Interval
    percent: Interval
    repeatable: bool

    @property
    def measurable(self) -> bool:
        """Whether no change at all lies outside the interval."""
        return self.absolute.low > 0 or self.absolute.high < 0


@dataclass(frozen=True, slots=True)
class DoublingTime:
    """Days in which a volume doubles, and the 95 % interval.

    Parameters
    ----------
    days : None where the volume did not grow by more than repeat scans of an unchanged nodule differ.
    low : the shortest that fits the measurements; None where it does not grow at all.
    high : the longest; None where there is no bound (no growth fits, too).
    """

    days: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class GrowthRule:
    """What a guideline's growth rule says of the measured values.

    Parameters
    ----------
    key : ``lung_rads_2022``, ``bts_2015`` or ``fleischner_2017``.
    met : None where the rule cannot be applied.
    certain : the whole 95 % interval lies on one side of the threshold.
    threshold : the rule in words.
    """

    key: str
    met: bool | None
    certain: bool
    threshold: str


def change(prior: Interval, current: Interval, least_relative_error: float) -> Change:
    """The change between two sizes, with the joint interval.

    Parameters
    ----------
    least_relative_error : the interval is at least this wide: a factor of one plus this, both ways.

    Raises
    ------
    InputRefused
        For a size that is not positive.

    Examples
    --------
    >>> made = change(Interval(100, 100, 100), Interval(200, 200, 200), 0.25)
    >>> [round(v) for v in (made.percent.value, made.percent.low, made.percent.high)]
    [100, 60, 150]
    """
    ratio = _log_ratio(prior, current, least_relative_error)
    value, low, high = (math.expm1(r) for r in (ratio.value, ratio.low, ratio.high))
    size = prior.value
    absolute, percent = (Interval(f * value, f * low, f * high) for f in (size, 100))
    return Change(absolute, percent, abs(ratio.value) <= math.log1p(least_relative_error))


def doubling_time(
    prior: Interval, current: Interval, interval_days: float, least_relative_error: float
) -> DoublingTime:
    """Volume doubling time, ``days * ln 2 / ln(V2 / V1)`` (exponential growth: Schwartz, Cancer 1961;14:1272).

    Raises
    ------
    InputRefused
        For a volume or an interval that is not positive.

    Examples
    --------
    A volume that doubles in 100 days, told to a factor of 1.25:

    >>> time = doubling_time(Interval(100, 100, 100), Interval(200, 200, 200), 100, 0.25)
    >>> round(time.days), round(time.low), round(time.high)
    (100, 76, 147)
    """
    if not interval_days > 0:
        raise InputRefused(f"a doubling time needs the days between two scans; got {interval_days}")
    ratio = _log_ratio(prior, current, least_relative_error)
    days, low, high = (interval_days * math.log(2) / r if r > 0 else None for r in (ratio.value, ratio.high, ratio.low))
    return DoublingTime(days if ratio.value > math.log1p(least_relative_error) else None, low, high)


def growth_rules(diameter: Change | None, volume: Change | None, interval_days: int | None) -> tuple[GrowthRule, ...]:
    """The growth rules of three guidelines, on the measured values; what was not measured has no rule.

    Sources: Lung-RADS v2022 (ACR): mean diameter up by more than 1.5 mm within 12 months. BTS 2015 (Callister
    et al., Thorax 70 Suppl 2): volume up by at least 25 %. Fleischner 2017 (MacMahon et al., Radiology 284:228;
    Bankier et al., Radiology 285:584): diameter up by at least 2 mm.
    """
    tables, rules = load_tables(), []
    if diameter is not None:
        lung_rads, fleischner = tables["lung_rads_2022"]["growth_over_mm"], tables["fleischner_2017"]["growth_from_mm"]
        # as reported: diameters to 0.1 mm
        d = diameter.absolute
        grown, low, high = (round(v, 1) for v in (d.value, d.low, d.high))
        within = interval_days is not None and interval_days <= _YEAR_DAYS
        sure = low > lung_rads or high <= lung_rads
        text = f"mean diameter up by more than {lung_rads:g} mm within 12 months"
        rules.append(GrowthRule("lung_rads_2022", grown > lung_rads if within else None, within and sure, text))
        sure = low >= fleischner or high < fleischner
        text = f"mean diameter up by at least {fleischner:g} mm"
        rules.append(GrowthRule("fleischner_2017", grown >= fleischner, sure, text))
    if volume is not None:
        p, bts = volume.percent, 100 * tables["bts_2015"]["growth_share"]
        sure = p.low >= bts or p.high < bts
        rules.append(GrowthRule("bts_2015", p.value >= bts, sure, f"volume up by at least {bts:g} %"))
    return tuple(rules)


def _log_ratio(prior: Interval, current: Interval, least_relative_error: float) -> Interval:
    """ln(current / prior): the errors of both are taken as independent, lower and upper apart."""
    if not (min(prior.low, current.low) > 0 and prior.value > 0 and current.value > 0):
        raise InputRefused(f"a change needs two positive sizes; got {prior} and {current}")
    least = math.log1p(least_relative_error)
    value = math.log(current.value / prior.value)
    below = math.hypot(math.log(current.value / current.low), math.log(prior.high / prior.value))
    above = math.hypot(math.log(current.high / current.value), math.log(prior.value / prior.low))
    return Interval(value, value - max(below, least), value + max(above, least))
