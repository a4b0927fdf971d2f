"""What a model must beat on the same cases: the majority class, the nodule's size, the Brock model.

Whatever is fitted or chosen (the size model's weights, every threshold) comes from other patients
than those it is judged on: the validation part when the table has one, else cross-validation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from noduscope.errors import InputRefused
from noduscope.evaluate.grades_tables import EvaluationWarning, GradeCases, number, per_row, yes_or_no
from noduscope.evaluate.scores import Flags, Floats, best_threshold
from noduscope.guidelines import BrockInputs, brock_probability

Indices: TypeAlias = NDArray[np.intp]
Scorer: TypeAlias = Callable[[Indices, Indices], Floats]
"""Probabilities of the second cases by a score fitted, if it is fitted at all, on the first."""


@dataclass(frozen=True, eq=False)
class Selection:
    """From which cases something is chosen and to which it is applied.

    Parameters
    ----------
    pairs : (chosen on, applied to); the second parts together are the evaluated cases.
    how : the same in words.
    """

    pairs: tuple[tuple[Indices, Indices], ...]
    how: str


@dataclass(frozen=True, eq=False)
class Graded:
    """One way to grade the evaluated cases.

    Parameters
    ----------
    how : what it is, in a sentence.
    probabilities, chosen_calls : per evaluated case; the calls are at the chosen thresholds.
    thresholds : the thresholds chosen, one per pair of the selection.
    assumed : what the tables do not say and was assumed, with the value.
    """

    how: str
    probabilities: Floats
    chosen_calls: Flags
    thresholds: tuple[float, ...]
    assumed: tuple[str, ...] = ()


def select(cases: GradeCases, folds: int, seed: int) -> tuple[Selection, tuple[EvaluationWarning, ...]]:
    """Decide how thresholds and fits are chosen for these cases."""
    validation = np.flatnonzero(cases.split == "validation")
    tested = np.flatnonzero(cases.split == "test")
    if len(tested) == 0:
        raise InputRefused("every case belongs to the validation part; expected cases of split 'test' to evaluate")
    if len(validation):
        return _by_validation_part(cases, validation, tested)
    warnings: tuple[EvaluationWarning, ...] = ()
    if cases.folds is not None:
        pairs = _leave_out(cases.folds)
        if _usable(cases, pairs):
            return Selection(pairs, f"on the other {len(pairs) - 1} folds of the table"), ()
        warnings = (
            EvaluationWarning(
                "folds-not-by-patient",
                "the column fold puts a patient into several folds or leaves one class out: "
                "thresholds were chosen by this evaluation's own folds, by patient",
            ),
        )
    made = _patient_folds(cases, folds, seed)
    if made is not None and _usable(cases, _leave_out(made)):
        pairs = _leave_out(made)
        return Selection(pairs, f"by {len(pairs)}-fold cross-validation by patient"), warnings
    everyone = np.arange(len(cases.labels))
    too_few = EvaluationWarning(
        "too-few-patients",
        "too few patients of either class to choose a threshold on other patients: "
        "it was chosen on the evaluated cases and flatters every grade",
    )
    return Selection(((everyone, everyone),), "on the evaluated cases themselves (optimistic)"), (*warnings, too_few)


def _by_validation_part(
    cases: GradeCases, validation: Indices, tested: Indices
) -> tuple[Selection, tuple[EvaluationWarning, ...]]:
    labels = cases.labels[validation]
    if labels.all() or not labels.any():
        raise InputRefused("the validation part holds one class only: no threshold can be chosen on it")
    shared = np.intersect1d(cases.patients[validation], cases.patients[tested])
    warnings: tuple[EvaluationWarning, ...] = ()
    if len(shared):
        warnings = (
            EvaluationWarning(
                "patient-in-two-parts", f"{len(shared)} patients have cases in both the validation and the test part"
            ),
        )
    return Selection(((validation, tested),), f"on the validation part ({len(validation)} cases)"), warnings


def _leave_out(folds: NDArray[np.str_]) -> tuple[tuple[Indices, Indices], ...]:
    return tuple((np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds))


def _usable(cases: GradeCases, pairs: tuple[tuple[Indices, Indices], ...]) -> bool:
    """Whether no patient is on both sides and each choosing side has both classes."""
    return all(
        len(np.intersect1d(cases.patients[fit], cases.patients[out])) == 0
        and bool(cases.labels[fit].any())
        and not cases.labels[fit].all()
        for fit, out in pairs
    )


def _patient_folds(cases: GradeCases, folds: int, seed: int) -> NDArray[np.str_] | None:
    """Folds by patient with like shares of malignant cases; None with too few patients of a class."""
    of_class = [len(np.unique(cases.patients[cases.labels == label])) for label in (False, True)]
    count = min(folds, *of_class)
    if count < 2:
        return None
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    made = np.zeros(len(cases.labels), dtype=np.intp)
    for fold, (_, out) in enumerate(splitter.split(np.zeros((len(made), 1)), cases.labels, cases.patients)):
        made[out] = fold
    return made.astype(np.str_)


def grade(cases: GradeCases, selection: Selection, scorer: Scorer, metric: str, how: str) -> Graded:
    """Score every evaluated case and call it at the threshold chosen without its patient."""
    n = len(cases.labels)
    probabilities, calls, thresholds = np.full(n, np.nan), np.zeros(n, dtype=bool), []
    for fit, out in selection.pairs:
        threshold = best_threshold(cases.labels[fit], scorer(fit, fit), metric)
        probabilities[out] = scorer(fit, out)
        calls[out] = probabilities[out] >= threshold
        thresholds.append(threshold)
    tested = np.flatnonzero(cases.split == "test")
    return Graded(how, probabilities[tested], calls[tested], tuple(thresholds))


def majority(cases: GradeCases, selection: Selection) -> Graded:
    """Every case called as most of the others are, with one probability: the share malignant.

    The share is that of all cases chosen on. One share per fold would rank the folds backwards (a fold
    with more malignant cases leaves fewer in the others) and give an AUC below a half.
    """
    tested = np.flatnonzero(cases.split == "test")
    chosen_on = np.unique(np.concatenate([fit for fit, _ in selection.pairs]))
    share = float(cases.labels[chosen_on].mean())
    calls = np.full(len(tested), share >= 0.5)
    return Graded("the class of the majority for every case", np.full(len(tested), share), calls, (0.5,))


def size_scorer(diameter_mm: Floats, labels: Flags) -> Scorer:
    """Logistic regression on the logarithm of the diameter; unknown sizes take the fitted cases' median."""

    def score(fit: Indices, out: Indices) -> Floats:
        known = diameter_mm[fit][~np.isnan(diameter_mm[fit])]
        middle = float(np.median(known))

        def feature(at: Indices) -> Floats:
            size = diameter_mm[at]
            return np.log(np.where(np.isnan(size), middle, size) / middle)[:, None]

        # so weak a penalty that it only keeps separable cases from running off to infinity
        model = LogisticRegression(C=1e4).fit(feature(fit), labels[fit])
        probabilities: Floats = model.predict_proba(feature(out))[:, 1]
        return probabilities

    return score


