"""``noduscope evaluate detections``: LUNA16's FROC and CPM of a table of marks, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from noduscope.evaluate.detection_files import write_results
from noduscope.evaluate.detection_scores import evaluate_detections
from noduscope.evaluate.detection_tables import read_tables
from noduscope.evaluate.froc import FrocSettings


def run_detections(
    predictions: Path,
    annotations: Path,
    excluded: Path | None,
    seriesuids: Path,
    out: Path,
    settings: FrocSettings,
) -> dict[str, Any]:
    """Read the tables, evaluate, write the results to a folder.

    Parameters
    ----------
    predictions : CSV ``seriesuid, coordX, coordY, coordZ, probability``; further columns are left.
    annotations, excluded : CSV ``seriesuid, coordX, coordY, coordZ, diameter_mm``.
    seriesuids : the scans that count, one id a line or a CSV.
    out : folder, made where it is missing; see `noduscope.evaluate.detection_files` for what is in it.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    InputRefused
        For a file that cannot be read or understood, or a folder that cannot be written. Nothing is
        written before all input has been read and evaluated.
    """
    tables = read_tables(predictions, annotations, excluded, seriesuids)
    scores = evaluate_detections(tables, settings)
    metrics = scores.to_dict()
    write_results(scores, metrics, out, title=predictions.stem)
    return metrics
