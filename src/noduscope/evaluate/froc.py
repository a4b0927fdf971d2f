"""The free-response ROC curve, the two CPMs in use, and their bootstrap intervals.

A point of the curve is a threshold: how many nodules and how many false positives score at least as
much. LUNA16's competition performance metric (CPM) is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4
and 8 false positives per scan. The challenge's script draws the curve but prints no CPM, and two ways
of reading the curve are in use:

interpolated
    Linear interpolation on the script's own plotting grid, 10 001 points from 1/8 to 8; of it the grid
    point nearest to each rate. Where the grid falls short of a rate (1/2 is read at 0.49985) a nodule
    that comes in exactly there does not count yet.
nearest
    The operating point whose rate is nearest, as the organisers' later evaluators read it (``getCPM``).
    Of several at the same rate the first, thus the least sensitive, counts; points in the middle of a
    straight run of the curve are no operating points, as scikit-learn's ``roc_curve`` leaves them out.
    Beyond the curve's end its last point counts.

All counts are whole numbers until the last division, so a rate that is hit exactly is hit exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import SettingsError
from noduscope.evaluate.matching import Floats, Indices, MarkState, Matching

RATES: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which the CPM reads the curve."""


def _on_official_grid() -> Floats:
    grid = np.linspace(0.125, 8, 10001)
    return np.array([grid[np.argmin(np.abs(grid - rate))] for rate in RATES])


GRID_RATES: Floats = _on_official_grid()
"""Where the official grid reads `RATES`: 0.125, 0.2502125, 0.49985, 0.9999125, …"""


