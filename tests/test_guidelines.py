"""The Brock model gives the published numbers; the guidelines carry uncertainty, assumptions and sources."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Grade, Interval, Nodule, ScanResult
from noduscope.guidelines import (
    BrockInputs,
    MayoInputs,
    NoduleFacts,
    PatientFacts,
    assess,
    brock_probability,
    bts_growth,
    lung_rads_category,
    lung_rads_of_exam,
    mayo_probability,
)
from noduscope.scan import Geometry, Scan, ScanSource

SCAN = Scan(np.zeros((1, 1, 1), np.int16), Geometry((1, 1, 1)), ScanSource("1.2.3", "phantom"))

HIGH_RISK = BrockInputs(
    diameter_mm=15,
    age_years=70,
    female=True,
    family_history=True,
    emphysema=True,
    nodule_type="part-solid",
    upper_lobe=True,
    nodule_count=1,
    spiculation=True,
)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (BrockInputs(8, spiculation=False), 0.01716),
        (HIGH_RISK, 0.69126),
        # at every centre (62 years, 4 mm, 4 nodules) only the intercept is left: 1/(1+e^6.7892)
        (BrockInputs(4, nodule_count=4, spiculation=False), 0.0011246),
        (BrockInputs(8), 0.01906),
        (replace(HIGH_RISK, spiculation=None), 0.57143),
    ],
)
def test_brock_gives_the_published_probability(inputs, expected):
    assert brock_probability(inputs) == pytest.approx(expected, rel=5e-4)


def test_brock_uncentred_intercept_is_the_published_one():
    # PMC6717521 prints the same model uncentred, with intercept 0.2761: at age 0, no nodules counted and
    # a diameter without bound every term is gone; take the centred terms out by hand.
    centred = math.log(brock_probability(BrockInputs(4, nodule_count=4, spiculation=False)) ** -1 - 1) * -1
    assert centred - 0.0287 * 62 + 5.3854 * 1.58113883 + 0.0824 * 4 == pytest.approx(0.2761, abs=1e-4)


@given(st.floats(1, 60), st.floats(0.1, 20))
def test_a_larger_nodule_is_never_less_suspicious(diameter, more):
    for spiculation in (None, False, True):
        small = brock_probability(BrockInputs(diameter, spiculation=spiculation))
        large = brock_probability(BrockInputs(diameter + more, spiculation=spiculation))
        assert large > small


@pytest.mark.parametrize(
    "change",
    [{"diameter_mm": 0}, {"diameter_mm": math.nan}, {"age_years": -1}, {"nodule_count": 0}, {"nodule_type": "cyst"}],
)
def test_brock_refuses_what_cannot_be(change):
    with pytest.raises(InputRefused):
        replace(HIGH_RISK, **change)


def sized(mean: float, half: float = 0.0, **known) -> NoduleFacts:
    return NoduleFacts(Diameter(mean, mean, mean, mean - half, mean + half), **known)


def test_the_size_interval_reaches_the_category():
    verdict = assess([sized(5.9, 0.4, kind="solid")])[0].lung_rads
    assert (verdict.value, verdict.could_be, verdict.text) == ("2", ("3",), "2, could be 3")
    assert "5.9 mm (95 % interval 5.5 to 6.3 mm)" in verdict.reason
    assert "Under 6 mm is category 2" in verdict.reason


@pytest.mark.parametrize(
    ("nodule", "text"),
    [
        (sized(5.9, 0.04), "2"),  # 5.94 is reported as 5.9
        (sized(5.9, 0.05), "2, could be 3"),  # 5.95 as 6.0
        (sized(9.0, 4.0), "4A, could be 2 or 3"),
        (sized(10.0, 6.0), "4A, could be 2, 3 or 4B"),
        (sized(7.0, 2.0, spiculation=True), "4X, could be 2"),
        (sized(10.0, 0.5, pleural_contact=True, smooth=True), "4A, could be 2"),
        (sized(10.0, 1.0, kind="part-solid", solid_mm=Interval(6.5, 5.0, 8.5)), "4A, could be 3 or 4B"),
        (sized(10.0, 1.0, kind="part-solid"), "3, could be 4A or 4B"),
        (sized(31.0, 2.0, kind="ground-glass"), "3, could be 2"),
        (NoduleFacts(), "not given"),
    ],
)
def test_all_categories_inside_the_interval_are_named(nodule, text):
    assert assess([nodule])[0].lung_rads.text == text


def test_what_is_missing_is_named_and_what_is_known_is_not():
    nothing = assess([sized(9.0)])[0]
    assert {words.split(":")[0] for words in nothing.brock.assumed} == {
        "age",
        "sex",
        "family history",
        "emphysema",
        "type",
        "lobe",
        "spiculation",
    }
    assert "type: solid" in nothing.lung_rads.assumed
    assert any(words.startswith("scan: the first one") for words in nothing.lung_rads.assumed)
    patient = PatientFacts(66, "male", "former", 10.0, False, False, False, "baseline")
    known = assess([sized(9.0, kind="solid", zone="lower", spiculation=False, benign=False)], patient)[0]
    assert known.lung_rads.assumed == ()
    # a mask cannot tell a lobe, and the guideline's setting is not known to software
    assert known.brock.assumed == ("lobe: not an upper one, from its place",)
    assert known.mayo.assumed == ("lobe: not an upper one, from its place",)
    assert known.va.assumed == ()
    assert known.fleischner.assumed == ("found by chance, not at screening; immune system not suppressed",)


def test_a_zone_stands_for_the_lobe_and_says_so():
    upper, middle = (assess([sized(9.0, zone=zone)])[0].brock for zone in ("upper", "middle"))
    assert upper.probability > middle.probability
    assert "lobe: upper, from its place in the upper third of the lung" in upper.assumed


@pytest.mark.parametrize(
    ("patient", "nodule", "advice"),
    [
        (PatientFacts(age_years=34), sized(9.0), None),
        (PatientFacts(age_years=35), sized(9.0), "consider CT at 3 months, PET-CT or tissue sampling"),
        (PatientFacts(prior_cancer=True), sized(9.0), None),
        (PatientFacts(smoker="never"), sized(5.0), "no routine follow-up"),
        (PatientFacts(smoker="former"), sized(5.0), "optional CT at 12 months"),
        (PatientFacts(emphysema=True), sized(5.0), "optional CT at 12 months"),
        (PatientFacts(smoker="never"), sized(5.0, spiculation=True), "optional CT at 12 months"),
        (PatientFacts(), sized(5.0), "low risk: no routine follow-up; high risk: optional CT at 12 months"),
        (PatientFacts(), sized(5.0, benign=True), None),
    ],
)
def test_fleischner_asks_the_patient(patient, nodule, advice):
    assert assess([nodule], patient)[0].fleischner.value == advice


def test_fleischner_counts_nodules_of_the_class():
    solid, glass = sized(9.0, kind="solid"), sized(9.0, kind="ground-glass")
    alone = assess([solid, glass])
    assert alone[0].fleischner.reason.startswith("Single solid nodule")
    assert alone[1].fleischner.reason.startswith("Single ground-glass nodule")
    together = assess([solid, solid, glass, sized(9.0, kind="part-solid")])
    assert together[0].fleischner.reason.startswith("One of several solid nodules")
    assert together[3].fleischner.reason.startswith("One of several subsolid nodules")


def test_bts_goes_by_volume_and_then_by_brock():
    volume = Interval(310.0, 290.0, 330.0)
    answer = assess([NoduleFacts(Diameter(8.4, 8.8, 8.0, 8.2, 8.6), volume, kind="solid")])[0]
    assert answer.bts.value == "CT at 3 months, then by the doubling time (Brock under 10 %)"
    assert answer.bts.could_be == ("CT at 3 months, then by the doubling time",)
    assert f"Brock probability {100 * answer.brock.probability:.1f} %" in answer.bts.reason


def test_bts_finds_where_brock_passes_ten_percent_inside_the_interval():
    nodule = sized(12.0, 6.0, kind="solid", spiculation=True, zone="upper")
    low, high = (assess([sized(d, kind="solid", spiculation=True, zone="upper")])[0] for d in (9.0, 18.0))
    assert low.brock.probability < 0.1 < high.brock.probability
    bts = assess([nodule])[0].bts
    found = {bts.value, *bts.could_be}
    assert found == {
        "CT at 3 months, then by the doubling time",
        "CT at 3 months, then by the doubling time (Brock under 10 %)",
        "PET-CT, then the Herder model (Brock 10 % or more)",
    }


def test_bts_names_brocks_assumptions_only_where_brock_decides():
    small, large = (assess([sized(d, kind="solid")])[0].bts.assumed for d in (4.0, 12.0))
    assert "sex: male" not in small
    assert "sex: male" in large


@pytest.mark.parametrize(("rating", "spiculated", "category"), [(2.94, False, "4A"), (2.96, True, "4X")])
def test_a_grade_gives_type_and_edge_and_the_reasons_say_who_saw_them(rating, spiculated, category):
    grade = Grade(Interval(0.5, 0.4, 0.6), "solid", {"spiculation": rating})
    known = sized(9.0).graded(grade)
    assert (known.kind, known.spiculation) == ("solid", spiculated)
    answer = assess([known])[0]
    assert answer.lung_rads.value == category
    words = f"The network sees it as solid and {'' if spiculated else 'not '}spiculated ({rating:.1f} of 5)."
    told = answer.to_dict()
    assert [key for key, said in told.items() if words in said["reason"]] == [k for k in told if k != "va"]
    assert not any("type:" in words for said in told.values() for words in said["assumed"])


def test_herder_needs_pet_ct():
    without, hot = (assess([sized(12.0, fdg_uptake=uptake)])[0] for uptake in (None, "intense"))
    assert without.herder is None
    assert "herder" not in without.to_dict()
    assert hot.herder.probability > hot.mayo.probability
    assert hot.to_dict()["herder"]["probability"] == round(hot.herder.probability, 4)


def test_a_model_outside_its_range_gives_a_sentence_not_a_number():
    answer = assess([sized(40.0)])[0]
    for risk in (answer.mayo, answer.va):
        assert (risk.probability, risk.low, risk.high, risk.text) == (None, None, None, "not given")
        assert "30 mm" in risk.reason
    assert answer.brock.probability is not None


def test_a_range_is_cut_where_the_model_ends():
    mayo = assess([sized(28.0, 4.0)])[0].mayo
    assert mayo.high == mayo_probability(MayoInputs(30.0))
    assert "24 to 30 mm" in mayo.reason


def test_the_answer_is_what_findings_json_says():
    answer = assess([sized(9.0, 1.5, kind="solid")])[0]
    as_dict = json.loads(json.dumps(answer.to_dict()))
    assert list(as_dict) == ["lung_rads_2022", "fleischner_2017", "bts_2015", "brock", "mayo", "va"]
    assert as_dict["lung_rads_2022"]["category"] == "4A"
    assert as_dict["lung_rads_2022"]["could_be"] == ["3"]
    assert as_dict["brock"]["low"] < as_dict["brock"]["probability"] < as_dict["brock"]["high"]
    for entry in as_dict.values():
        assert entry["source"]
        assert entry["reason"].endswith(".")
        assert isinstance(entry["assumed"], list)


def test_a_nodule_carries_its_guidelines_into_the_findings():
    guidelines = assess([sized(9.0)])[0].to_dict()
    bare = Nodule(1, 0.9, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1, None, None, None)
    told = replace(bare, guidelines=guidelines)
    results = [ScanResult(SCAN, np.zeros((1, 1, 1), np.uint8), (n,), (), 0.5, ()).to_dict() for n in (bare, told)]
    assert "guidelines" not in results[0]["nodules"][0]
    assert results[1]["nodules"][0]["guidelines"] == guidelines
    assert hash(told) == hash(bare)


def test_an_examination_is_its_most_suspicious_nodule():
    answers = assess([sized(5.0, kind="solid"), sized(7.0, 1.5, kind="solid")])
    exam = lung_rads_of_exam(answers)
    # the first stays 2; the second is 3 and could be 2 or 4A
    assert (exam.value, exam.could_be) == ("3", ("2", "4A"))
    # with a sure 3 beside it, the examination cannot be 2 any more
    assert lung_rads_of_exam(assess([sized(7.0), sized(7.0, 1.5)])).could_be == ("4A",)
    assert lung_rads_of_exam([]).value == "1"
    assert lung_rads_of_exam(assess([NoduleFacts()])).value is None


def test_unchecked_rows_say_so():
    told = "Not checked against the publication"
    large = [assess([sized(40.0, kind="ground-glass", change=c)])[0].lung_rads.reason for c in ("growing", "new")]
    assert [told in reason for reason in large] == [True, False]
    growth = [bts_growth(100.0, 130.0, days).reason for days in (150.0, 190.0, 260.0)]
    assert [told in reason for reason in growth] == [False, True, False]
    answer = assess([sized(9.0)])[0]
    assert [told in risk.reason for risk in (answer.brock, answer.mayo, answer.va)] == [False, False, True]


@pytest.mark.parametrize(
    "call",
    [
        lambda: PatientFacts(age_years=0),
        lambda: PatientFacts(age_years=math.nan),
        lambda: PatientFacts(sex="f"),
        lambda: PatientFacts(smoker="yes"),
        lambda: PatientFacts(exam="second"),
        lambda: PatientFacts(smoker="never", years_quit=3),
        lambda: PatientFacts(age_years=40, smoker="former", years_quit=41),
        lambda: NoduleFacts(Diameter(5.0, 5.0, 5.0, 5.1, 6.0)),
        lambda: NoduleFacts(Diameter(5.0, 4.0, 6.0, 4.0, 6.0)),
        lambda: NoduleFacts(Diameter(0.0, 0.0, 0.0, 0.0, 1.0)),
        lambda: NoduleFacts(volume_mm3=Interval(math.inf, 1.0, math.inf)),
        lambda: NoduleFacts(solid_mm=Interval(-1.0, -2.0, 0.0)),
        lambda: NoduleFacts(kind="cyst"),
        lambda: NoduleFacts(zone="apex"),
        lambda: NoduleFacts(change="bigger"),
        lambda: NoduleFacts(prior_category="5"),
        lambda: NoduleFacts(fdg_uptake="hot"),
    ],
)
def test_facts_that_cannot_be_are_refused(call):
    with pytest.raises(InputRefused):
        call()


# ---------------------------------------------------------------------------------------- laws

ORDER = ["1", "2", "3", "4A", "4B", "4X"]
kinds = st.sampled_from(["solid", "part-solid", "ground-glass"])
changes = st.sampled_from(["baseline", "stable", "new", "growing", "slow"])
sizes = st.floats(1.0, 60.0)
facts = st.fixed_dictionaries(
    {
        "kind": st.none() | kinds,
        "change": st.none() | changes,
        "zone": st.none() | st.sampled_from(["upper", "middle", "lower"]),
        "pleural_contact": st.none() | st.booleans(),
        "smooth": st.none() | st.booleans(),
        "spiculation": st.none() | st.booleans(),
        "prior_category": st.none() | st.sampled_from(["2", "3", "4A", "4B"]),
    }
)


@given(kinds, changes, sizes, sizes, st.floats(0, 1), st.floats(0, 1))
def test_a_category_never_falls_with_size(kind, change, one, two, solid_one, solid_two):
    small, large = sorted((one, two))
    part_small, part_large = sorted((solid_one * small, min(solid_two * large, large)))
    part_small = min(part_small, small)
    low = lung_rads_category(kind, change, small, part_small)
    high = lung_rads_category(kind, change, large, part_large)
    assert ORDER.index(low) <= ORDER.index(high)


@given(facts, sizes, sizes)
def test_nor_does_the_verdict(known, one, two):
    small, large = sorted((one, two))
    low, high = (assess([sized(size, **known)])[0].lung_rads.value for size in (small, large))
    assert ORDER.index(low) <= ORDER.index(high)


@given(facts, sizes, st.floats(0.0, 0.9), st.floats(0, 1))
def test_the_verdict_at_any_size_inside_the_interval_is_named(known, mean, width, where):
    half = width * mean
    answer = assess([sized(mean, half, **known)])[0]
    inside = assess([sized(mean - half + where * 2 * half, **known)])[0]
    for verdict, other in ((answer.lung_rads, inside.lung_rads), (answer.fleischner, inside.fleischner)):
        assert other.value in (verdict.value, *verdict.could_be)


@given(facts, st.floats(7.0, 29.0), st.floats(0.1, 1.0))
def test_every_risk_grows_with_size(known, size, more):
    small, large = (assess([sized(d, fdg_uptake="faint", **known)])[0] for d in (size, size + more))
    for name in ("brock", "mayo", "va", "herder"):
        assert getattr(large, name).probability > getattr(small, name).probability


@given(facts, st.floats(7.0, 25.0), st.floats(0.05, 4.0))
def test_a_risk_lies_inside_its_range(known, mean, half):
    answer = assess([sized(mean, half, **known)])[0]
    for risk in (answer.brock, answer.mayo, answer.va):
        assert 0 < risk.low <= risk.probability <= risk.high < 1
