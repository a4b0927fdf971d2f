"""Guidelines and risk models for lung nodules, as pure functions of published tables.

`assess` applies them all to the nodules of a scan. Every answer names the rule's source, the sentence
that explains it, what was assumed, and what else it would be inside the size's 95 % interval. The
tables and coefficients stand in ``tables.toml``.
"""

from noduscope.guidelines.answers import GuidelineAnswer, Risk, Verdict
from noduscope.guidelines.assess import assess
from noduscope.guidelines.bts import BtsSize, bts_advice, bts_step
from noduscope.guidelines.facts import NoduleFacts, PatientFacts
from noduscope.guidelines.fleischner import FleischnerCase, fleischner_advice
from noduscope.guidelines.growth_rules import bts_growth, doubling_time_days, fleischner_grown, lung_rads_change
from noduscope.guidelines.lung_rads import lung_rads_category, lung_rads_of_exam
from noduscope.guidelines.risk_models import (
    BrockInputs,
    MayoInputs,
    VaInputs,
    brock_probability,
    herder_probability,
    mayo_probability,
    va_probability,
)

__all__ = [
    "BrockInputs",
    "BtsSize",
    "FleischnerCase",
    "GuidelineAnswer",
    "MayoInputs",
    "NoduleFacts",
    "PatientFacts",
    "Risk",
    "VaInputs",
    "Verdict",
    "assess",
    "brock_probability",
    "bts_advice",
    "bts_growth",
    "bts_step",
    "doubling_time_days",
    "fleischner_advice",
    "fleischner_grown",
    "herder_probability",
    "lung_rads_category",
    "lung_rads_change",
    "lung_rads_of_exam",
    "mayo_probability",
    "va_probability",
]
