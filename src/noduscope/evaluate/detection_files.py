"""Write an evaluation of detections.

``metrics.json``         all figures, counts and warnings
``froc.csv``             the whole curve, a row per threshold
``froc_band.csv``        the curve on 193 rates from 1/8 to 8 with mean and 95 % interval of the bootstrap
``froc.png``             the curve, its band and the seven points of the CPM
``nodules.csv``          every nodule: missed ones first, then those found at the highest false-positive rate
``false_positives.csv``  the most probable false positives: all that come in at up to 8 per scan, at least 100
``scans.csv``            what was found, missed and wrong in each scan

Each file is written under another name first and then renamed: a reader never meets half a file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from noduscope.errors import InputRefused
from noduscope.evaluate.detection_scores import BAND_RATES, DetectionScores
from noduscope.evaluate.froc import GRID_RATES, RATES, percentile_interval
from noduscope.evaluate.froc_figure import FrocPicture, draw_froc
from noduscope.evaluate.matching import Floats, MarkState, Matching

Row = Sequence[object]


def write_results(scores: DetectionScores, metrics: dict[str, Any], out: Path, title: str) -> None:
    """Write all files into a folder, which is made where it is missing.

    Parameters
    ----------
    metrics : ``scores.to_dict()``.
    title : name of the evaluated system, for the picture.

    Raises
    ------
    InputRefused
        When the folder or a file cannot be written.
    """
    band = _band(scores)
    picture = FrocPicture(
        rates=BAND_RATES,
        sensitivity=band[:, 1],
        low=band[:, 3],
        high=band[:, 4],
        points=scores.curve.at(GRID_RATES),
        title=title,
        note=_note(scores, metrics),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_text(out / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
        _write_csv(
            out / "froc.csv", "threshold,false_positives,true_positives,fps_per_scan,sensitivity", _curve(scores)
        )
        _write_csv(out / "froc_band.csv", "fps_per_scan,sensitivity,mean,low,high", band.tolist())
        _write_csv(out / "nodules.csv", _NODULE_COLUMNS, _nodules(scores))
        _write_csv(out / "false_positives.csv", _FALSE_POSITIVE_COLUMNS, _false_positives(scores))
        _write_csv(out / "scans.csv", _SCAN_COLUMNS, _scans(scores.matching))
        _replace(out / "froc.png", lambda path: draw_froc(picture, path))
    except OSError as error:
        raise InputRefused(f"cannot write the results to {out}: {error.strerror}") from error


_CURVE_COLUMNS = "threshold,false_positives,true_positives,fps_per_scan,sensitivity"
_NODULE_COLUMNS = (
    "seriesuid,coordX,coordY,coordZ,diameter_mm,found,probability,fps_per_scan,"
    "mark_coordX,mark_coordY,mark_coordZ,distance_mm"
)
_FALSE_POSITIVE_COLUMNS = "rank,seriesuid,coordX,coordY,coordZ,probability,fps_per_scan,nearest_nodule_mm"
_SCAN_COLUMNS = (
    "seriesuid,nodules,found,missed,marks,false_positives,ignored_excluded,double,cut,highest_false_positive"
)


def _curve(scores: DetectionScores) -> Iterable[Row]:
    curve = scores.curve
    counts = (curve.thresholds, curve.false_positives, curve.true_positives, curve.fps_per_scan)
    sensitivity: list[object] = curve.sensitivity.tolist() if curve.nodules else [""] * len(curve.thresholds)
    return zip(*(column.tolist() for column in counts), sensitivity, strict=True)


def _band(scores: DetectionScores) -> Floats:
    """Rows of rate, sensitivity, bootstrap mean, low, high."""
    replicates = scores.resampled.sensitivity[:, len(RATES) :]
    rows = np.full((len(BAND_RATES), 5), np.nan)
    rows[:, 0] = BAND_RATES
    rows[:, 1] = scores.curve.at(BAND_RATES)
    if len(replicates):
        rows[:, 2] = replicates.mean(axis=0)
        rows[:, 3:] = [percentile_interval(column) for column in replicates.T]
    return rows


def _nodules(scores: DetectionScores) -> Iterable[Row]:
    matching, rate = scores.matching, _rates_of(scores)
    table, marks = matching.nodules, matching.marks
    rows: list[tuple[tuple[object, ...], Row]] = []
    for i in np.flatnonzero(matching.nodule_scan >= 0).tolist():
        place = table.position_xyz_mm[i]
        front = (table.series[i], *place.tolist(), float(table.diameter_mm[i]))
        mark = int(matching.nodule_mark[i])
        if mark < 0:
            rows.append(((0, -front[-1], front), (*front, 0, "", "", "", "", "", "")))
            continue
        at = marks.position_xyz_mm[mark]
        probability, distance = float(marks.probability[mark]), float(np.linalg.norm(at - place))
        fps = float(rate(marks.probability[mark : mark + 1])[0])
        back = (1, probability, fps, *at.tolist(), round(distance, 3))
        rows.append(((1, probability, front), (*front, *back)))
    return [row for _, row in sorted(rows, key=lambda r: r[0])]


def _false_positives(scores: DetectionScores) -> Iterable[Row]:
    matching, rate = scores.matching, _rates_of(scores)
    marks = matching.marks
    rows = matching.rows(MarkState.FALSE_POSITIVE)
    keys = (*marks.position_xyz_mm[rows].T[::-1], matching.mark_scan[rows], -marks.probability[rows])
    rows = rows[np.lexsort(keys)][: max(100, int(RATES[-1] * len(matching.series)))]
    place_of = matching.nodules.position_xyz_mm
    nodules = {scan: place_of[matching.nodule_scan == scan] for scan in np.unique(matching.mark_scan[rows]).tolist()}
    for rank, (row, fps) in enumerate(zip(rows.tolist(), rate(marks.probability[rows]), strict=True), start=1):
        place = marks.position_xyz_mm[row]
        offset = nodules[int(matching.mark_scan[row])] - place
        nearest = round(float(np.sqrt((offset * offset).sum(axis=1).min())), 1) if len(offset) else ""
        yield (rank, marks.series[row], *place.tolist(), float(marks.probability[row]), float(fps), nearest)


def _scans(matching: Matching) -> Iterable[Row]:
    scans = len(matching.series)

    def per_scan(*states: MarkState) -> list[int]:
        rows = np.flatnonzero(np.isin(matching.mark_state, states))
        return [int(n) for n in np.bincount(matching.mark_scan[rows], minlength=scans)]

    listed = matching.nodule_scan >= 0
    nodules = np.bincount(matching.nodule_scan[listed], minlength=scans)
    found = np.bincount(matching.nodule_scan[listed & (matching.nodule_mark >= 0)], minlength=scans)
    highest = np.full(scans, -np.inf)
    false = matching.rows(MarkState.FALSE_POSITIVE)
    np.maximum.at(highest, matching.mark_scan[false], matching.marks.probability[false])
    counted = (MarkState.TRUE_POSITIVE, MarkState.DOUBLE, MarkState.IGNORED, MarkState.FALSE_POSITIVE)
    return zip(
        matching.series,
        nodules.tolist(),
        found.tolist(),
        (nodules - found).tolist(),
        per_scan(*counted),
        per_scan(MarkState.FALSE_POSITIVE),
        per_scan(MarkState.IGNORED),
        per_scan(MarkState.DOUBLE),
        per_scan(MarkState.CUT),
        ["" if not np.isfinite(h) else float(h) for h in highest],
        strict=True,
    )


def _rates_of(scores: DetectionScores) -> Callable[[Floats], Floats]:
    """A function from marks' probabilities to the false positives per scan at those thresholds."""
    rising, fps = scores.curve.thresholds[::-1], scores.curve.fps_per_scan[::-1]
    return lambda probability: fps[np.searchsorted(rising, probability)]


def _note(scores: DetectionScores, metrics: dict[str, Any]) -> str:
    counts, cpm = scores.matching.counts, metrics["cpm"]["interpolated"]
    parts = [f"{counts.scans} scans, {counts.nodules} nodules, {counts.false_positives} false positives"]
    if cpm["value"] is not None:
        between = f" ({cpm['low']:.3f} to {cpm['high']:.3f})" if cpm["low"] is not None else ""
        parts.insert(0, f"CPM {cpm['value']:.3f}{between}")
    if scores.warnings:
        parts.append("warnings: " + ", ".join(sorted({w.code for w in scores.warnings})))
    return " · ".join(parts)


def _write_csv(path: Path, columns: str, rows: Iterable[Row]) -> None:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns.split(","))
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and move into place in one step."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
