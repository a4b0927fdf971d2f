"""What counts as growth between two scans, and what follows from it."""

from __future__ import annotations

import math
from typing import Literal

from noduscope.errors import InputRefused
from noduscope.guidelines.answers import Verdict
from noduscope.guidelines.tables import cited, load_tables, tenths, unchecked


def doubling_time_days(first_mm3: float, second_mm3: float, days: float) -> float:
    """Volume doubling time: ``days · ln 2 / ln(second / first)``.

    Returns
    -------
    Days; infinite without change, negative (the time to halve) for a nodule that shrinks.

    Raises
    ------
    InputRefused
        For volumes or a time that are not over 0.

    >>> doubling_time_days(100.0, 200.0, 90.0)
    90.0
    """
    if not (first_mm3 > 0 and second_mm3 > 0 and days > 0) or not all(
        map(math.isfinite, (first_mm3, second_mm3, days))
    ):
        raise InputRefused(
            f"a doubling time needs two volumes and a time over 0; got {first_mm3} and {second_mm3} mm³, {days} days"
        )
    ratio = math.log(second_mm3 / first_mm3)
    return math.inf if ratio == 0 else days * math.log(2) / ratio


def lung_rads_change(first_mm: float, second_mm: float, months: float) -> Literal["stable", "growing", "slow"]:
    """Change of the mean diameter by Lung-RADS: growing by more than 1.5 mm within 12 months.

    An increase by more than that which took longer, and never was that fast on average, is ``slow``.

    Raises
    ------
    InputRefused
        For sizes or a time that are not over 0.

    >>> lung_rads_change(6.0, 7.5, 12.0), lung_rads_change(6.0, 7.6, 12.0), lung_rads_change(6.0, 7.6, 30.0)
    ('stable', 'growing', 'slow')
    """
    if not (first_mm > 0 and second_mm > 0 and months > 0):
        raise InputRefused(f"growth needs two sizes and a time over 0; got {first_mm}, {second_mm} mm, {months} months")
    table = load_tables()["lung_rads_2022"]
    increase = round(tenths(second_mm) - tenths(first_mm), 1)
    if increase <= table["growth_over_mm"]:
        return "stable"
    a_year = increase * table["growth_months"] / max(months, table["growth_months"])
    return "growing" if a_year > table["growth_over_mm"] else "slow"


def fleischner_grown(first_mm: float, second_mm: float) -> bool:
    """Whether a diameter grew by the Fleischner Society's 2 mm.

    >>> fleischner_grown(6.0, 8.0)
    True
    """
    if not (first_mm > 0 and second_mm > 0):
        raise InputRefused(f"growth needs two sizes over 0; got {first_mm} and {second_mm} mm")
    return bool(round(second_mm - first_mm, 6) >= load_tables()["fleischner_2017"]["growth_from_mm"])


def bts_growth(first_mm3: float, second_mm3: float, days: float) -> Verdict:
    """The BTS guideline's step for a solid nodule under surveillance: growth is 25 % of the volume or more.

    Raises
    ------
    InputRefused
        For volumes or a time that are not over 0.

    >>> bts_growth(100.0, 120.0, 90.0).value
    'no growth: CT at 1 year, then discharge if still stable by volume'
    """
    table = load_tables()["bts_2015"]
    days_to_double = doubling_time_days(first_mm3, second_mm3, days)
    share = second_mm3 / first_mm3 - 1
    if round(share, 9) < table["growth_share"]:
        step, tail = "stable", "."
    else:
        fast, slow = days_to_double <= table["fast_days"], days_to_double > table["slow_days"]
        step = "fast" if fast else "slow" if slow else "middle"
        tail = f", doubling time {days_to_double:.0f} days."
        tail += f" {unchecked('bts_2015')}" if step == "middle" else ""
    reason = f"Volume {first_mm3:.0f} to {second_mm3:.0f} mm³ in {days:.0f} days: {100 * share:+.0f} %{tail}"
    return Verdict("bts_2015_growth", "advice", table["growth"][step], (), reason, cited("bts_2015"))
