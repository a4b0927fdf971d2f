"""``grade``: given places of one scan judged by the grader, which may be a few slices around a nodule."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noduscope.errors import InputRefused
from noduscope.files import replace_files
from noduscope.findings import NOT_A_MEDICAL_DEVICE, ModelUsed, Nodule
from noduscope.grading import Grader, load_grader
from noduscope.io.read import read_scan
from noduscope.predict import nodule_at, with_grade
from noduscope.report.tables import GRADE_COLUMNS, csv_text, grade_cells, input_facts, json_text
from noduscope.scan import Geometry, Scan, ScanWarning, Triple

SCHEMA = "noduscope.grades/1"
COORDINATES = ("coordX", "coordY", "coordZ")
_ANSWERS = ("probability", *GRADE_COLUMNS[:3], "diameter_mm", "volume_mm3", *GRADE_COLUMNS[3:], "warning")
_WHOLE_CHEST_ZYX_MM = (150.0, 200.0, 200.0)
"""What a scan of a chest measures at least."""


@dataclass(frozen=True, slots=True)
class PointTable:
    """A table of places.

    Parameters
    ----------
    positions_xyz_mm : LPS, in the order of the rows.
    columns : names of the columns that are no coordinates.
    cells : what stands in them, a row per place.
    """

    positions_xyz_mm: tuple[Triple, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class PointGrades:
    """What was said of each place.

    Parameters
    ----------
    nodules : one per row of the table, numbered from 1; None where there is no answer.
    remarks : one per row: why there is no answer, or what to know of it; else empty.
    """

    scan: Scan
    table: PointTable
    nodules: tuple[Nodule | None, ...]
    remarks: tuple[str, ...]
    model: ModelUsed
    warnings: tuple[ScanWarning, ...]

    @property
    def exit_status(self) -> int:
        """0 when every place has an answer, 4 when some have, 3 when none has."""
        answered = [n is not None for n in self.nodules]
        return 0 if all(answered) else 4 if any(answered) else InputRefused.exit_status

    def to_dict(self) -> dict[str, Any]:
        """``grades.json``, schema ``noduscope.grades/1``; a place's answer is written as in ``findings.json``."""
        return {
            "schema": SCHEMA,
            "not_a_medical_device": True,
            "notice": NOT_A_MEDICAL_DEVICE,
            "scan": input_facts(self.scan),
            "warnings": [{"code": w.code, "text": w.text} for w in self.warnings],
            "model": [{"name": self.model.name, "version": self.model.version, "sha256": self.model.sha256}],
            "points": [self._point(k) for k in range(len(self.nodules))],
        }

    def _point(self, k: int) -> dict[str, Any]:
        nodule, remark, table = self.nodules[k], self.remarks[k], self.table
        place = {"id": k + 1, "position_xyz_mm": list(table.positions_xyz_mm[k])}
        said = nodule.to_dict() if nodule else place
        given = dict(zip(table.columns, table.cells[k], strict=True))
        return {**said, **({"warning": remark} if remark else {}), **({"given": given} if given else {})}

    def to_csv(self) -> str:
        """``grades.csv``: the coordinates, the answers, then the other columns as they came.

        A column that is named like one of ours is called ``given_…``.
        """
        own = {*COORDINATES, *_ANSWERS}
        others = [f"given_{name}" if name in own else name for name in self.table.columns]
        places = zip(self.table.positions_xyz_mm, self.nodules, self.remarks, self.table.cells, strict=True)
        rows = ([*(f"{c:.3f}" for c in p), *_cells(n), remark, *cells] for p, n, remark, cells in places)
        return csv_text((*COORDINATES, *_ANSWERS, *others), rows)


def _cells(nodule: Nodule | None) -> list[str]:
    """The answers but for the remark."""
    if nodule is None:
        return [""] * (len(_ANSWERS) - 1)
    grade = grade_cells(nodule.grade)
    diameter = f"{nodule.diameter_mm.mean:.1f}" if nodule.diameter_mm else ""
    volume = f"{nodule.volume_mm3.value:.0f}" if nodule.volume_mm3 else ""
    return [f"{nodule.probability:.6f}", *grade[:3], diameter, volume, *grade[3:]]


