"""Evaluate benign-or-malignant grades: every figure with its interval, beside what must be beaten.

`run_grades` is the one call: two CSV files in, ``metrics.json``, tables, pictures and a page out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noduscope.evaluate.grades_summary import Evaluation, GradesSettings, evaluate_grades, summarise
from noduscope.evaluate.scores import Floats, Ranking, net_benefit, percentile_interval
from noduscope.files import csv_bytes, replace_files

__all__ = ["GradesSettings", "run_grades"]

_CURVE_THRESHOLDS = np.arange(1, 100) / 100


def run_grades(
    predictions: Path, labels: Path, out: Path, settings: GradesSettings | None = None, *, pictures: bool = True
) -> dict[str, Any]:
    """Evaluate ``predictions`` against ``labels`` and write the result into the folder ``out``.

    Returns what ``metrics.json`` holds. All files are complete before the first one takes its name.

    Raises
    ------
    InputRefused
        For tables that cannot be evaluated: see `noduscope.evaluate.grades_tables.join`, and for cases
        of one class only.
    """
    evaluation = evaluate_grades(predictions, labels, settings or GradesSettings())
    metrics = summarise(evaluation)
    files = {"metrics.json": (json.dumps(metrics, indent=1, allow_nan=False) + "\n").encode()}
    files |= {name: csv_bytes(rows) for name, rows in _tables(evaluation, metrics).items()}
    if pictures:
        from noduscope.evaluate.grades_figure import draw_grades, page  # noqa: PLC0415  matplotlib is slow to import

        drawn = draw_grades(evaluation, metrics, decision_curves(evaluation))
        files |= drawn | {"report.html": page(metrics, drawn)}
    replace_files(out, files)
    return metrics


def _tables(evaluation: Evaluation, metrics: dict[str, Any]) -> dict[str, Iterable[Sequence[Any]]]:
    """The CSV files: cases, ROC curves, reliability bins, decision curves."""
    labels, graded = evaluation.labels, evaluation.graded
    tested = evaluation.tested
    names = [name for name in graded if name != "majority"]
    cases: list[Sequence[Any]] = [
        ("id", "patient_id", "label", *names, "called_malignant_at_given", "called_at_chosen")
    ]
    for i, case in enumerate(tested):
        scores = [f"{graded[name].probabilities[i]:.6g}" for name in names]
        calls = (graded["model"].probabilities[i] >= evaluation.settings.threshold, graded["model"].chosen_calls[i])
        row = (evaluation.cases.ids[case], evaluation.cases.patients[case], int(labels[i]), *scores)
        cases.append((*row, *(int(c) for c in calls)))
    roc: list[Sequence[Any]] = [("grade", "threshold", "false_positive_rate", "sensitivity")]
    for name in names:
        ranking = Ranking.of(labels, graded[name].probabilities)
        tp, fp = (counts[0] for counts in ranking.counts(np.ones((1, len(labels)))))
        points = zip(ranking.thresholds, fp / fp[-1], tp / tp[-1], strict=True)
        roc += [(name, *(f"{float(x):.6g}" for x in point)) for point in points]
    bins: list[Sequence[Any]] = [("lower", "upper", "n", "predicted", "observed", "low", "high")]
    bins += [(b["lower"], b["upper"], b["n"], b["predicted"], *b["observed"].values()) for b in metrics["reliability"]]
    return {
        "cases.csv": cases,
        "roc.csv": roc,
        "reliability.csv": bins,
        "decision_curve.csv": _decision_rows(evaluation),
    }


def _decision_rows(evaluation: Evaluation) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [("grade", "threshold", "net_benefit", "low", "high")]
    for name, values in decision_curves(evaluation).items():
        rows += [(name, *(f"{float(x):.6g}" for x in point)) for point in zip(_CURVE_THRESHOLDS, *values, strict=True)]
    return rows


def decision_curves(evaluation: Evaluation) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Net benefit with its band at thresholds 0.01 to 0.99, of each grade and of treating everyone."""
    labels = evaluation.labels
    ways = {name: way.probabilities for name, way in evaluation.graded.items() if name != "majority"}
    ways["treat_all"] = np.ones(len(labels))
    curves = {}
    for name, probabilities in ways.items():
        statistic = net_benefit(labels, probabilities, _CURVE_THRESHOLDS)
        low, high = percentile_interval(evaluation.bootstrap.replicates_of(statistic))
        curves[name] = (statistic(np.ones((1, len(labels))))[0], low, high)
    return curves
