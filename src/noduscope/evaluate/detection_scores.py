"""The outcome of an evaluation of detections: FROC and CPM with intervals, by size, and warnings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from noduscope.evaluate.detection_checks import DetectionWarning, check_detections
from noduscope.evaluate.detection_tables import DetectionTables
from noduscope.evaluate.froc import (
    GRID_RATES,
    RATES,
    Bootstrap,
    FrocCurve,
    FrocSettings,
    Ladder,
    bootstrap,
    build_ladder,
    froc_curve,
    group_sensitivity,
    percentile_interval,
)
from noduscope.evaluate.matching import Findings, Floats, Matching, match

DIAMETER_EDGES_MM: tuple[float, ...] = (6.0, 8.0, 15.0)
"""Where the size classes part: the steps of Lung-RADS 2022 for solid nodules."""
BAND_RATES: Floats = np.geomspace(RATES[0], RATES[-1], 193)
"""False positives per scan at which the band is drawn: 32 steps per octave."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionScores:
    """An evaluation's outcome.

    Parameters
    ----------
    resampled : bootstrap replicates read at `GRID_RATES` and, after them, at `BAND_RATES`.
    unit : what the replicates draw, ``scan`` or ``patient``.
    """

    settings: FrocSettings
    matching: Matching
    ladder: Ladder
    curve: FrocCurve
    resampled: Bootstrap
    unit: str
    warnings: tuple[DetectionWarning, ...]

    def to_dict(self) -> dict[str, Any]:
        """``metrics.json``, schema ``noduscope.froc/1``; what is undefined is None."""
        at_rates = self.curve.at(GRID_RATES)
        seven = self.resampled.sensitivity[:, : len(RATES)]
        intervals = [percentile_interval(seven[:, i]) for i in range(len(RATES))]
        bare = len(self.matching.series) - len(np.unique(self.matching.mark_scan[self.matching.mark_scan >= 0]))
        return {
            "schema": "noduscope.froc/1",
            "not_a_medical_device": True,
            "counts": {**asdict(self.matching.counts), "scans_without_marks": bare},
            "froc": {
                "fps_per_scan": list(RATES),
                "sensitivity": _numbers(at_rates),
                "low": [_number(low) for low, _ in intervals],
                "high": [_number(high) for _, high in intervals],
                "threshold": _numbers(self.curve.threshold_within(RATES)),
                "last_point": {
                    "fps_per_scan": _number(self.curve.fps_per_scan[-1]),
                    "sensitivity": _number(self.curve.sensitivity[-1]),
                },
            },
            "cpm": {
                "interpolated": _estimate(float(at_rates.mean()), seven.mean(axis=1)),
                "nearest": _estimate(float(self.curve.nearest().mean()), self.resampled.nearest.mean(axis=1)),
            },
            "by_diameter": self._by_diameter(),
            "bootstrap": {
                "replicates": self.settings.replicates,
                "seed": self.settings.seed,
                "unit": self.unit,
                "confidence": 0.95,
                "replicates_without_nodules": self.resampled.without_nodules,
            },
            "settings": asdict(self.settings),
            "warnings": [asdict(w) for w in self.warnings],
        }

    def _by_diameter(self) -> list[dict[str, Any]]:
        """Sensitivity and interpolated CPM for the nodules of each size class."""
        edges = (0.0, *DIAMETER_EDGES_MM, None)
        sensitivity = group_sensitivity(self.ladder, GRID_RATES)
        replicates = self.resampled.by_group[:, :, : len(RATES)].mean(axis=2)
        found = np.bincount(self.ladder.tp_group, minlength=len(sensitivity))
        return [
            {
                "from_mm": edges[i],
                "below_mm": edges[i + 1],
                "nodules": int(self.ladder.nodules[i].sum()),
                "found": int(found[i]),
                "sensitivity": _numbers(sensitivity[i]),
                "cpm": _estimate(float(sensitivity[i].mean()), replicates[:, i]),
            }
            for i in range(len(sensitivity))
        ]


def evaluate_detections(tables: DetectionTables, settings: FrocSettings) -> DetectionScores:
    """Match, rank and resample.

    Parameters
    ----------
    tables : marks, nodules, excluded findings and the list of scans.

    Examples
    --------
    >>> from noduscope.evaluate.matching import Marks
    >>> marks = Marks(("a", "a"), np.array([[0.0, 0, 0], [50, 0, 0]]), np.array([0.9, 0.4]))
    >>> nodules = Findings(("a",), np.array([[1.0, 0, 0]]), np.array([6.0]))
    >>> tables = DetectionTables(marks, nodules, Findings.none(), ("a", "b"))
    >>> evaluate_detections(tables, FrocSettings(replicates=10)).to_dict()["cpm"]["interpolated"]["value"]
    1.0
    """
    excluded = tables.excluded if tables.excluded is not None else Findings.none()
    matching = match(tables.marks, tables.nodules, excluded, tables.series, settings.max_marks)
    size_class = np.digitize(2 * tables.nodules.radius_mm, DIAMETER_EDGES_MM)
    ladder = build_ladder(matching, size_class, groups=len(DIAMETER_EDGES_MM) + 1)
    curve = froc_curve(ladder)
    patients = None if tables.patients is None else [tables.patients[uid] for uid in matching.series]
    return DetectionScores(
        settings=settings,
        matching=matching,
        ladder=ladder,
        curve=curve,
        resampled=bootstrap(ladder, settings, np.concatenate((GRID_RATES, BAND_RATES)), patients),
        unit="scan" if patients is None else "patient",
        warnings=check_detections(tables, matching, curve, settings.max_marks),
    )


def _estimate(value: float, replicates: Floats) -> dict[str, float | None]:
    low, high = percentile_interval(replicates)
    return {"value": _number(value), "low": _number(low), "high": _number(high)}


def _number(value: float) -> float | None:
    """A number that JSON can hold: NaN and infinity become null."""
    return float(value) if np.isfinite(value) else None


def _numbers(values: Floats) -> list[float | None]:
    return [_number(v) for v in values]
