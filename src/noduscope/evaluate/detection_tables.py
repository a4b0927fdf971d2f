"""Read what an evaluation of detections is made from: marks, findings and the list of scans.

The columns are LUNA16's, found by name wherever they stand: ``seriesuid, coordX, coordY, coordZ`` and
``probability`` or ``diameter_mm``. Identifiers are taken as they are written, blanks and leading zeros
included, as the challenge's script takes them: which scans are meant is for the user to say.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np

from noduscope.errors import InputRefused
from noduscope.evaluate.matching import Findings, Floats, Marks

_PLACE = ("coordX", "coordY", "coordZ")
_ID_HEADERS = frozenset({"seriesuid", "series_uid", "seriesinstanceuid"})


@dataclass(frozen=True, slots=True, eq=False)
class DetectionTables:
    """All that an evaluation of detections needs.

    Parameters
    ----------
    excluded : findings that count neither way, or None when none were given.
    series : ids of the scans that count, as listed.
    patients : the patient of each scan, where the list names them: intervals are then by patient.
    """

    marks: Marks
    nodules: Findings
    excluded: Findings | None
    series: tuple[str, ...]
    patients: dict[str, str] | None = None


def read_tables(predictions: Path, annotations: Path, excluded: Path | None, seriesuids: Path) -> DetectionTables:
    """Read the four files; see `read_marks`, `read_findings`, `read_scan_list`."""
    series, patients = read_scan_list(seriesuids)
    return DetectionTables(
        marks=read_marks(predictions),
        nodules=read_findings(annotations),
        excluded=read_findings(excluded) if excluded is not None else None,
        series=series,
        patients=patients,
    )


def read_marks(path: Path) -> Marks:
    """Marks of a CSV with the columns ``seriesuid, coordX, coordY, coordZ, probability`` (others are left).

    Raises
    ------
    InputRefused
        For a file that cannot be read, a missing column, or a cell that is not a finite number.
    """
    series, numbers = _read_columns(path, "probability")
    return Marks(series, numbers[:, :3], numbers[:, 3])


def read_findings(path: Path) -> Findings:
    """Findings of a CSV with the columns ``seriesuid, coordX, coordY, coordZ, diameter_mm``.

    Raises
    ------
    InputRefused
        For a file that cannot be read, a missing column, or a cell that is not a finite number.
    """
    series, numbers = _read_columns(path, "diameter_mm")
    return Findings(series, numbers[:, :3], numbers[:, 3])


def read_scan_list(path: Path) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """Scan ids, in file order: one a line, or the ``seriesuid`` (else the first) column of a CSV; and their patients.

    Patients are those of a column ``patient`` beside ``seriesuid``; None without it.

    Raises
    ------
    InputRefused
        For a file that cannot be read or holds no id; where it names patients, for a scan without one or with two.
    """
    rows = _read_rows(path)
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((i for i, name in enumerate(names) if name in _ID_HEADERS), None)
    if column is not None:
        rows = rows[1:]
    rows = [row for row in rows if len(row) > (column or 0)]
    ids = tuple(row[column or 0] for row in rows)
    if not ids:
        raise InputRefused(f"{path} lists no scan: one seriesuid a line is expected, with or without a header")
    if column is None or "patient" not in names:
        return ids, None
    patient = names.index("patient")
    patients: dict[str, str] = {}
    for uid, row in zip(ids, rows, strict=True):
        name = row[patient].strip() if len(row) > patient else ""
        if not name or patients.setdefault(uid, name) != name:
            raise InputRefused(f"{path}: the scan {uid} needs one patient")
    return ids, patients


def _read_columns(path: Path, value: str) -> tuple[tuple[str, ...], Floats]:
    """Ids and an (n, 4) array of x, y, z and the value column."""
    rows = _read_rows(path)
    wanted = ("seriesuid", *_PLACE, value)
    if not rows:
        raise InputRefused(f"{path} is empty: a header with the columns {', '.join(wanted)} is expected")
    header = [name.strip().lower() for name in rows[0]]
    missing = [name for name in wanted if name.lower() not in header]
    if missing:
        raise InputRefused(
            f"{path} has no column {', '.join(missing)}; its first line reads {','.join(rows[0])!r}. "
            f"The columns {', '.join(wanted)} are expected, in any order"
        )
    pick = itemgetter(*(header.index(name.lower()) for name in wanted))
    try:
        columns = list(zip(*map(pick, rows[1:]), strict=True))
    except IndexError:
        short = next(i for i, row in enumerate(rows) if len(row) < len(header))
        raise InputRefused(f"{path}, line {_line(path, short)}: fewer cells than the header has columns") from None
    if not columns:
        return (), np.empty((0, 4))
    numbers = [_numbers(path, name, cells) for name, cells in zip(wanted[1:], columns[1:], strict=True)]
    return columns[0], np.column_stack(numbers)


def _numbers(path: Path, name: str, cells: tuple[str, ...]) -> Floats:
    """The cells of a column below its header as finite numbers."""
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        bad = next(i for i, text in enumerate(cells) if not _is_number(text))
        raise InputRefused(
            f"{path}, line {_line(path, bad + 1)}: {name} must be a number; got {cells[bad]!r}"
        ) from None
    infinite = np.flatnonzero(~np.isfinite(values))
    if len(infinite):
        first = int(infinite[0])
        more = f" (and in {len(infinite) - 1} more lines)" if len(infinite) > 1 else ""
        raise InputRefused(
            f"{path}, line {_line(path, first + 1)}: {name} must be a finite number; got {cells[first]!r}{more}. "
            "Leave such rows out, or mend the step that wrote them"
        )
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV that are not empty."""
    return [row for _, row in _numbered_rows(path)]


def _line(path: Path, row: int) -> int:
    """The line on which a row that is not empty ends. Only a refusal asks, so the file is read again for it."""
    return next(line for i, (line, _) in enumerate(_numbered_rows(path)) if i == row)


def _numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV that are not empty, each with its line number."""
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front, which would spoil the first column's name
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                if row and (row[0] or any(row)):
                    yield reader.line_num, row
    except OSError as error:
        raise InputRefused(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path} is not a CSV text file: {error}") from error