def read_points(path: Path) -> PointTable:
    """A CSV file with the columns ``coordX,coordY,coordZ`` (LPS mm; capitals do not matter) and any others.

    Raises
    ------
    InputRefused
        For a file that cannot be read, lacks a column, or holds a coordinate that is no number: with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputRefused(f"{path} is no CSV file ({error})") from error
    header = [name.strip() for name in lines[0]] if lines else []
    lower = [name.lower() for name in header]
    wanted = [name.lower() for name in COORDINATES]
    if any(lower.count(name) != 1 for name in wanted):
        raise InputRefused(
            f"{path} needs each of the columns {', '.join(COORDINATES)} once; it has {', '.join(header) or 'none'}"
        )
    at = [lower.index(name) for name in wanted]
    others = [i for i in range(len(header)) if i not in at]
    positions, cells = [], []
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise InputRefused(f"{path}, row {number}: {len(line)} cells; the header has {len(header)}")
        positions.append(_position([line[i] for i in at], f"{path}, row {number}"))
        cells.append(tuple(line[i] for i in others))
    return PointTable(tuple(positions), tuple(header[i] for i in others), tuple(cells))


def _position(cells: Iterable[str], where: str) -> Triple:
    values = []
    for name, cell in zip(COORDINATES, cells, strict=True):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputRefused(f"{where}: {name} is {cell!r}; expected a number of mm")
        values.append(value)
    x, y, z = values
    return (x, y, z)


def grade_points(scan: Scan, table: PointTable, grader: Grader) -> PointGrades:
    """Judge the places of a table; one that lies outside the scan gets a remark instead of an answer."""
    answers = [_answer(k, scan, p, grader) for k, p in enumerate(table.positions_xyz_mm, start=1)]
    return PointGrades(
        scan=scan,
        table=table,
        nodules=tuple(nodule for nodule, _ in answers),
        remarks=tuple(remark for _, remark in answers),
        model=grader.used,
        warnings=(*scan.warnings, *_cropped(scan), *_several_series(table)),
    )


def _answer(number: int, scan: Scan, position: Triple, grader: Grader) -> tuple[Nodule | None, str]:
    if not scan.geometry.contains(position):
        return None, f"outside the scan, which reaches {_reach(scan.geometry)}"
    try:
        graded = grader.grade(scan, position, explain=False)
    except InputRefused as error:
        return None, str(error)
    nodule = with_grade(nodule_at(number, scan, position, graded.probability), graded)
    return nodule, _remark(nodule, scan.geometry)


def _remark(nodule: Nodule, geometry: Geometry) -> str:
    """What to know of an answer."""
    if nodule.mask is None:
        return "nothing to outline here"
    ends = zip(nodule.mask.box, geometry.shape_zyx, strict=True)
    cut = any(part.start == 0 or part.stop == n for part, n in ends)
    return "the outline reaches the end of the volume: the nodule may go on beyond it" if cut else ""


def _reach(geometry: Geometry) -> str:
    """``x -180 to 179, y … mm (LPS)``."""
    top = np.array(geometry.shape_zyx) - 0.5
    corners = geometry.to_world([[(-0.5, t)[(c >> a) & 1] for a, t in enumerate(top)] for c in range(8)])
    parts = zip("xyz", corners.min(axis=0), corners.max(axis=0), strict=True)
    return ", ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in parts) + " mm (LPS)"


def _cropped(scan: Scan) -> tuple[ScanWarning, ...]:
    extent = scan.canonical().geometry.extent_zyx_mm
    if all(have >= least for have, least in zip(extent, _WHOLE_CHEST_ZYX_MM, strict=True)):
        return ()
    size = " × ".join(f"{mm:.0f}" for mm in extent[::-1])
    text = f"The volume measures {size} mm: a part of a chest. What lies beyond its ends was not seen."
    return (ScanWarning("cropped-volume", text),)


def _several_series(table: PointTable) -> tuple[ScanWarning, ...]:
    """Coordinates of another scan look like any others: a table over several scans is told."""
    names = [name.lower().replace("_", "") for name in table.columns]
    at = [i for i, name in enumerate(names) if name in ("seriesuid", "seriesinstanceuid")]
    if not at or len({row[at[0]] for row in table.cells}) < 2:
        return ()
    text = "The points name several series; all were graded in this scan. Keep only the rows that belong to it."
    return (ScanWarning("several-series", text),)


def run_grade(
    path: Path, points: Path, out: Path, *, series_uid: str | None = None, model: str = "grader"
) -> PointGrades:
    """Read a scan and a table, judge, and write ``grades.csv`` and ``grades.json`` into a folder: both, or none.

    Raises
    ------
    InputRefused
        See `read_points` and `read_scan`, or when the folder cannot be written.
    ModelError
        When there is no such grader.
    """
    table = read_points(points)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_grader, model)  # compiles while the scan is read
        scan = read_scan(path, series_uid=series_uid)
        grades = grade_points(scan, table, loading.result())
    texts = {"grades.csv": grades.to_csv(), "grades.json": json_text(grades.to_dict())}
    replace_files(out, {name: text.encode("utf-8") for name, text in texts.items()})
    return grades
