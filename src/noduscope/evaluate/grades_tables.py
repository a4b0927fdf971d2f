"""Reading predictions and labels, and joining them case by case.

The columns are described in ``docs/reference/evaluate-grades.md``. What cannot be evaluated honestly
is refused with the row that is at fault; what only limits the answer becomes a coded warning.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.evaluate.scores import Flags, Floats

_SPLITS = {"": "test", "test": "test", "validation": "validation", "val": "validation", "train": "train"}
_TYPES = {
    "": "",
    "solid": "solid",
    "part-solid": "part-solid",
    "partsolid": "part-solid",
    "subsolid": "part-solid",
    "mixed": "part-solid",
    "non-solid": "non-solid",
    "nonsolid": "non-solid",
    "ground-glass": "non-solid",
    "ggo": "non-solid",
    "ggn": "non-solid",
}
_YES_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class EvaluationWarning:
    """Something that limits what the figures mean; ``code`` is stable, ``text`` is for people."""

    code: str
    text: str


Row = dict[str, str]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class GradeCases:
    """The cases that have both a prediction and a label, in the order of the predictions.

    Parameters
    ----------
    ids : each case's id, as written.
    patients : str ``(n,)``.
    labels : bool ``(n,)``, True for malignant.
    probabilities : float ``(n,)``, 0 to 1.
    split : ``test`` or ``validation`` per case.
    folds : the fold named for each case, or None when the tables name none.
    diameter_mm : float ``(n,)``, NaN where unknown; None when no table has the size column.
    types : ``solid``, ``part-solid``, ``non-solid`` or an empty string per case.
    rows : each case's label row, for the Brock model's inputs.
    """

    ids: tuple[str, ...]
    patients: NDArray[np.str_]
    labels: Flags
    probabilities: Floats
    split: NDArray[np.str_]
    folds: NDArray[np.str_] | None
    diameter_mm: Floats | None
    types: NDArray[np.str_]
    rows: tuple[Row, ...]


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, names in lower case, with ``#`` holding the line number.

    Raises
    ------
    InputRefused
        For a file that cannot be read as CSV text, or that has no rows.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            names = [(name or "").strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [_clean(row, reader.line_num, path) for row in reader]
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path} is not a CSV text file: {error}") from error
    if not rows:
        raise InputRefused(f"{path} has no rows; expected a header line and one line per case")
    return rows


def _clean(row: dict[str, str | None], line: int, path: Path) -> Row:
    """A row without its surrounding blanks; a short or long row is refused."""
    if None in row or None in row.values():
        raise InputRefused(f"{path}, line {line}: another number of columns than the header has")
    return {name: (value or "").strip() for name, value in row.items()} | {"#": str(line)}


def join(predictions: Path, labels: Path, size_column: str) -> tuple[GradeCases, tuple[EvaluationWarning, ...]]:
    """Read both tables and join them by ``id``.

    Raises
    ------
    InputRefused
        For a missing column, an id that stands twice, a probability outside 0 to 1, a label that is
        neither 0 nor 1, a case without a patient, or no id in common.
    """
    predicted = _by_id(read_table(predictions), predictions, "probability")
    labelled = _by_id(read_table(labels), labels, "label")
    warnings = _mismatches(predicted, labelled)
    pairs = [(row, labelled[case]) for case, row in predicted.items() if case in labelled]
    merged = [
        label | {k: v for k, v in row.items() if k not in label or k in ("split", "fold")} for row, label in pairs
    ]
    split = [_choice(row.get("split", ""), _SPLITS, "split", row, predictions) for row in merged]
    kept = [i for i, part in enumerate(split) if part != "train"]
    if len(kept) < len(split):
        warnings.append(
            EvaluationWarning("train-rows-left-out", f"{len(split) - len(kept)} cases of split 'train' were not scored")
        )
    if not kept:
        raise InputRefused(f"{predictions}: every case belongs to the split 'train'; nothing is left to evaluate")
    merged, pairs = [merged[i] for i in kept], [pairs[i] for i in kept]
    cases = GradeCases(
        ids=tuple(row["id"] for row in merged),
        patients=_patients(merged, warnings),
        labels=np.array([_choice(row["label"], {"0": False, "1": True}, "label", row, labels) for _, row in pairs]),
        probabilities=np.array([_probability(row, predictions) for row, _ in pairs]),
        split=np.array([split[i] for i in kept]),
        folds=_folds(merged),
        diameter_mm=_diameters(merged, size_column, labels),
        types=np.array([_choice(row.get("type", "").lower(), _TYPES, "type", row, labels) for row in merged]),
        rows=tuple(merged),
    )
    return cases, tuple(warnings)


def _by_id(rows: list[Row], path: Path, needed: str) -> dict[str, Row]:
    """Rows by id; ids are text, so 056 and 56 are two cases."""
    missing = [name for name in ("id", needed) if name not in rows[0]]
    if missing:
        present = ", ".join(name for name in rows[0] if name != "#")
        raise InputRefused(f"{path} has no column {' or '.join(missing)}; it has {present}")
    by_id: dict[str, Row] = {}
    for row in rows:
        if not row["id"]:
            raise InputRefused(f"{path}, line {row['#']}: the id is empty")
        if row["id"] in by_id:
            raise InputRefused(f"{path}, line {row['#']}: the id {row['id']} stands twice; expected one row per case")
        by_id[row["id"]] = row
    return by_id


def _mismatches(predicted: dict[str, Row], labelled: dict[str, Row]) -> list[EvaluationWarning]:
    """Warn of cases in only one table; refuse when they have none in common."""
    unlabelled = [case for case in predicted if case not in labelled]
    unpredicted = [case for case in labelled if case not in predicted]
    plain = {_plain_id(case) for case in unpredicted}
    twins = [case for case in unlabelled if _plain_id(case) in plain]
    hint = f"; {len(twins)} differ only in how they are written, as {twins[0]}" if twins else ""
    if len(unlabelled) == len(predicted):
        raise InputRefused(f"no id is in both tables: predictions have {unlabelled[0]}, labels {unpredicted[0]}{hint}")
    warnings = []
    if unlabelled:
        warnings.append(
            EvaluationWarning("prediction-without-label", f"{len(unlabelled)} predicted cases have no label{hint}")
        )
    if unpredicted:
        warnings.append(
            EvaluationWarning(
                "label-without-prediction",
                f"{len(unpredicted)} labelled cases have no prediction and are not in any figure{hint}",
            )
        )
    return warnings


def _plain_id(case: str) -> str:
    """An id without what tools change about it: case, leading zeros, a trailing .0."""
    return case.lower().removesuffix(".0").lstrip("0")


def _choice(value: str, known: dict[str, T], column: str, row: Row, path: Path) -> T:
    """The meaning of a cell that can hold only a few words."""
    word = value.removesuffix(".0").replace("_", "-").replace(" ", "-").lower() if value else value
    if word not in known:
        options = ", ".join(k for k in known if k)
        raise InputRefused(f"{path}, case {row['id']}: {column} is {value!r}; expected one of {options}")
    return known[word]


def _probability(row: Row, path: Path) -> float:
    value = number(row["probability"])
    if value is None or not 0 <= value <= 1:
        raise InputRefused(
            f"{path}, line {row['#']}: the probability is {row['probability']!r}; expected a number from 0 to 1"
        )
    return value


def number(text: str) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def yes_or_no(text: str) -> bool | None:
    """What a yes/no cell says; None when it is empty.

    Raises
    ------
    InputRefused
        For anything else than 1/0, yes/no or true/false.
    """
    if not text:
        return None
    word = text.lower().removesuffix(".0")
    if word not in _YES_NO:
        raise InputRefused(f"expected 1 or 0, yes or no; got {text!r}")
    return _YES_NO[word]


def _patients(rows: list[Row], warnings: list[EvaluationWarning]) -> NDArray[np.str_]:
    """Each case's patient; without the column each case stands for a patient, with a warning."""
    if "patient_id" not in rows[0]:
        warnings.append(
            EvaluationWarning(
                "no-patient-id",
                "no column patient_id: each case counts as a patient, so the intervals are too narrow "
                "where patients have several nodules",
            )
        )
        return np.array([row["id"] for row in rows])
    for row in rows:
        if not row["patient_id"]:
            raise InputRefused(f"the case {row['id']} has no patient_id: intervals and folds need every case's patient")
    return np.array([row["patient_id"] for row in rows])


def _folds(rows: list[Row]) -> NDArray[np.str_] | None:
    folds = [row.get("fold", "") for row in rows]
    return np.array(folds) if all(folds) else None


def _diameters(rows: list[Row], column: str, path: Path) -> Floats | None:
    """Sizes in mm; empty, zero and negative cells are unknown."""
    name = column.lower()
    if name not in rows[0]:
        return None

    def size(row: Row) -> float:
        value = number(row[name]) if row[name] else math.nan
        if value is None and row[name].lower() != "nan":
            raise InputRefused(f"{path}, case {row['id']}: {column} is {row[name]!r}; expected millimetres or nothing")
        return value if value is not None and value > 0 else math.nan

    return np.array([size(row) for row in rows])


def per_row(rows: Iterable[Row], column: str, read: Callable[[str], T | None]) -> list[T | None]:
    """One column read cell by cell; an absent column is all None.

    Raises
    ------
    InputRefused
        For a cell that cannot be read, with its case and column.
    """
    found: list[T | None] = []
    for row in rows:
        try:
            found.append(read(row.get(column, "")))
        except InputRefused as error:
            raise InputRefused(f"case {row['id']}, column {column}: {error}") from error
    return found
