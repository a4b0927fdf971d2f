"""What is odd about an evaluation's input: each check speaks up where the figures would mislead.

No check changes a figure. The codes are stable; the texts say what was seen and what to do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np

from noduscope.evaluate.detection_tables import DetectionTables
from noduscope.evaluate.froc import GRID_RATES, FrocCurve
from noduscope.evaluate.matching import Floats, Indices, MarkState, Matching, match

_FILE_SUFFIX = re.compile(r"(\.(mhd|mha|nii|nrrd|nhdr|raw|zraw|npy|npz|dcm|csv|gz|zip))+$")
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_WHOLE_AS_FLOAT = re.compile(r"\d+\.0+")
_AXES = "xyz"


@dataclass(frozen=True, slots=True)
class DetectionWarning:
    """Something that limits what the figures mean; ``code`` is stable, ``text`` is for people."""

    code: str
    text: str


def check_detections(
    tables: DetectionTables, matching: Matching, curve: FrocCurve, max_marks: int
) -> tuple[DetectionWarning, ...]:
    """All warnings about an input, worst first."""
    checks: tuple[Iterator[DetectionWarning], ...] = (
        _ids_in_another_format(tables),
        _placement(matching),
        _listing(tables, matching),
        _dilution(matching, curve),
        _too_good(tables, matching),
        _rows(tables, matching, max_marks),
    )
    return tuple(warning for check in checks for warning in check)


def plain_id(uid: str) -> str:
    """An id without what programs add or drop: blanks, quotes, folders, suffixes, leading zeros, case.

    Examples
    --------
    >>> plain_id(" 056"), plain_id("56.0"), plain_id("scans/56.mhd")
    ('56', '56', '56')
    """
    text = uid.strip().strip("'\"").strip().casefold().replace("\\", "/").rsplit("/", 1)[-1]
    text = _FILE_SUFFIX.sub("", text)
    if _WHOLE_AS_FLOAT.fullmatch(text):
        text = text.split(".", 1)[0]
    return _LEADING_ZEROS.sub("", text)


def _ids_in_another_format(tables: DetectionTables) -> Iterator[DetectionWarning]:
    listed = set(tables.series)
    by_plain = {plain_id(uid): uid for uid in tables.series}
    for what, ids in (
        ("predictions", tables.marks.series),
        ("annotations", tables.nodules.series),
        ("excluded findings", tables.excluded.series if tables.excluded else ()),
    ):
        rows = {uid: n for uid, n in Counter(ids).items() if uid not in listed and plain_id(uid) in by_plain}
        if rows:
            uid = min(rows)
            yield DetectionWarning(
                "ids-differ-in-format",
                f"{len(rows)} ids ({sum(rows.values())} rows) of the {what} name a listed scan in another format, "
                f"such as {uid!r} for {by_plain[plain_id(uid)]!r}; they were not counted. Write the ids alike",
            )


def _listing(tables: DetectionTables, matching: Matching) -> Iterator[DetectionWarning]:
    """Scans that are in one table and not in the other."""
    if tables.excluded is None:
        yield DetectionWarning(
            "no-excluded-findings",
            "no excluded findings were given, so marks on findings that LUNA16 counts neither way are false "
            "positives here; the figures are not comparable with LUNA16's",
        )
    if len(tables.series) > len(matching.series):
        more = len(tables.series) - len(matching.series)
        yield DetectionWarning(
            "scans-listed-twice",
            f"{more} lines of the scan list repeat a scan; each counts once (LUNA16's script counts it each time)",
        )
    unlisted = [tables.marks.series[row] for row in matching.rows(MarkState.UNLISTED)]
    if unlisted:
        yield DetectionWarning(
            "marks-on-unlisted-scans",
            f"{len(unlisted)} marks of {len(set(unlisted))} scans that are not on the list "
            f"({_some(unlisted)}) were not counted",
        )
    if matching.counts.nodules == 0:
        yield DetectionWarning("no-nodules", "no listed scan has a nodule to find: sensitivity is undefined (null)")
    bare = _scans_without_marks(matching)
    if len(bare):
        yield DetectionWarning(
            "scans-without-marks",
            f"{len(bare)} of {len(matching.series)} listed scans have no mark "
            f"({_some(matching.series[i] for i in bare)}); they count as analysed with nothing found",
        )


def _dilution(matching: Matching, curve: FrocCurve) -> Iterator[DetectionWarning]:
    """Whether scans without marks were more likely never analysed than found empty."""
    bare = _scans_without_marks(matching)
    marked = len(matching.series) - len(bare)
    if marked == 0 or len(bare) == 0:
        return
    listed = len(matching.series)
    marks_per_scan = float(np.count_nonzero(matching.mark_scan >= 0)) / marked
    # a detector that marks so many places leaves about this share of scans empty by chance (Poisson)
    if len(bare) / listed < max(0.05, 3 * np.exp(-marks_per_scan)):
        return
    nodules = np.bincount(matching.nodule_scan[matching.nodule_scan >= 0], minlength=listed)
    where = (
        "none of them has a nodule" if not nodules[bare].any() else f"{nodules[bare].sum()} nodules are missed there"
    )
    cpm = float(replace(curve, scans=marked).at(GRID_RATES).mean())
    yield DetectionWarning(
        "fp-axis-diluted",
        f"{len(bare)} of {listed} listed scans have no mark where the others have {marks_per_scan:.1f} on average "
        f"({where}). If they were never analysed, every false-positive rate is too low by a factor of "
        f"{listed / marked:.2f}: divided by the {marked} scans with marks, the interpolated CPM would be {cpm:.3f} "
        f"instead of {float(curve.at(GRID_RATES).mean()):.3f}. Take the scans that were not analysed off the list",
    )


def _placement(matching: Matching) -> Iterator[DetectionWarning]:
    """Whether the marks lie on the nodules after a flip or swap of axes, or look like voxel indices."""
    nodule, offset_from, place, radius = _pairs(matching)
    if len(nodule) == 0:
        return
    total = len(np.unique(nodule))

    def found(order: tuple[int, ...], signs: tuple[int, ...]) -> int:
        offset = place[:, order] * signs - offset_from
        return len(np.unique(nodule[np.sum(offset * offset, axis=1) < radius**2]))

    as_given = found((0, 1, 2), (1, 1, 1))
    if as_given >= 0.5 * total:
        return
    ways = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)][1:]
    hits = [found(*way) for way in ways]
    best = int(np.argmax(hits))
    if hits[best] >= max(0.2 * total, 1) and hits[best] >= 3 * max(as_given, float(np.median(hits))):
        yield DetectionWarning(
            "axes-flipped",
            f"as given, the marks hit {as_given} of {total} nodules; with {_describe(*ways[best])} they would hit "
            f"{hits[best]}. Positions must be LPS millimetres (x, y, z), as in DICOM and LUNA16",
        )
    elif place.min() >= 0 and offset_from[:, :2].min() < 0 and as_given < 0.25 * total:
        yield DetectionWarning(
            "voxel-coordinates",
            f"no mark has a negative coordinate though the nodules have, and {as_given} of {total} nodules are hit: "
            "these look like voxel indices. Positions must be LPS millimetres (x, y, z)",
        )


def _pairs(matching: Matching) -> tuple[Indices, Floats, Floats, Floats]:
    """All pairs of a listed nodule and a mark of its scan: nodule row, its place, the mark's place, radius."""
    marks = np.flatnonzero((matching.mark_state != MarkState.UNLISTED) & (matching.mark_state != MarkState.CUT))
    marks = marks[np.argsort(matching.mark_scan[marks], kind="stable")]
    scans = matching.mark_scan[marks]
    nodules = np.flatnonzero(matching.nodule_scan >= 0)
    first = np.searchsorted(scans, matching.nodule_scan[nodules])
    count = np.searchsorted(scans, matching.nodule_scan[nodules], side="right") - first
    nodule = np.repeat(nodules, count)
    nth = np.arange(len(nodule)) - np.repeat(np.cumsum(count) - count, count)
    mark = marks[np.repeat(first, count) + nth]
    table = matching.nodules
    return nodule, table.position_xyz_mm[nodule], matching.marks.position_xyz_mm[mark], table.radius_mm[nodule]


