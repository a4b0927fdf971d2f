"""Numbers as people read them."""

from __future__ import annotations

import pytest

from noduscope.words import counted, probability_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "<0.01"),
        (0.0099, "<0.01"),
        (0.01, "0.01"),
        (0.5, "0.50"),
        (0.99, "0.99"),
        (0.9901, ">0.99"),
        (1.0, ">0.99"),
    ],
)
def test_a_probability_is_never_certainty(value: float, text: str):
    assert probability_text(value) == text


def test_one_finding_two_findings():
    assert [counted(n, "finding") for n in (0, 1, 2)] == ["0 findings", "1 finding", "2 findings"]
