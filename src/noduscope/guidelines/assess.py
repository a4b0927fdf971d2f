"""The public verb: all guidelines and risk models for the nodules of one scan."""

from __future__ import annotations

from collections.abc import Sequence

from noduscope.guidelines.answers import GuidelineAnswer
from noduscope.guidelines.bts import bts_verdict
from noduscope.guidelines.facts import NoduleFacts, PatientFacts
from noduscope.guidelines.fleischner import fleischner_verdict
from noduscope.guidelines.lung_rads import lung_rads_verdict
from noduscope.guidelines.risks import risks_of


def assess(nodules: Sequence[NoduleFacts], patient: PatientFacts | None = None) -> tuple[GuidelineAnswer, ...]:
    """What Lung-RADS, Fleischner, BTS and the risk models say about each nodule of one scan.

    All rules are applied, each under its own assumptions, because software cannot tell a screening
    scan from one made for another reason. What is not known is assumed and named in the answer.

    Parameters
    ----------
    nodules : all that were found; their number enters the Brock model and Fleischner's table.
    patient : what is known about the patient; None is nothing.

    Returns
    -------
    One answer per nodule, in order.

    >>> from noduscope.findings import Diameter
    >>> small = NoduleFacts(diameter_mm=Diameter(mean=5.9, long=6.2, short=5.6, low=5.5, high=6.3), kind="solid")
    >>> assess([small])[0].lung_rads.text
    '2, could be 3'
    """
    known = patient or PatientFacts()
    subsolid = [nodule.kind in ("part-solid", "ground-glass") for nodule in nodules]
    answers = []
    for nodule, is_subsolid in zip(nodules, subsolid, strict=True):
        brock, mayo, va, herder = risks_of(nodule, known, len(nodules))
        answer = GuidelineAnswer(
            lung_rads=lung_rads_verdict(nodule, known),
            fleischner=fleischner_verdict(nodule, known, subsolid.count(is_subsolid) - 1),
            bts=bts_verdict(nodule, known, len(nodules)),
            brock=brock,
            mayo=mayo,
            va=va,
            herder=herder,
        )
        answers.append(answer.seen_by(nodule.seen_by) if nodule.seen_by else answer)
    return tuple(answers)