def _describe(order: tuple[int, ...], signs: tuple[int, ...]) -> str:
    """A change of axes in words."""
    parts = []
    if order != (0, 1, 2):
        parts.append(f"the columns read in the order {', '.join(_AXES[i] for i in order)}")
    flipped = [axis for axis, sign in zip(_AXES, signs, strict=True) if sign < 0]
    if flipped:
        ras = " (RAS instead of LPS)" if flipped == ["x", "y"] and len(parts) == 0 else ""
        parts.append(f"{' and '.join(flipped)} negated{ras}")
    return " and then ".join(parts)


def _too_good(tables: DetectionTables, matching: Matching) -> Iterator[DetectionWarning]:
    """Whether marks on excluded findings score below those on nothing at all.

    Excluded findings look like nodules: at least one reader marked most of them. A detector that has not
    seen the list scores them above its other false positives; LUNA16's organisers closed their ranking
    over submissions that scored them extremely low.
    """
    if tables.excluded is None:
        return
    if matching.counts.cut:
        # marks that were scored low on purpose are the first to be cut
        matching = match(tables.marks, tables.nodules, tables.excluded, tables.series, max_marks=0)
    aside = matching.marks.probability[matching.rows(MarkState.IGNORED)]
    false = np.sort(matching.marks.probability[matching.rows(MarkState.FALSE_POSITIVE)])
    if min(len(aside), len(false)) < 20:
        return
    below = np.searchsorted(false, aside, side="left") + np.searchsorted(false, aside, side="right")
    auc = float(below.mean() / (2 * len(false)))
    # Mann-Whitney: the standard error of the AUC when both kinds score alike
    error = float(np.sqrt((len(aside) + len(false) + 1) / (12 * len(aside) * len(false))))
    if auc < 0.4 and auc < 0.5 - 4 * error:
        yield DetectionWarning(
            "too-good-to-be-true",
            f"marks on excluded findings score lower than other false positives (a random one is the higher of the "
            f"two with probability {auc:.2f}; {len(aside)} against {len(false)} marks). Detectors do the opposite "
            "unless they have seen which findings are excluded",
        )


