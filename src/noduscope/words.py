"""Numbers as people read them, the same in every output."""

from __future__ import annotations


def probability_text(value: float) -> str:
    """A probability with two digits; never certainty, which no calibration can promise."""
    return ">0.99" if value > 0.99 else "<0.01" if value < 0.01 else f"{value:.2f}"


def counted(number: int, noun: str) -> str:
    """``1 finding``, ``2 findings``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
