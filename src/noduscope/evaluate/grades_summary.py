"""The figures of a grades evaluation: the model and its baselines on the same cases, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused, SettingsError
from noduscope.evaluate.delong import DeLongTest, delong_test
from noduscope.evaluate.grades_baselines import Graded, brock_scores, grade, majority, select, size_scorer
from noduscope.evaluate.grades_tables import EvaluationWarning, GradeCases, join
from noduscope.evaluate.scores import (
    Confusion,
    Flags,
    Floats,
    PatientBootstrap,
    Ranking,
    call_intervals,
    reliability,
    score_intervals,
    threshold_at_sensitivity,
)
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Interval

_CHOOSABLE = ("balanced_accuracy", "accuracy", "f1")


@dataclass(frozen=True, slots=True)
class GradesSettings:
    """How grades are evaluated."""

    threshold: float = 0.5
    """The given threshold: a case is called malignant from this probability on."""
    sensitivity: float = 0.95
    """Sensitivity at which specificity and the rest are read off, 0 to 1."""
    choose_by: str = "balanced_accuracy"
    """What a chosen threshold maximises: ``balanced_accuracy``, ``accuracy`` or ``f1``."""
    size_column: str = "diameter_mm"
    """Column of the labels that holds the nodule's size, mm."""
    size_edges_mm: tuple[float, ...] = (6.0, 8.0, 15.0)
    """Where the subgroups by size part, mm (Lung-RADS's steps for solid nodules)."""
    replicates: int = 1000
    """Bootstrap replicates."""
    folds: int = 5
    """Folds for choosing thresholds and fitting the size model when there is no validation part."""
    bins: int = 10
    """Bins of the reliability diagram and of the expected calibration error."""
    seed: int = 0
    """Seed of the bootstrap and of the folds."""

    def __post_init__(self) -> None:
        """Refuse settings that no evaluation can follow."""
        if not 0 < self.threshold < 1 or not 0 < self.sensitivity <= 1:
            raise SettingsError(
                f"threshold and sensitivity must lie between 0 and 1; got {self.threshold} and {self.sensitivity}"
            )
        if self.choose_by not in _CHOOSABLE:
            raise SettingsError(f"choose_by must be one of {', '.join(_CHOOSABLE)}; got {self.choose_by!r}")
        if self.replicates < 20 or self.folds < 2 or self.bins < 1:
            raise SettingsError("expected at least 20 replicates, 2 folds and 1 bin")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The evaluated cases and all the ways they were graded; every output is written from this.

    Parameters
    ----------
    cases : all joined cases; `tested` picks those that are evaluated.
    graded : ``model`` first, then the baselines.
    chosen_how : how the chosen thresholds were chosen, in words.
    """

    cases: GradeCases
    tested: NDArray[np.intp]
    graded: dict[str, Graded]
    chosen_how: str
    bootstrap: PatientBootstrap
    settings: GradesSettings
    warnings: tuple[EvaluationWarning, ...]

    @property
    def labels(self) -> Flags:
        """Labels of the evaluated cases."""
        return self.cases.labels[self.tested]


def evaluate_grades(predictions: Path, labels: Path, settings: GradesSettings) -> Evaluation:
    """Read, join, and grade the cases by the model and by every baseline that the tables allow."""
    cases, warnings = join(predictions, labels, settings.size_column)
    selection, more = select(cases, settings.folds, settings.seed)
    warnings += more
    tested = np.flatnonzero(cases.split == "test")
    if cases.labels[tested].all() or not cases.labels[tested].any():
        raise InputRefused(
            f"the {len(tested)} evaluated cases are all {'malignant' if cases.labels[tested].all() else 'benign'}: "
            "expected cases of both classes"
        )

    def graded(scores: Floats, how: str) -> Graded:
        return grade(cases, selection, lambda _, at: scores[at], settings.choose_by, how)

    ways = {"model": graded(cases.probabilities, "the predictions"), "majority": majority(cases, selection)}
    if cases.diameter_mm is None or np.isnan(cases.diameter_mm).mean() > 0.5:
        warnings += (
            EvaluationWarning(
                "no-size",
                f"most cases have no size in column {settings.size_column}: no size-only and no Brock baseline",
            ),
        )
    else:
        warnings += _unknown_sizes(cases.diameter_mm, settings.size_column)
        scorer = size_scorer(cases.diameter_mm, cases.labels)
        ways["size_only"] = grade(
            cases, selection, scorer, settings.choose_by, f"logistic regression on log size, fitted {selection.how}"
        )
        brock, assumed = brock_scores(cases)
        way = graded(brock, "Brock (PanCan) full model, McWilliams et al. 2013, as published")
        ways["brock"] = Graded(way.how, way.probabilities, way.chosen_calls, way.thresholds, assumed)
    bootstrap = PatientBootstrap.draw(cases.patients[tested], settings.replicates, settings.seed)
    return Evaluation(cases, tested, ways, selection.how, bootstrap, settings, warnings)


def _unknown_sizes(diameter_mm: Floats, column: str) -> tuple[EvaluationWarning, ...]:
    unknown = int(np.isnan(diameter_mm).sum())
    if not unknown:
        return ()
    text = f"{unknown} of {len(diameter_mm)} cases have no {column}: the baselines take the others' median for them"
    return (EvaluationWarning("size-missing", text),)


# --- figures in numbers ---------------------------------------------------------------------------


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """All that ``metrics.json`` holds, as plain JSON values (NaN is null)."""
    labels, settings = evaluation.labels, evaluation.settings
    model = evaluation.graded["model"]
    points = {name: _operating_points(way, evaluation) for name, way in evaluation.graded.items()}
    scores = {
        name: score_intervals(labels, way.probabilities, evaluation.bootstrap, settings.bins)
        for name, way in evaluation.graded.items()
    }
    baselines = {
        name: {
            "how": way.how,
            "assumed": list(way.assumed),
            "metrics_at": "validation",
            **points[name]["validation"]["metrics"],
            **scores[name],
            "operating_points": points[name],
        }
        for name, way in evaluation.graded.items()
        if name != "model"
    }
    summary = {
        "schema": "noduscope.classification/1",
        "not_a_medical_device": True,
        "notice": NOT_A_MEDICAL_DEVICE,
        "n": len(labels),
        "patients": len(np.unique(evaluation.cases.patients[evaluation.tested])),
        "malignant": int(labels.sum()),
        "benign": int((~labels).sum()),
        "metrics_at": "given",
        "metrics": points["model"]["given"]["metrics"] | scores["model"],
        "confusion": points["model"]["given"]["confusion"],
        "operating_points": points["model"],
        "baselines": baselines,
        "delong": _comparisons(evaluation),
        "reliability": [
            asdict(b) for b in reliability(labels, model.probabilities, evaluation.bootstrap, settings.bins)
        ],
        "subgroups": _subgroups(evaluation),
        "intervals": f"95 %, percentiles of {settings.replicates} bootstrap replicates by patient",
        "settings": asdict(settings),
        "warnings": [asdict(w) for w in evaluation.warnings],
    }
    plain: dict[str, Any] = _plain(summary)
    return plain


def _operating_points(way: Graded, evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Metrics at the given threshold, at the chosen one and at fixed sensitivity."""
    labels, settings = evaluation.labels, evaluation.settings
    given = way.probabilities >= settings.threshold

    def counted(calls: Flags) -> Callable[[Floats], Confusion]:
        return lambda weights: Confusion.of(labels, calls, weights)

    fixed = Ranking.of(labels, way.probabilities).confusion_at_sensitivity(settings.sensitivity)
    ways = {
        "given": (counted(given), [settings.threshold], "the given threshold"),
        "validation": (
            counted(way.chosen_calls),
            list(way.thresholds),
            f"best {settings.choose_by.replace('_', ' ')} {evaluation.chosen_how}",
        ),
        f"sensitivity_{100 * settings.sensitivity:g}": (
            fixed,
            [threshold_at_sensitivity(labels, way.probabilities, settings.sensitivity)],
            f"sensitivity of at least {100 * settings.sensitivity:g} % on the evaluated cases themselves, "
            "found anew in each replicate",
        ),
    }
    points = {}
    for name, (confusion, thresholds, how) in ways.items():
        metrics, counts = call_intervals(confusion, evaluation.bootstrap)
        points[name] = {"thresholds": thresholds, "how": how, "metrics": metrics, "confusion": counts}
    return points