def _rows(tables: DetectionTables, matching: Matching, max_marks: int) -> Iterator[DetectionWarning]:
    """Rows that count, but perhaps not as meant."""
    counted = matching.mark_state != MarkState.UNLISTED
    again = _repeated(tables.marks.series, np.column_stack((tables.marks.position_xyz_mm, tables.marks.probability)))
    if again and counted.any():
        yield DetectionWarning("duplicate-marks", f"{again} rows of the predictions repeat another; each counts")
    # repeats among the excluded findings change nothing, and LUNA16's own table has thousands
    again = _repeated(
        tables.nodules.series, np.column_stack((tables.nodules.position_xyz_mm, tables.nodules.diameter_mm))
    )
    if again:
        yield DetectionWarning("duplicate-nodules", f"{again} rows of the annotations repeat another; each counts")
    unsized = int(np.count_nonzero((matching.nodule_scan >= 0) & (tables.nodules.diameter_mm <= 0)))
    if unsized:
        yield DetectionWarning(
            "nodules-without-size",
            f"{unsized} nodules have no positive diameter: a negative one counts as 10 mm, at zero none can be hit",
        )
    if matching.counts.in_two_nodules:
        yield DetectionWarning(
            "marks-in-two-nodules",
            f"{matching.counts.in_two_nodules} marks lie inside two nodules at once and find both, as in LUNA16",
        )
    lost = _lost_to_ties(matching, max_marks)
    if lost:
        yield DetectionWarning(
            "ties-at-the-cut",
            f"{lost} marks within the limit of {max_marks} a scan were cut because they tie with the next one: "
            "LUNA16's rule. Scores of finer grain avoid it",
        )


def _lost_to_ties(matching: Matching, max_marks: int) -> int:
    """How many marks within the limit the cut took because of ties."""
    if matching.counts.cut == 0:
        return 0
    scans = len(matching.series)
    cut = np.bincount(matching.mark_scan[matching.rows(MarkState.CUT)], minlength=scans)
    all_marks = np.bincount(matching.mark_scan[matching.mark_scan >= 0], minlength=scans)
    return int(np.sum(np.maximum(cut - (all_marks - max_marks), 0)[cut > 0]))


def _repeated(series: tuple[str, ...], numbers: Floats) -> int:
    """Rows that are equal to an earlier one."""
    if len(series) == 0:
        return 0
    _, ids = np.unique(np.asarray(series), return_inverse=True)
    rows = np.column_stack((ids.astype(float), numbers))
    rows = rows[np.lexsort(rows.T)]
    return int(np.count_nonzero((rows[1:] == rows[:-1]).all(axis=1)))


def _scans_without_marks(matching: Matching) -> Indices:
    marks = np.bincount(matching.mark_scan[matching.mark_scan >= 0], minlength=len(matching.series))
    return np.flatnonzero(marks == 0)


def _some(ids: Iterable[str], most: int = 3) -> str:
    """The first few ids, in order."""
    each = sorted(set(ids))
    return ", ".join(each[:most]) + (", …" if len(each) > most else "")
