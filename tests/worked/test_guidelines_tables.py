"""Every row of every published table, on both sides of each threshold, 0.1 mm (1 mm³) apart.

The expected values are typed from the tables (see docs/reference/guidelines.md), not read from the
data file under test.
"""

from __future__ import annotations

import math

import pytest

from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Interval
from noduscope.guidelines import (
    BrockInputs,
    BtsSize,
    FleischnerCase,
    MayoInputs,
    NoduleFacts,
    PatientFacts,
    VaInputs,
    assess,
    brock_probability,
    bts_advice,
    bts_growth,
    bts_step,
    doubling_time_days,
    fleischner_advice,
    fleischner_grown,
    herder_probability,
    lung_rads_category,
    lung_rads_change,
    mayo_probability,
    va_probability,
)

# ------------------------------------------------------------------------------ Lung-RADS v2022

LUNG_RADS = [
    *[("solid", "baseline", *row) for row in ((3.0, "2"), (5.9, "2"), (6.0, "3"), (7.9, "3"))],
    *[("solid", "baseline", *row) for row in ((8.0, "4A"), (14.9, "4A"), (15.0, "4B"), (40.0, "4B"))],
    *[("solid", "stable", *row) for row in ((5.9, "2"), (6.0, "3"), (7.9, "3"), (8.0, "4A"), (15.0, "4B"))],
    *[("solid", "new", *row) for row in ((3.9, "2"), (4.0, "3"), (5.9, "3"), (6.0, "4A"), (7.9, "4A"), (8.0, "4B"))],
    *[("solid", "growing", *row) for row in ((3.0, "4A"), (7.9, "4A"), (8.0, "4B"))],
    *[("solid", "slow", *row) for row in ((3.0, "4B"), (12.0, "4B"))],
    *[("ground-glass", change, 29.9, "2") for change in ("baseline", "stable", "new", "growing", "slow")],
    *[("ground-glass", change, 30.0, "3") for change in ("baseline", "new", "growing")],
    *[("ground-glass", change, 30.0, "2") for change in ("stable", "slow")],
]


@pytest.mark.parametrize(("kind", "change", "mean", "category"), LUNG_RADS)
def test_lung_rads_by_the_size_of_the_nodule(kind, change, mean, category):
    assert lung_rads_category(kind, change, mean) == category


LUNG_RADS_PART_SOLID = [
    *[("baseline", *row) for row in ((5.9, 0.0, "2"), (5.9, 5.9, "2"), (6.0, 0.0, "3"), (6.0, 5.9, "3"))],
    *[("baseline", *row) for row in ((8.0, 6.0, "4A"), (20.0, 7.9, "4A"), (8.0, 8.0, "4B"), (30.0, 8.0, "4B"))],
    *[("stable", *row) for row in ((5.9, 3.0, "2"), (6.0, 5.9, "3"), (8.0, 6.0, "4A"), (8.0, 8.0, "4B"))],
    # new and under 6 mm in all is 3, unless its solid part, which is new as well, has 4 mm
    *[
        ("new", *row)
        for row in ((5.9, 0.0, "3"), (5.9, 3.9, "3"), (5.9, 4.0, "4B"), (6.0, 3.9, "4A"), (6.0, 4.0, "4B"))
    ],
    *[("growing", *row) for row in ((5.9, 3.9, "4A"), (12.0, 3.9, "4A"), (5.9, 4.0, "4B"), (12.0, 4.0, "4B"))],
    *[("slow", *row) for row in ((5.0, 1.0, "4B"), (12.0, 4.0, "4B"))],
]


@pytest.mark.parametrize(("change", "mean", "solid", "category"), LUNG_RADS_PART_SOLID)
def test_lung_rads_by_the_solid_part(change, mean, solid, category):
    assert lung_rads_category("part-solid", change, mean, solid) == category


@pytest.mark.parametrize(
    ("mean", "category"),
    [(5.94, "2"), (5.95, "3"), (7.94, "3"), (7.95, "4A"), (14.949, "4A"), (14.95, "4B")],
)
def test_lung_rads_rounds_to_a_tenth_first_halves_up(mean, category):
    assert lung_rads_category("solid", "baseline", mean) == category


