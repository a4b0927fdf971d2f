"""`train`: from data to a model bundle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Out, SettingsFile, group, need_keras, with_steps, working

app = group("Train a network to a model bundle (needs the [train] extra).")

Data = Annotated[Path, typer.Option("--data", help="Folder with scans/ and lidc_nodules/.")]
Cache = Annotated[Path, typer.Option("--cache", help="Where prepared scans are kept.")]
Run = Annotated[Path, typer.Argument(help="Folder of a training run.")]
Version = Annotated[str, typer.Option("--version", help="Version of the bundle.")]


@app.command("detector")
def train_detector(
    folder: Annotated[
        Path, typer.Option("--data", help="Cache of `data prepare`, or folder with scans/ and lidc_nodules/.")
    ],
    out: Out,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where prepared scans are kept [default: the cache --data names].")
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, max=9, help="Fold for test; the next one is for validation.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps in all.")] = None,
    settings: SettingsFile = None,
    start: Annotated[Path | None, typer.Option("--start", help="Weights to begin with, for fine-tuning.")] = None,
    version: Version = "0.0",
) -> None:
    """Train a detector, calibrate it on the validation scans, write it as a bundle with its card."""
    from noduscope.data.cached import is_cache, with_fold
    from noduscope.settings import load_settings

    if cache is None and not is_cache(folder):
        raise typer.BadParameter(f"{folder} is no cache of `data prepare`: say with --cache where to keep one")
    need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    from noduscope.finish import finish_detector
    from noduscope.train import train_detector as fit

    chosen = with_steps(load_settings(settings), steps)
    if fold is not None:
        chosen = with_fold(chosen, fold)
    fit(folder, out, cache or folder, chosen, start)
    path = finish_detector(out, folder, cache or folder, version)
    typer.echo(f"bundle: {path}")


@app.command("average")
def train_average(
    weights: Annotated[list[Path], typer.Argument(help="Weight files of one training.")],
    settings: Annotated[Path, typer.Option("--settings", help="The settings.toml of their run.")],
    out: Out,
) -> None:
    """Make a run folder of the mean of several weights; `train bundle` measures it."""
    need_keras()
    from noduscope.average import average_weights

    typer.echo(f"run: {average_weights(weights, settings, out)}")


@app.command("bundle")
def train_bundle(
    run: Run,
    folder: Data,
    cache: Cache,
    version: Version = "0.0",
) -> None:
    """Calibrate and measure a run's weights and write them as a bundle with its card."""
    need_keras()
    from noduscope.finish import finish_detector

    with working("measuring on validation and test volumes"):
        typer.echo(f"bundle: {finish_detector(run, folder, cache, version)}")


@app.command("hard-negatives")
def train_hard_negatives(
    run: Run,
    folder: Data,
    cache: Cache,
) -> None:
    """List where a trained detector is wrong in the training scans, in the cache; the next run samples these more."""
    need_keras()
    from noduscope.mining import mine_hard_negatives

    typer.echo(f"hard negatives: {mine_hard_negatives(run, folder, cache)}")


@app.command("grader")
def train_grader(
    folder: Data,
    out: Out,
    cache: Cache,
    crossval: Annotated[
        Path, typer.Option("--crossval", help="Folder of `crossval grader`: calibration and the card's figures.")
    ],
    settings: SettingsFile = None,
    version: Version = "0.0",
) -> None:
    """Train the grader beside the installed detector and write it as a bundle with its card."""
    from noduscope.settings import load_settings

    need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    from noduscope.finish_grader import finish_grader

    typer.echo(f"bundle: {finish_grader(folder, cache, out, crossval, load_settings(settings), version)}")


@app.command("ensemble")
def train_ensemble(
    graders: Annotated[
        list[Path],
        typer.Argument(help="Bundles or run folders of graders; the first is the one that says what a nodule is."),
    ],
    out: Out,
) -> None:
    """Make a run folder of one grader with the trunks of several; `train grader` on it measures it."""
    need_keras()
    from noduscope.ensemble import ensemble_graders

    typer.echo(f"run: {ensemble_graders(graders, out)}")


@app.command("join")
def train_join(
    grader: Annotated[Path, typer.Argument(help="Folder of a grader's bundle.")],
    folder: Data,
    out: Out,
    cache: Cache,
    version: Version = "0.0",
) -> None:
    """Fit a grader that is there to the installed detector: the joint probability and its threshold."""
    need_keras()
    from noduscope.finish_grader import join_grader

    with working("measuring on validation and test volumes"):
        typer.echo(f"bundle: {join_grader(grader, folder, cache, out, version)}")


@app.command("refine")
def train_refine(
    grader: Annotated[Path, typer.Argument(help="Folder of a grader's bundle.")],
    folder: Data,
    out: Out,
    cache: Cache,
    settings: SettingsFile = None,
    version: Version = "0.0",
) -> None:
    """Train a grader's nodule or not further, on where the installed detector is wrong, and fit it to that."""
    from noduscope.settings import load_settings

    need_keras()
    logging.getLogger("noduscope").setLevel(logging.INFO)
    from noduscope.refine import refine_grader

    typer.echo(f"bundle: {refine_grader(grader, folder, cache, out, load_settings(settings), version)}")
