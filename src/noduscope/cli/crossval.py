"""`crossval`: every case predicted by a network that has not seen its patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Json, Out, SettingsFile, group, need_keras, say, with_steps
from noduscope.console import froc_table

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

    try:
        numbers = [int(part) for part in folds.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--folds takes numbers with commas between them; got {folds!r}") from error
    metrics = run(cache, numbers, out, with_steps(load_settings(settings), steps))
    say(metrics if as_json else froc_table(metrics, out))
