"""Which marks hit which nodules, by the rules of the LUNA16 challenge.

The rules are those of the challenge's own evaluation script (Setio et al., Medical Image Analysis 42,
2017, doi:10.1016/j.media.2017.06.015, and the script ``noduleCADEvaluationLUNA16.py`` handed out with
the data):

1. Only scans on the list count. A listed scan without marks counts as a scan without marks.
2. Of each scan at most `max_marks` marks count: those strictly more probable than the next one. Marks
   tied with that one all drop, so fewer may be left.
3. A mark hits a finding when it lies strictly nearer to its centre than its radius. A finding of
   negative diameter (unknown size) has a radius of 5 mm.
4. A nodule is found when at least one mark hits it, and counts with its most probable mark. The other
   hits are double detections, neither right nor wrong. A mark inside two nodules finds both.
5. A mark that hits no nodule but an excluded finding is ignored.
6. Every other mark is a false positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise, repeat

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.scan import Points

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

UNKNOWN_DIAMETER_MM = 10.0
"""Diameter that a finding of negative diameter gets."""


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """What a detector marked.

    Parameters
    ----------
    series : the scan of each mark, m ids.
    position_xyz_mm : shape (m, 3), LPS mm.
    probability : shape (m,); any finite score whose order is meant.

    Raises
    ------
    InputRefused
        For arrays that do not fit each other or hold a NaN or an infinity.
    """

    series: tuple[str, ...]
    position_xyz_mm: Points
    probability: Floats

    def __post_init__(self) -> None:
        """Refuse what cannot be ranked or placed."""
        _check_rows("marks", len(self.series), self.position_xyz_mm, self.probability)

    def __len__(self) -> int:
        return len(self.series)


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What the readers marked: the nodules to find, or the findings that count neither way.

    Parameters
    ----------
    series : the scan of each finding, f ids.
    position_xyz_mm : shape (f, 3), LPS mm.
    diameter_mm : shape (f,); negative where the readers gave no size.

    Raises
    ------
    InputRefused
        For arrays that do not fit each other or hold a NaN or an infinity.
    """

    series: tuple[str, ...]
    position_xyz_mm: Points
    diameter_mm: Floats

    def __post_init__(self) -> None:
        """Refuse what cannot be placed."""
        _check_rows("findings", len(self.series), self.position_xyz_mm, self.diameter_mm)

    def __len__(self) -> int:
        return len(self.series)

    @property
    def radius_mm(self) -> Floats:
        """Radius within which a mark hits, shape (f,)."""
        return np.where(self.diameter_mm < 0, UNKNOWN_DIAMETER_MM, self.diameter_mm) / 2

    @classmethod
    def none(cls) -> Findings:
        """No findings at all."""
        return cls((), np.empty((0, 3)), np.empty(0))


class MarkState(IntEnum):
    """What became of a mark."""

    UNLISTED = 0
    CUT = 1
    TRUE_POSITIVE = 2
    DOUBLE = 3
    IGNORED = 4
    FALSE_POSITIVE = 5


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each thing happened; the first eight as LUNA16's script counts them."""

    scans: int
    nodules: int
    candidates: int
    """Marks left after the cut."""
    true_positives: int
    """Nodules found."""
    false_positives: int
    false_negatives: int
    """Nodules missed."""
    ignored_excluded: int
    """Marks on excluded findings."""
    ignored_double: int
    """Over all found nodules, the hits beyond the first."""
    cut: int
    """Marks beyond the limit per scan."""
    unlisted: int
    """Marks in scans that are not on the list."""
    in_two_nodules: int
    """Marks inside more than one nodule."""


@dataclass(frozen=True, slots=True, eq=False)
class Matching:
    """Every mark and every nodule with its fate; rows are those of the inputs.

    Parameters
    ----------
    series : the listed scans, each once, in ascending order.
    mark_scan : index into `series` of each mark, -1 where it is not listed.
    mark_state : `MarkState` of each mark.
    nodule_scan : index into `series` of each nodule, -1 where it is not listed (it does not count).
    nodule_mark : row of the mark that each nodule counts with, -1 for a missed one.
    """

    marks: Marks
    nodules: Findings
    series: tuple[str, ...]
    mark_scan: Indices
    mark_state: NDArray[np.int8]
    nodule_scan: Indices
    nodule_mark: Indices
    counts: Counts

    def rows(self, state: MarkState) -> Indices:
        """Rows of the marks in a state."""
        return np.flatnonzero(self.mark_state == state)