def lung_rads(**known) -> str:
    size = known.pop("mean")
    diameter = Diameter(size, size, size, size, size)
    return assess([NoduleFacts(diameter_mm=diameter, **known)])[0].lung_rads.value


@pytest.mark.parametrize(
    ("known", "category"),
    [
        # a benign shape at the pleura: category 2 under 10 mm
        ({"mean": 9.9, "pleural_contact": True, "smooth": True}, "2"),
        ({"mean": 10.0, "pleural_contact": True, "smooth": True}, "4A"),
        ({"mean": 9.9, "pleural_contact": True}, "4A"),
        ({"mean": 9.9, "smooth": True}, "4A"),
        ({"mean": 9.9, "pleural_contact": True, "smooth": True, "kind": "part-solid"}, "3"),
        # benign calcification or fat: category 1 at any size
        ({"mean": 20.0, "benign": True}, "1"),
        # spiculation: 4X from category 3 on
        ({"mean": 5.9, "spiculation": True}, "2"),
        ({"mean": 6.0, "spiculation": True}, "4X"),
        ({"mean": 20.0, "spiculation": True}, "4X"),
        # stepped management
        ({"mean": 7.0, "change": "stable", "prior_category": "3"}, "2"),
        ({"mean": 9.0, "change": "stable", "prior_category": "4A"}, "3"),
        ({"mean": 16.0, "change": "stable", "prior_category": "4B"}, "4B"),
        ({"mean": 9.0, "change": "growing", "prior_category": "4A"}, "4B"),
        ({"mean": 9.0, "change": "stable", "prior_category": "3"}, "4A"),
    ],
)
def test_lung_rads_beyond_size(known, category):
    assert lung_rads(**known) == category


@pytest.mark.parametrize(
    ("category", "advice", "malignancy"),
    [
        ({"benign": True}, "screening CT in 12 months", "under 1 %"),
        ({"mean": 5.0}, "screening CT in 12 months", "under 1 %"),
        ({"mean": 7.0}, "low-dose CT in 6 months", "1 to 2 %"),
        ({"mean": 9.0}, "low-dose CT in 3 months", "5 to 15 %"),
        ({"mean": 15.0}, "diagnostic work-up", "over 15 %"),
        ({"mean": 15.0, "spiculation": True}, "diagnostic work-up", "over 15 %"),
    ],
)
def test_lung_rads_management(category, advice, malignancy):
    size = category.pop("mean", 10.0)
    verdict = assess([NoduleFacts(Diameter(size, size, size, size, size), **category)])[0].lung_rads
    assert f"Next: {advice}" in verdict.reason
    assert f"(malignant: {malignancy})" in verdict.reason


# 113, 268, 1767, 14137 mm³ are the balls of 6, 8, 15 and 30 mm; 34 of 4 mm
@pytest.mark.parametrize(
    ("kind", "change", "mean", "volume", "by_volume"),
    [
        ("solid", "baseline", 5.9, 112.4, None),
        ("solid", "baseline", 5.9, 112.5, "3"),
        ("solid", "baseline", 6.0, 112.4, "2"),
        ("solid", "baseline", 7.9, 268.0, "4A"),
        ("solid", "baseline", 14.9, 1767.0, "4B"),
        ("solid", "new", 3.9, 34.0, "3"),
        ("solid", "growing", 7.9, 268.0, "4B"),
        ("ground-glass", "baseline", 29.9, 14137.0, "3"),
        ("ground-glass", "baseline", 29.9, 14136.0, None),
    ],
)
def test_lung_rads_says_when_the_volume_would_decide_otherwise(kind, change, mean, volume, by_volume):
    facts = NoduleFacts(Diameter(mean, mean, mean, mean, mean), Interval(volume, volume, volume), kind, change=change)
    reason = assess([facts])[0].lung_rads.reason
    assert ("By its volume" in reason) == (by_volume is not None)
    if by_volume is not None:
        assert f"mm³ it would be {by_volume}." in reason