def _comparisons(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """The model's AUC against each baseline's: DeLong's test and the patient bootstrap."""
    labels = evaluation.labels
    model = evaluation.graded["model"].probabilities
    rivals = {name: way.probabilities for name, way in evaluation.graded.items() if name != "model"}
    if "size_only" in rivals and evaluation.cases.diameter_mm is not None:
        sizes = evaluation.cases.diameter_mm[evaluation.tested]
        # the size itself, which no fold can have reordered: often the stronger rival
        rivals["diameter"] = np.where(np.isnan(sizes), np.nanmedian(sizes), sizes)
    if min(labels.sum(), (~labels).sum()) < 2:
        return {}
    return {name: _comparison(labels, model, rival, evaluation.bootstrap) for name, rival in rivals.items()}


def _comparison(labels: Flags, model: Floats, rival: Floats, bootstrap: PatientBootstrap) -> dict[str, Any]:
    tested: DeLongTest = delong_test(labels, model, rival)
    ours, theirs = Ranking.of(labels, model), Ranking.of(labels, rival)
    by_patient = bootstrap.interval(lambda w: ours.auc(w) - theirs.auc(w))
    return {
        "auc_model": tested.first,
        "auc_baseline": tested.second,
        "difference": tested.difference,
        "z": tested.z,
        "p_value": tested.p_value,
        "difference_by_patient_bootstrap": by_patient,
    }


def _subgroups(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """The model's metrics at the given threshold by size and by type."""
    groups: dict[str, list[tuple[str, Flags]]] = {"size": [], "type": []}
    sizes = evaluation.cases.diameter_mm
    if sizes is not None:
        edges = (0.0, *evaluation.settings.size_edges_mm, math.inf)
        here = sizes[evaluation.tested]
        groups["size"] = [
            (_size_name(low, high), (here >= low) & (here < high)) for low, high in itertools.pairwise(edges)
        ]
        groups["size"].append(("unknown", np.isnan(here)))
    types = evaluation.cases.types[evaluation.tested]
    if np.any(types != ""):
        groups["type"] = [(kind or "unknown", types == kind) for kind in ("solid", "part-solid", "non-solid", "")]
    return {
        by: [_subgroup(name, flags, evaluation) for name, flags in sets if flags.any()] for by, sets in groups.items()
    }


def _size_name(low: float, high: float) -> str:
    if low == 0:
        return f"<{high:g} mm"
    return f">={low:g} mm" if math.isinf(high) else f"{low:g}-<{high:g} mm"


def _subgroup(name: str, flags: Flags, evaluation: Evaluation) -> dict[str, Any]:
    labels = evaluation.labels[flags]
    probabilities = evaluation.graded["model"].probabilities[flags]
    bootstrap = evaluation.bootstrap.of(flags)
    calls = probabilities >= evaluation.settings.threshold
    metrics, counts = call_intervals(lambda w: Confusion.of(labels, calls, w), bootstrap)
    return {
        "group": name,
        "n": len(labels),
        "patients": len(np.unique(evaluation.cases.patients[evaluation.tested][flags])),
        "malignant": int(labels.sum()),
        "metrics": metrics | score_intervals(labels, probabilities, bootstrap, evaluation.settings.bins),
        "confusion": counts,
    }


def _plain(value: Any) -> Any:
    """JSON values with six significant digits; NaN and infinity become null."""
    if isinstance(value, Interval):
        return _plain({"value": value.value, "low": value.low, "high": value.high})
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