def match(marks: Marks, nodules: Findings, excluded: Findings, series: Sequence[str], max_marks: int = 100) -> Matching:
    """Match marks with nodules by LUNA16's rules (see the module's text).

    Parameters
    ----------
    marks, nodules, excluded : rows of any scans in any order.
    series : ids of the scans that count; an id given twice counts once.
    max_marks : most marks that count per scan; 0 for no limit.

    Examples
    --------
    >>> marks = Marks(("a", "a"), np.array([[0.0, 0, 0], [9, 0, 0]]), np.array([0.9, 0.4]))
    >>> nodules = Findings(("a",), np.array([[1.0, 0, 0]]), np.array([6.0]))
    >>> match(marks, nodules, Findings.none(), ["a"]).counts.true_positives
    1
    """
    # sorted, so that no result (the bootstrap's draws least of all) hangs on the order of the list
    listed = tuple(sorted(set(series)))
    index = {uid: i for i, uid in enumerate(listed)}
    mark_scan = _scan_indices(marks.series, index)
    nodule_scan = _scan_indices(nodules.series, index)
    excluded_scan = _scan_indices(excluded.series, index)

    state = np.full(len(marks), MarkState.UNLISTED, dtype=np.int8)
    nodule_mark = np.full(len(nodules), -1, dtype=np.int64)
    doubles = shared = 0
    nodule_radius_mm, excluded_radius_mm = nodules.radius_mm, excluded.radius_mm
    rows_of = (_rows_by_scan(s, len(listed)) for s in (mark_scan, nodule_scan, excluded_scan))
    for mark_rows, nodule_rows, excluded_rows in zip(*rows_of, strict=True):
        state[mark_rows] = MarkState.CUT
        kept = mark_rows[_within_limit(marks.probability[mark_rows], max_marks)]
        state[kept] = MarkState.FALSE_POSITIVE
        place = marks.position_xyz_mm[kept]
        aside = _hits(place, excluded.position_xyz_mm[excluded_rows], excluded_radius_mm[excluded_rows])
        state[kept[aside.any(axis=0)]] = MarkState.IGNORED
        hits = _hits(place, nodules.position_xyz_mm[nodule_rows], nodule_radius_mm[nodule_rows])
        state[kept[hits.any(axis=0)]] = MarkState.DOUBLE
        shared += int(np.count_nonzero(hits.sum(axis=0) > 1))
        for nodule, hit in zip(nodule_rows, hits, strict=True):
            if hit.any():
                nodule_mark[nodule] = _best(marks, kept[hit], nodules.position_xyz_mm[nodule])
                doubles += int(np.count_nonzero(hit)) - 1
    state[nodule_mark[nodule_mark >= 0]] = MarkState.TRUE_POSITIVE

    counts = _count(state, nodule_scan, nodule_mark, (len(listed), doubles, shared))
    return Matching(marks, nodules, listed, mark_scan, state, nodule_scan, nodule_mark, counts)


def _count(
    state: NDArray[np.int8], nodule_scan: Indices, nodule_mark: Indices, tallied: tuple[int, int, int]
) -> Counts:
    """All counts, from the fates of marks and nodules and the tallies of scans, doubles and shared marks."""
    scans, doubles, shared = tallied
    found = int(np.count_nonzero(nodule_mark >= 0))
    counted = int(np.count_nonzero(nodule_scan >= 0))
    of_state = [int(n) for n in np.bincount(state, minlength=len(MarkState))]
    return Counts(
        scans=scans,
        nodules=counted,
        candidates=sum(of_state) - of_state[MarkState.UNLISTED] - of_state[MarkState.CUT],
        true_positives=found,
        false_positives=of_state[MarkState.FALSE_POSITIVE],
        false_negatives=counted - found,
        ignored_excluded=of_state[MarkState.IGNORED],
        ignored_double=doubles,
        cut=of_state[MarkState.CUT],
        unlisted=of_state[MarkState.UNLISTED],
        in_two_nodules=shared,
    )


def _check_rows(what: str, rows: int, position: Points, value: Floats) -> None:
    if position.shape != (rows, 3) or value.shape != (rows,):
        raise InputRefused(
            f"{what} need one id, one (x, y, z) and one value a row; got {rows} ids, "
            f"positions of shape {position.shape} and values of shape {value.shape}"
        )
    bad = np.flatnonzero(~(np.isfinite(position).all(axis=1) & np.isfinite(value)))
    if len(bad):
        raise InputRefused(f"{what} must be finite numbers; row {int(bad[0]) + 1} holds a NaN or an infinity")


def _scan_indices(series: Sequence[str], index: dict[str, int]) -> Indices:
    return np.fromiter(map(index.get, series, repeat(-1)), dtype=np.int64, count=len(series))


def _rows_by_scan(scan: Indices, scans: int) -> list[Indices]:
    """For each scan the rows that belong to it, in their order."""
    order = np.argsort(scan, kind="stable")
    bounds = np.searchsorted(scan[order], np.arange(scans + 1))
    return [order[a:b] for a, b in pairwise(bounds)]


def _within_limit(probability: Floats, max_marks: int) -> NDArray[np.bool_]:
    """Which marks of one scan count."""
    if max_marks <= 0 or len(probability) <= max_marks:
        return np.ones(len(probability), dtype=bool)
    next_one = np.sort(probability)[::-1][max_marks]
    return np.asarray(probability > next_one)


def _hits(mark_xyz_mm: Points, finding_xyz_mm: Points, radius_mm: Floats) -> NDArray[np.bool_]:
    """Whether each mark (columns) hits each finding (rows)."""
    x, y, z = (finding_xyz_mm[:, axis, None] - mark_xyz_mm[None, :, axis] for axis in range(3))
    # summed in this order and compared as squares: a mark on the very edge must fall as the script lets it
    return np.asarray(x * x + y * y + z * z < (radius_mm * radius_mm)[:, None])


def _best(marks: Marks, rows: Indices, centre_xyz_mm: Floats) -> int:
    """The most probable mark; among equals the nearest, then by place, so that row order is no matter."""
    if len(rows) == 1:
        return int(rows[0])
    position = marks.position_xyz_mm[rows]
    distance = np.sum((position - centre_xyz_mm) ** 2, axis=1)
    order = np.lexsort((*position.T, distance, -marks.probability[rows]))
    return int(rows[order[0]])
