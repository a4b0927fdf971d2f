"""`crossval`: every case predicted by a network that has not seen its patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Json, Out, SettingsFile, group, need_keras, say, with_steps
from noduscope.console import cubes_table, froc_table, grades_table

app = group("Cross-validation: out-of-fold predictions and their figures (needs the [train] extra).")


@app.command("detector")
def crossval_detector(
    cache: Annotated[Path, typer.Option("--data", help="Cache that `data prepare` has filled.")],
    out: Out,
    folds: Annotated[str, typer.Option("--folds", help="Which of LUNA16's ten, with commas.")] = "0,1,2,3,4,5,6,7,8,9",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps of each fold.")] = None,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Train a detector per fold, search its test scans, score all candidates by LUNA16's rules."""
    from noduscope.settings import load_settings

    need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    from noduscope.crossval import crossval_detector as run

    metrics = run(cache, _folds(folds), out, with_steps(load_settings(settings), steps))
    say(metrics if as_json else froc_table(metrics, out))


@app.command("grader")
def crossval_grader(
    folder: Annotated[
        Path, typer.Option("--data", help="Folder with lidc_nodules/ (see docs), or nodulemnist3d.npz of MedMNIST.")
    ],
    out: Out,
    folds: Annotated[int, typer.Option("--folds", min=3, help="Parts into which the patients are split.")] = 10,
    only: Annotated[
        str | None, typer.Option("--only", help="Folds to run here, with commas; other processes may run the others.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Folds trained at a time.")] = 1,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Benign or malignant, attributes and outlines of nodules, out of fold by patient."""
    import dataclasses

    from noduscope.settings import load_settings

    need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    chosen = load_settings(settings)
    chosen = dataclasses.replace(chosen, split=dataclasses.replace(chosen.split, folds=folds))
    if folder.is_file():
        from noduscope.crossval_cubes import crossval_cubes

        metrics = crossval_cubes(folder, out, chosen)
        return say(metrics if as_json else cubes_table(metrics, out))
    from noduscope.crossval_grader import MAIN
    from noduscope.crossval_grader import crossval_grader as run
    from noduscope.train import usable_stacks

    summary = run(usable_stacks(folder, chosen), out, chosen, None if only is None else _folds(only), workers)
    if not summary:
        return say({"finished": False} if as_json else lambda: typer.echo(f"{out}: other folds are still missing"))
    return say(summary if as_json else grades_table(summary["protocols"][MAIN], out))


def _folds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"folds are numbers with commas between them; got {text!r}") from error