@pytest.mark.parametrize(
    ("first", "second", "months", "change"),
    [
        (6.0, 7.5, 12, "stable"),
        (6.0, 7.6, 12, "growing"),
        (6.0, 7.6, 3, "growing"),
        (6.0, 7.6, 13, "slow"),  # 1.6 mm in 13 months is 1.48 mm a year
        (6.0, 9.1, 24, "growing"),  # 1.55 mm a year
        (6.0, 9.0, 24, "slow"),  # 1.5 mm a year
        (8.0, 6.0, 12, "stable"),
    ],
)
def test_lung_rads_growth(first, second, months, change):
    assert lung_rads_change(first, second, months) == change


# ------------------------------------------------------------------------------ Fleischner 2017

NONE = "no routine follow-up"
OPTIONAL = "optional CT at 12 months"
EARLY_CONSIDER = "CT at 3 to 6 months, then consider CT at 18 to 24 months"
EARLY = "CT at 3 to 6 months, then CT at 18 to 24 months"
LATER_CONSIDER = "CT at 6 to 12 months, then consider CT at 18 to 24 months"
LATER = "CT at 6 to 12 months, then CT at 18 to 24 months"
WORK_UP = "consider CT at 3 months, PET-CT or tissue sampling"
GLASS = "CT at 6 to 12 months; if it persists, CT every 2 years until 5 years"
PART = "CT at 3 to 6 months; if it persists and its solid part stays under 6 mm, CT every year for 5 years"
SOLID_PART = "CT at 3 to 6 months; if it persists with a solid part of 6 mm or more, PET-CT, biopsy or resection"
SMALL_MANY = "CT at 3 to 6 months; if stable, consider CT at 2 and 4 years"
LARGE_MANY = "CT at 3 to 6 months, then by the most suspicious nodule"

# means are rounded to whole mm first: 5.4 counts as 5, 5.5 as 6; 8.4 as 8, 8.5 as 9, which is over 8
FLEISCHNER_SOLID = [
    (False, "low", 5.4, NONE),
    (False, "low", 5.5, LATER_CONSIDER),
    (False, "low", 8.4, LATER_CONSIDER),
    (False, "low", 8.5, WORK_UP),
    (False, "high", 5.4, OPTIONAL),
    (False, "high", 5.5, LATER),
    (False, "high", 8.4, LATER),
    (False, "high", 8.5, WORK_UP),
    (True, "low", 5.4, NONE),
    (True, "low", 5.5, EARLY_CONSIDER),
    (True, "low", 20.0, EARLY_CONSIDER),
    (True, "high", 5.4, OPTIONAL),
    (True, "high", 5.5, EARLY),
    (True, "high", 20.0, EARLY),
    (False, None, 5.4, f"low risk: {NONE}; high risk: {OPTIONAL}"),
    (False, None, 8.5, WORK_UP),
]


@pytest.mark.parametrize(("multiple", "risk", "mean", "advice"), FLEISCHNER_SOLID)
def test_fleischner_solid(multiple, risk, mean, advice):
    assert fleischner_advice(FleischnerCase("solid", multiple, risk), mean) == advice


@pytest.mark.parametrize(
    ("kind", "multiple", "mean", "solid", "advice"),
    [
        ("ground-glass", False, 5.4, 0.0, NONE),
        ("ground-glass", False, 5.5, 0.0, GLASS),
        ("part-solid", False, 5.4, 5.4, NONE),
        ("part-solid", False, 5.5, 5.4, PART),
        ("part-solid", False, 12.0, 5.4, PART),
        ("part-solid", False, 12.0, 5.5, SOLID_PART),
        ("ground-glass", True, 5.4, 0.0, SMALL_MANY),
        ("ground-glass", True, 5.5, 0.0, LARGE_MANY),
        ("part-solid", True, 5.4, 3.0, SMALL_MANY),
        ("part-solid", True, 12.0, 8.0, LARGE_MANY),
    ],
)
def test_fleischner_subsolid(kind, multiple, mean, solid, advice):
    assert fleischner_advice(FleischnerCase(kind, multiple), mean, solid) == advice


@pytest.mark.parametrize(("second", "grown"), [(7.9, False), (8.0, True), (5.0, False)])
def test_fleischner_growth_is_two_millimetres(second, grown):
    assert fleischner_grown(6.0, second) is grown