def brock_scores(cases: GradeCases) -> tuple[Floats, tuple[str, ...]]:
    """The Brock probability of every case, and what had to be assumed.

    An absent input takes the model's own reference: 62 years, no family history, no emphysema, not in
    an upper lobe, solid; the sex is taken as male and the count as the patient's cases in the table.
    Without spiculation anywhere the model without it is used.

    Raises
    ------
    InputRefused
        For a cell that cannot be read.
    """
    if cases.diameter_mm is None:
        raise InputRefused("the Brock model needs each nodule's diameter")
    rows = cases.rows
    _, inverse, size_of = np.unique(cases.patients, return_inverse=True, return_counts=True)
    read: dict[str, list[Any]] = {
        "age": per_row(rows, "age", _positive),
        "sex": per_row(rows, "sex", _is_female),
        "family_history": per_row(rows, "family_history", yes_or_no),
        "emphysema": per_row(rows, "emphysema", yes_or_no),
        "upper_lobe": per_row(rows, "upper_lobe", yes_or_no),
        "nodule_count": per_row(rows, "nodule_count", _positive),
        "spiculation": per_row(rows, "spiculation", yes_or_no),
        "type": [kind or None for kind in cases.types],
        "size": [None if np.isnan(d) else float(d) for d in cases.diameter_mm],
    }
    spiculated = any(value is not None for value in read["spiculation"])
    middle = float(np.nanmedian(cases.diameter_mm))
    scores = []
    for i in range(len(rows)):
        inputs = BrockInputs(
            diameter_mm=_or(read["size"][i], middle),
            age_years=_or(read["age"][i], 62.0),
            female=_or(read["sex"][i], False),
            family_history=_or(read["family_history"][i], False),
            emphysema=_or(read["emphysema"][i], False),
            nodule_type=_or(read["type"][i], "solid"),
            upper_lobe=_or(read["upper_lobe"][i], False),
            nodule_count=int(_or(read["nodule_count"][i], float(size_of[inverse[i]]))),
            spiculation=_or(read["spiculation"][i], False) if spiculated else None,
        )
        scores.append(brock_probability(inputs))
    return np.array(scores), _assumptions(read, len(rows), middle, spiculated)


def _assumptions(read: dict[str, list[Any]], n: int, middle: float, spiculated: bool) -> tuple[str, ...]:
    values = {
        "age": "62 years",
        "sex": "male",
        "family_history": "none",
        "emphysema": "none",
        "upper_lobe": "no",
        "nodule_count": "the patient's cases in the table",
        "spiculation": "none" if spiculated else "not known (the model without it)",
        "type": "solid",
        "size": f"{middle:.1f} mm (the median)",
    }
    said = []
    for name, value in values.items():
        missing = sum(cell is None for cell in read[name])
        if missing:
            said.append(f"{name}: {value}" + ("" if missing == n else f" for {missing} of {n}"))
    return tuple(said)


def _or(value: Any, otherwise: Any) -> Any:
    """`value`, or `otherwise` where it is not known."""
    return otherwise if value is None else value


def _positive(text: str) -> float | None:
    if not text:
        return None
    value = number(text)
    if value is None or value <= 0:
        raise InputRefused(f"expected a number over 0; got {text!r}")
    return value


def _is_female(text: str) -> bool | None:
    if not text:
        return None
    word = text.lower()
    if word not in ("f", "female", "w", "m", "male"):
        raise InputRefused(f"expected F or M; got {text!r}")
    return word in ("f", "female", "w")
