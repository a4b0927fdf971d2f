"""Tables of known lesions: a data folder's own, the reviewed findings, LUNA16's.

``scans/nodules.csv`` of a data folder: ``scan,coordX,coordY,coordZ,diameter_mm,kind`` (LPS mm); ``kind`` is
``reference`` or ``other``: other counts neither way. A column ``seriesuid`` links a scan to LUNA16's table of excluded
findings, ``luna16/annotations_excluded.csv`` beside ``scans/``: nodules that only some of the LIDC's readers marked,
those below 3 mm, and what they called no nodule.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from noduscope.errors import InputRefused
from noduscope.scan import Triple

ANNOTATIONS, EXCLUDED = "annotations.csv", "annotations_excluded.csv"
PLACE = ("coordX", "coordY", "coordZ")
_UNSIZED_MM = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class KnownLesion:
    """A lesion in world coordinates, as a table of known lesions has it."""

    position_xyz_mm: Triple
    diameter_mm: float
    counts: bool


def lesions_beside(scans: Path) -> dict[str, list[KnownLesion]]:
    """What is known of the scans in a folder, by name: its table, the reviewed findings, LUNA16's excluded ones.

    Raises
    ------
    InputRefused
        When ``nodules.csv`` is missing, or LUNA16's table is there and cannot be read.
    """
    table, luna16 = scans / "nodules.csv", scans.parent / "luna16" / EXCLUDED
    known = read_lesions(table)
    for name, found in reviewed_findings().items():
        known.setdefault(name, []).extend(found)
    if luna16.exists():
        excluded = read_annotations(luna16, counts=False)
        for name, uid in dict.fromkeys((r["scan"], r.get("seriesuid")) for r in table_rows(table, ("scan",))):
            known[name].extend(excluded.get(uid or "", []))
    return known


def read_lesions(path: Path) -> dict[str, list[KnownLesion]]:
    """Known lesions per scan of a ``nodules.csv``."""
    if not path.exists():
        raise InputRefused(f"{path.parent} holds no {path.name}: the table of known lesions is needed")
    known: dict[str, list[KnownLesion]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            lesion = KnownLesion(*_place_and_size(row), row["kind"] == "reference")
            known.setdefault(row["scan"], []).append(lesion)
    return known


def reviewed_findings() -> dict[str, list[KnownLesion]]:
    """Places in the public scans that look like nodules and have no reference: neither reference nor negative.

    ``reviewed_findings.csv`` beside this module holds them, one by one with a reason. Only the LIDC's scans
    were read for all nodules; to call such a place a false positive would teach and score the opposite of what is seen.
    """
    known: dict[str, list[KnownLesion]] = {}
    text = (Path(__file__).parent / "reviewed_findings.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        known.setdefault(row["scan"], []).append(KnownLesion(*_place_and_size(row), counts=False))
    return known


def read_annotations(path: Path, *, counts: bool) -> dict[str, list[KnownLesion]]:
    """Findings per series of a table with LUNA16's columns; 10 mm where it gives no size (its rule for -1).

    Raises
    ------
    InputRefused
        For a file that cannot be read, a missing column or a cell that is no number.
    """
    known: dict[str, list[KnownLesion]] = {}
    for number, row in enumerate(table_rows(path, ("seriesuid", *PLACE, "diameter_mm")), start=2):
        try:
            place, diameter = _place_and_size(row)
        except ValueError as error:
            raise InputRefused(f"{path}, row {number}: {error}; a number is expected") from error
        lesion = KnownLesion(place, diameter if diameter > 0 else _UNSIZED_MM, counts)
        known.setdefault(row["seriesuid"], []).append(lesion)
    return known


def _place_and_size(row: dict[str, str]) -> tuple[Triple, float]:
    """LPS place and diameter, mm, of a table's row."""
    x, y, z, diameter = (float(row[c]) for c in (*PLACE, "diameter_mm"))
    return (x, y, z), diameter


def table_rows(path: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV that must have these columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise InputRefused(f"{path} has no column {', '.join(sorted(missing))}; LUNA16's columns are expected")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path} cannot be read as a CSV table: {error}") from error