# ----------------------------------------------------------------------------------- BTS 2015


@pytest.mark.parametrize(
    ("size", "step"),
    [
        (BtsSize(4.9), "discharge"),
        (BtsSize(5.0), "ct_12"),
        (BtsSize(5.9), "ct_12"),
        (BtsSize(6.0), "ct_3"),
        (BtsSize(7.9), "ct_3"),
        (BtsSize(8.0), "risk"),
        # where there is a volume, it decides
        (BtsSize(9.0, 79.0), "discharge"),
        (BtsSize(4.0, 80.0), "ct_3"),
        (BtsSize(9.0, 299.0), "ct_3"),
        (BtsSize(4.0, 300.0), "risk"),
    ],
)
def test_bts_solid_steps(size, step):
    assert bts_step("solid", size) == step


@pytest.mark.parametrize("kind", ["part-solid", "ground-glass"])
@pytest.mark.parametrize(("long", "step"), [(4.9, "discharge"), (5.0, "subsolid"), (25.0, "subsolid")])
def test_bts_subsolid_steps(kind, long, step):
    assert bts_step(kind, BtsSize(long)) == step


@pytest.mark.parametrize(
    ("step", "brock", "herder", "advice"),
    [
        ("discharge", 0.5, None, "no follow-up"),
        ("ct_12", 0.5, None, "CT at 1 year"),
        ("ct_3", 0.5, None, "CT at 3 months, then by the doubling time"),
        ("risk", 0.0999, None, "CT at 3 months, then by the doubling time (Brock under 10 %)"),
        ("risk", 0.0999, 0.9, "CT at 3 months, then by the doubling time (Brock under 10 %)"),
        ("risk", 0.1, None, "PET-CT, then the Herder model (Brock 10 % or more)"),
        ("risk", 0.1, 0.0999, "CT surveillance (Herder under 10 %)"),
        ("risk", 0.1, 0.1, "consider biopsy; excision or CT surveillance by risk and preference (Herder 10 to 70 %)"),
        ("risk", 0.1, 0.7, "consider biopsy; excision or CT surveillance by risk and preference (Herder 10 to 70 %)"),
        ("risk", 0.1, 0.701, "consider excision or other treatment (Herder over 70 %)"),
        ("subsolid", 0.0999, None, "CT at 3 months; if stable, CT at 1, 2 and 4 years (Brock under 10 %)"),
        (
            "subsolid",
            0.1,
            None,
            "CT at 3 months; if stable, discuss surveillance, biopsy or resection (Brock 10 % or more)",
        ),
    ],
)
def test_bts_risk_steps(step, brock, herder, advice):
    assert bts_advice(step, brock, herder) == advice


# the doubling time of a growth by g in t days is t ln 2 / ln(1 + g)
@pytest.mark.parametrize(
    ("share", "days", "words"),
    [
        (0.24, 90.0, "no growth"),
        (0.25, 90.0, "400 days or less"),  # 280 days
        (1.0, 400.0, "400 days or less"),
        (1.0, 401.0, "400 to 600 days"),
        (1.0, 600.0, "400 to 600 days"),
        (1.0, 601.0, "over 600 days"),
        (-0.4, 90.0, "no growth"),
    ],
)
def test_bts_growth_steps(share, days, words):
    assert words in bts_growth(100.0, 100.0 * (1 + share), days).value


@pytest.mark.parametrize(
    ("first", "second", "days", "expected"),
    [(100, 200, 90, 90), (100, 800, 90, 30), (100, 125, 90, 279.56), (200, 100, 90, -90), (100, 100, 90, math.inf)],
)
def test_doubling_time(first, second, days, expected):
    assert doubling_time_days(first, second, days) == pytest.approx(expected, abs=0.01)


# --------------------------------------------------------------------------------- risk models


