"""The Brock model gives the published numbers and refuses what it is not defined for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noduscope.errors import InputRefused
from noduscope.guidelines import BrockInputs, brock_probability

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