@dataclass(frozen=True, slots=True)
class FrocSettings:
    """How detections are evaluated."""

    replicates: int = 1000
    """Bootstrap replicates; 0 for no intervals."""
    seed: int = 0
    """Seed of the bootstrap."""
    max_marks: int = 100
    """Most marks that count per scan; 0 for no limit."""

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        if min(self.replicates, self.seed, self.max_marks) < 0:
            raise SettingsError(f"replicates, seed and max_marks must not be negative; got {self}")


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """The marks that count, from the most to the least probable, each with its scan.

    Rung 0 lies above all marks; each further rung is one distinct probability.

    Parameters
    ----------
    thresholds : falling, shape (rungs,); the first is infinite.
    fp_scan, tp_scan : scan of each false positive and of each found nodule, most probable first.
    fp_end, tp_end : how many of them lie on or above each rung, shape (rungs,).
    tp_group : group (size class) of each found nodule.
    nodules : nodules per group and scan, found or not, shape (groups, scans).
    """

    thresholds: Floats
    fp_scan: Indices
    tp_scan: Indices
    fp_end: Indices
    tp_end: Indices
    tp_group: Indices
    nodules: Indices

    @property
    def scans(self) -> int:
        """Number of scans."""
        return int(self.nodules.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class FrocCurve:
    """The curve: one point per distinct probability, from (0, 0) on.

    Parameters
    ----------
    thresholds : falling, shape (p,); the first is infinite.
    false_positives, true_positives : marks and nodules at or above the threshold, shape (p,).
    scans, nodules : what they are divided by.
    """

    thresholds: Floats
    false_positives: Indices
    true_positives: Indices
    scans: int
    nodules: int

    @property
    def fps_per_scan(self) -> Floats:
        """False positives per scan, shape (p,)."""
        return self.false_positives / self.scans

    @property
    def sensitivity(self) -> Floats:
        """Share of all nodules found, shape (p,); NaN without nodules."""
        return _share(self.true_positives, self.nodules)

    def at(self, rates: Sequence[float] | Floats) -> Floats:
        """Sensitivity at rates of false positives per scan, linearly interpolated, level beyond the end."""
        low, high, part = _between(self.false_positives, np.asarray(rates, dtype=float) * self.scans)
        tp = self.true_positives
        return _share(tp[low] + part * (tp[high] - tp[low]), self.nodules)

    def nearest(self, rates: Sequence[float] | Floats = RATES) -> Floats:
        """Sensitivity at the operating point whose rate is nearest (see the module's text)."""
        target = np.asarray(rates, dtype=float) * self.scans
        return _share(_nearest(*self.corners(), target), self.nodules)

    def corners(self) -> tuple[Indices, Indices]:
        """Counts (false positives, true positives) at the operating points: the origin, the bends, the end."""
        return _corners(self.false_positives, self.true_positives)

    def threshold_within(self, rates: Sequence[float] | Floats) -> Floats:
        """Lowest threshold that keeps to each rate; infinite where the first mark already exceeds it."""
        last = np.searchsorted(self.false_positives, np.asarray(rates, dtype=float) * self.scans, side="right") - 1
        return self.thresholds[last]


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """Sensitivities in each usable replicate.

    Parameters
    ----------
    rates : false positives per scan, shape (k,).
    sensitivity : interpolated at `rates`, shape (replicates, k).
    by_group : the same for the nodules of one group, shape (replicates, groups, k); NaN where a
        replicate has none of them.
    nearest : at the operating points nearest to `RATES`, shape (replicates, 7).
    without_nodules : replicates that drew no scan with a nodule and are left out.
    """

    rates: Floats
    sensitivity: Floats
    by_group: Floats
    nearest: Floats
    without_nodules: int


def build_ladder(matching: Matching, nodule_group: Indices | None = None, groups: int = 1) -> Ladder:
    """Rank what counts; `nodule_group` gives each nodule row a group below `groups` (default: all 0)."""
    group = np.zeros(len(matching.nodules), dtype=np.int64) if nodule_group is None else nodule_group
    fp_rows = matching.rows(MarkState.FALSE_POSITIVE)
    found = np.flatnonzero(matching.nodule_mark >= 0)
    fp_score = matching.marks.probability[fp_rows]
    tp_score = matching.marks.probability[matching.nodule_mark[found]]
    fp_order = np.lexsort((matching.mark_scan[fp_rows], -fp_score))
    tp_order = np.lexsort((matching.nodule_scan[found], -tp_score))
    thresholds = np.unique(np.concatenate((fp_score, tp_score)))[::-1]

    nodules = np.zeros((groups, len(matching.series)), dtype=np.int64)
    listed = matching.nodule_scan >= 0
    np.add.at(nodules, (group[listed], matching.nodule_scan[listed]), 1)
    return Ladder(
        thresholds=np.concatenate(([np.inf], thresholds)),
        fp_scan=matching.mark_scan[fp_rows[fp_order]],
        tp_scan=matching.nodule_scan[found[tp_order]],
        fp_end=_rung_ends(fp_score[fp_order], thresholds),
        tp_end=_rung_ends(tp_score[tp_order], thresholds),
        tp_group=group[found[tp_order]],
        nodules=nodules,
    )


def froc_curve(ladder: Ladder) -> FrocCurve:
    """The curve of all scans, each once."""
    return FrocCurve(
        thresholds=ladder.thresholds,
        false_positives=ladder.fp_end,
        true_positives=ladder.tp_end,
        scans=ladder.scans,
        nodules=int(ladder.nodules.sum()),
    )


def group_sensitivity(ladder: Ladder, rates: Floats) -> Floats:
    """Interpolated sensitivity for the nodules of each group alone, shape (groups, k).

    The false positives are those of all scans: a false positive has no size class.
    """
    weights = np.ones(ladder.scans, dtype=np.int64)
    low, high, part = _between(ladder.fp_end, rates * ladder.scans)
    return _group_share(ladder, weights, (low, high, part))


def bootstrap(
    ladder: Ladder, settings: FrocSettings, rates: Floats, patients: Sequence[str] | None = None
) -> Bootstrap:
    """Draw scans with replacement, or patients with all of their scans, and read the curve of each draw.

    A scan drawn twice counts twice: its nodules, its hits, its false positives and itself in the
    divisor of the false-positive axis. That is what LUNA16's script does by copying marks; here each
    scan carries how often it was drawn, and one ranking of all marks serves every replicate.

    Parameters
    ----------
    rates : false positives per scan at which the curve is interpolated, shape (k,).
    patients : the patient of each scan; None, as in LUNA16's script, if each scan is a draw of its own.
    """
    rng = np.random.default_rng(settings.seed)
    # without patients each scan is one
    patient = np.unique(np.arange(ladder.scans) if patients is None else patients, return_inverse=True)[1]
    count = int(patient.max()) + 1
    per_scan = ladder.nodules.sum(axis=0)
    # a curve is read up to 8 false positives per scan; the long tail behind costs time and is rarely needed
    short = _head(ladder, int(1.5 * _farthest(rates) * ladder.scans))
    drawn: list[tuple[Floats, Floats, Floats]] = []
    for _ in range(settings.replicates):
        weights = np.bincount(rng.integers(count, size=count), minlength=count)[patient]
        if weights @ per_scan == 0:
            continue
        drawn.append(_read_draw(ladder, short, weights, rates))
    sensitivity, by_group, nearest = zip(*drawn, strict=True) if drawn else ((), (), ())
    used, groups = len(drawn), len(ladder.nodules)
    return Bootstrap(
        rates=rates,
        sensitivity=np.reshape(sensitivity, (used, len(rates))),
        by_group=np.reshape(by_group, (used, groups, len(rates))),
        nearest=np.reshape(nearest, (used, len(RATES))),
        without_nodules=settings.replicates - used,
    )


def percentile_interval(values: Floats) -> tuple[float, float]:
    """95 % interval of replicate values, by the order statistics that LUNA16's script takes.

    NaN replicates (nothing to measure in them) are left out; NaN when none is left.
    """
    kept = np.sort(values[np.isfinite(values)])
    if len(kept) == 0:
        return (float("nan"), float("nan"))
    # integers, because (1 - 0.025) * n in floating point can fall below the whole number that is meant
    return (float(kept[len(kept) * 25 // 1000]), float(kept[len(kept) * 975 // 1000]))


def _share(found: NDArray[np.generic] | Floats, nodules: int) -> Floats:
    values = np.asarray(found, dtype=float)
    return values / nodules if nodules else np.full(values.shape, np.nan)


def _rung_ends(scores: Floats, thresholds: Floats) -> Indices:
    """How many of the falling scores are at least each falling threshold; 0 above them all."""
    ends = np.searchsorted(-scores, -thresholds, side="right")
    return np.concatenate(([0], ends)).astype(np.int64)


def _running(counts: Indices) -> Indices:
    """Cumulative sums, from 0 on."""
    total = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=total[1:])
    return total


def _between(fp: Indices, target: Floats) -> tuple[Indices, Indices, Floats]:
    """The rungs around each target count of false positives, and how far the target is from one to the other.

    Of several rungs at the target the last one counts, as in ``np.interp``; beyond the end both are the last.
    """
    low = np.searchsorted(fp, target, side="right") - 1
    high = np.minimum(low + 1, len(fp) - 1)
    step = fp[high] - fp[low]
    part = np.where(step > 0, (target - fp[low]) / np.maximum(step, 1), 0.0)
    return low, high, part


def _group_share(ladder: Ladder, weights: Indices, at: tuple[Indices, Indices, Floats]) -> Floats:
    """Share of each group's nodules found at interpolated places on the ladder, shape (groups, k)."""
    low, high, part = at
    groups = len(ladder.nodules)
    member = ladder.tp_group == np.arange(groups)[:, None]
    found = np.zeros((groups, len(ladder.tp_scan) + 1))
    np.cumsum(member * weights[ladder.tp_scan], axis=1, out=found[:, 1:])
    below, above = found[:, ladder.tp_end[low]], found[:, ladder.tp_end[high]]
    total = (ladder.nodules @ weights).astype(float)[:, None]
    total[total == 0] = np.nan
    return np.asarray((below + part * (above - below)) / total)


def _farthest(rates: Floats) -> float:
    """The highest rate at which a curve is read."""
    return float(max(rates.max(initial=0), RATES[-1]))


def _head(ladder: Ladder, false_positives: int) -> Ladder:
    """The upper part of a ladder, down to the rung that holds so many false positives; or all of it."""
    last = int(np.searchsorted(ladder.fp_end, false_positives))
    if last >= len(ladder.fp_end) - 1:
        return ladder
    fps, tps = int(ladder.fp_end[last]), int(ladder.tp_end[last])
    return replace(
        ladder,
        thresholds=ladder.thresholds[: last + 1],
        fp_scan=ladder.fp_scan[:fps],
        tp_scan=ladder.tp_scan[:tps],
        fp_end=ladder.fp_end[: last + 1],
        tp_end=ladder.tp_end[: last + 1],
        tp_group=ladder.tp_group[:tps],
    )


def _read_draw(ladder: Ladder, short: Ladder, weights: Indices, rates: Floats) -> tuple[Floats, Floats, Floats]:
    """Sensitivity at `rates`, by group, and at the nearest points, for scans drawn `weights` times.

    `short` is the head of `ladder` that mostly suffices; where it ends too early the whole one is read.
    """
    fp, tp = _counts(short, weights)
    corners = _corners(fp, tp)
    scans = int(weights.sum())
    # the last point of a ladder cut short passes for a corner but need not be one
    if short is not ladder and np.count_nonzero(corners[0] > _farthest(rates) * scans) < 2:
        return _read_draw(ladder, ladder, weights, rates)
    total = int(weights @ ladder.nodules.sum(axis=0))
    low, high, part = _between(fp, rates * scans)
    sensitivity = (tp[low] + part * (tp[high] - tp[low])) / total
    nearest = _nearest(*corners, np.asarray(RATES) * scans) / total
    return sensitivity, _group_share(short, weights, (low, high, part)), nearest


def _counts(ladder: Ladder, weights: Indices) -> tuple[Indices, Indices]:
    """False and true positives on or above each rung, for scans drawn `weights` times."""
    return (
        _running(weights[ladder.fp_scan])[ladder.fp_end],
        _running(weights[ladder.tp_scan])[ladder.tp_end],
    )


def _corners(fp: Indices, tp: Indices) -> tuple[Indices, Indices]:
    """The operating points: (0, 0) and the points where the curve bends, with its ends."""
    # in a bootstrap replicate a threshold none of whose marks was drawn is no operating point
    real = np.flatnonzero((fp[1:] != fp[:-1]) | (tp[1:] != tp[:-1])) + 1
    fp, tp = fp[real], tp[real]
    if len(fp) > 2:
        bent = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
        corner = np.concatenate(([True], bent, [True]))
        fp, tp = fp[corner], tp[corner]
    zero = np.zeros(1, dtype=np.int64)
    return np.concatenate((zero, fp)), np.concatenate((zero, tp))


def _nearest(fp: Indices, tp: Indices, target: Floats) -> Indices:
    """Nodules found at the first corner that is nearest to each target count of false positives."""
    right = np.minimum(np.searchsorted(fp, target), len(fp) - 1)
    left = np.maximum(right - 1, 0)
    count = np.where(target - fp[left] <= fp[right] - target, fp[left], fp[right])
    first = np.searchsorted(fp, count)
    return np.asarray(np.where(target > fp[-1], tp[-1], tp[first]))