@pytest.mark.parametrize(
    ("inputs", "mayo", "by_uptake"),
    [
        # x = -6.8272 + 0.0391·62 + 0.7917 + 0.1274·10 = -2.3373; 1 / (1 + e^2.3373) = 0.08808
        (MayoInputs(10.0, 62.0, ever_smoked=True), 0.08808, (0.01196, 0.10989, 0.55060, 0.58834)),
        # x = -6.8272 + 0.0391·70 + 0.7917 + 0.1274·20 + 1.0407 + 0.7838 = 1.0740
        (
            MayoInputs(20.0, 70.0, ever_smoked=True, spiculation=True, upper_lobe=True),
            0.74536,
            (0.12048, 0.58276, 0.93271, 0.94176),
        ),
    ],
)
def test_mayo_and_herder(inputs, mayo, by_uptake):
    probability = mayo_probability(inputs)
    assert probability == pytest.approx(mayo, abs=5e-6)
    for uptake, expected in zip(("none", "faint", "moderate", "intense"), by_uptake, strict=True):
        assert herder_probability(probability, uptake) == pytest.approx(expected, abs=6e-6)


def test_mayo_counts_an_earlier_cancer():
    # its coefficient alone parts the two: odds ratio e^1.3388
    without, with_it = (mayo_probability(MayoInputs(10.0, 62.0, prior_cancer=c)) for c in (False, True))
    assert math.log(with_it / (1 - with_it) / (without / (1 - without))) == pytest.approx(1.3388)


def test_va():
    assert va_probability(VaInputs(10.0, 62.0)) == pytest.approx(0.07913, abs=5e-6)
    # x = -8.404 + 0.0779·62 + 2.061 + 0.112·10 - 0.0567·10 = -0.9602
    smoked = VaInputs(10.0, 62.0, ever_smoked=True, years_quit=10.0)
    assert va_probability(smoked) == pytest.approx(1 / (1 + math.exp(0.9602)), abs=1e-9)


def test_brock_reaches_assess_with_every_input():
    facts = PatientFacts(age_years=70, sex="female", family_history=True, emphysema=True)
    nodule = NoduleFacts(
        Diameter(13.0, 15.0, 11.0, 13.0, 13.0), kind="part-solid", zone="upper", spiculation=True, benign=False
    )
    assert assess([nodule], facts)[0].brock.probability == pytest.approx(0.69126, abs=5e-6)
    expected = brock_probability(BrockInputs(15.0, 70.0, True, True, True, "part-solid", True, 2, True))
    assert assess([nodule, nodule], facts)[1].brock.probability == pytest.approx(expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda: MayoInputs(3.9),
        lambda: MayoInputs(30.1),
        lambda: MayoInputs(math.nan),
        lambda: MayoInputs(10.0, age_years=0.0),
        lambda: VaInputs(6.9),
        lambda: VaInputs(30.1),
        lambda: VaInputs(10.0, 62.0, ever_smoked=False, years_quit=3.0),
        lambda: VaInputs(10.0, 62.0, ever_smoked=True, years_quit=63.0),
        lambda: herder_probability(1.1, "none"),
        lambda: herder_probability(0.5, "hot"),
        lambda: lung_rads_category("solid", "baseline", 0.0),
        lambda: lung_rads_category("solid", "baseline", math.inf),
        lambda: lung_rads_category("part-solid", "baseline", 6.0, 6.1),
        lambda: lung_rads_category("cyst", "baseline", 6.0),
        lambda: lung_rads_category("solid", "older", 6.0),
        lambda: fleischner_advice(FleischnerCase("solid"), -1.0),
        lambda: fleischner_advice(FleischnerCase("part-solid"), 5.0, 7.0),
        lambda: FleischnerCase("cyst"),
        lambda: BtsSize(0.0),
        lambda: BtsSize(5.0, 0.0),
        lambda: bts_step("cyst", BtsSize(5.0)),
        lambda: bts_growth(0.0, 100.0, 90.0),
        lambda: doubling_time_days(100.0, 200.0, 0.0),
        lambda: lung_rads_change(6.0, 8.0, 0.0),
        lambda: fleischner_grown(0.0, 8.0),
    ],
)
def test_what_cannot_be_is_refused(call):
    with pytest.raises(InputRefused):
        call()


@pytest.mark.parametrize("diameter", [4.0, 30.0])
def test_the_ends_of_mayos_range_are_inside(diameter):
    assert 0 < mayo_probability(MayoInputs(diameter)) < 1
