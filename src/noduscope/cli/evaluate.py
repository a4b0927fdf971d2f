"""`evaluate`: predictions against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Json, Out, group, say
from noduscope.console import froc_table, grades_table

app = group("Score detections or grades against a reference.")


@app.command("detections")
def evaluate_detections(
    predictions: Annotated[Path, typer.Argument(help="CSV: seriesuid,coordX,coordY,coordZ,probability.")],
    annotations: Annotated[Path, typer.Option("--annotations", help="Reference nodules, LUNA16 columns.")],
    seriesuids: Annotated[Path, typer.Option("--seriesuids", help="The scans that count.")],
    out: Out,
    excluded: Annotated[Path | None, typer.Option("--excluded", help="Findings that count neither way.")] = None,
    replicates: Annotated[int, typer.Option("--bootstrap", min=0, help="Bootstrap replicates.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """FROC and CPM by LUNA16's rules, with intervals."""
    from noduscope.evaluate.detections import run_detections
    from noduscope.evaluate.froc import FrocSettings

    metrics = run_detections(
        predictions, annotations, excluded, seriesuids, out, FrocSettings(replicates=replicates, seed=seed)
    )
    say(metrics if as_json else froc_table(metrics, out))


@app.command("grades")
def evaluate_grades(
    predictions: Annotated[Path, typer.Argument(help="CSV with the graded cases and their probabilities.")],
    labels: Annotated[Path, typer.Option("--labels", help="CSV with label, patient and what baselines need.")],
    out: Out,
    size_column: Annotated[str, typer.Option("--size-column", help="Column of the diameter in mm.")] = "diameter_mm",
    threshold: Annotated[float, typer.Option("--threshold", min=0.0, max=1.0, help="The given threshold.")] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of bootstrap and folds.")] = 0,
    as_json: Json = False,
) -> None:
    """Accuracy, precision, recall, F1, AUC, calibration, beside majority, size-only and Brock."""
    from noduscope.evaluate.grades import GradesSettings, run_grades

    options = GradesSettings(threshold=threshold, size_column=size_column, seed=seed)
    metrics = run_grades(predictions, labels, out, options)
    say(metrics if as_json else grades_table(metrics, out))
