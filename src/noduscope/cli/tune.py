"""`tune`: hyperparameter search; what it finds is a settings file that `train` reads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noduscope.cli.shared import Json, Out, SettingsFile, group, need_keras, say, with_steps
from noduscope.console import table

if TYPE_CHECKING:
    from noduscope.settings import Settings
    from noduscope.tune.search import Objective

app = group("Search for better settings (needs the [train] extra).")

Trials = Annotated[int, typer.Option("--trials", min=1, help="Trials that the study shall hold in all.")]
Study = Annotated[
    Path,
    typer.Option("--study", help="File of the study: made, or gone on with; any number of processes may share it."),
]


@app.command("detector")
def tune_detector(
    folder: Annotated[
        Path, typer.Option("--data", help="Cache of `data prepare`, or folder with scans/ and lidc_nodules/.")
    ],
    study: Study,
    out: Out,
    trials: Trials = 50,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Where prepared scans are kept [default: the cache --data names].")
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, max=9, help="Fold left out for test; the next one is for validation.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimiser steps of each trial.")] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Weights that each trial begins with, for fine-tuning.")
    ] = None,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Search the space of [tune_detector] for the settings with the best CPM on the validation scans."""
    from noduscope.data.cached import is_cache, with_fold
    from noduscope.settings import load_settings

    if cache is None and not is_cache(folder):
        raise typer.BadParameter(f"{folder} is no cache of `data prepare`: say with --cache where to keep one")
    chosen = with_steps(load_settings(settings), steps)
    if fold is not None:
        chosen = with_fold(chosen, fold)
    if start is not None:
        _check_start(start, chosen)
    _need_optuna()
    from noduscope.train import detector_data
    from noduscope.tune.objectives import detector_objective

    objective = detector_objective(detector_data(folder, cache or folder, chosen), start)
    say(_search(objective, "detector", chosen, (study, out, trials), as_json))


@app.command("grader")
def tune_grader(
    folder: Annotated[Path, typer.Option("--data", help="Folder with lidc_nodules/.")],
    study: Study,
    out: Out,
    trials: Trials = 50,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Search the space of [tune_grader] for the settings with the best malignancy AUC on the validation patients."""
    from noduscope.settings import load_settings

    chosen = load_settings(settings)
    _need_optuna()
    from noduscope.train import usable_stacks
    from noduscope.tune.objectives import grader_objective

    objective = grader_objective(usable_stacks(folder, chosen), chosen)
    say(_search(objective, "grader", chosen, (study, out, trials), as_json))


def _check_start(start: Path, settings: Settings) -> None:
    """Refuse, before anything is prepared, a start that no trial could begin with."""
    from noduscope.errors import InputRefused, SettingsError

    if not start.is_file():
        raise InputRefused(f"{start} is no file of weights")
    searched = [k for k in ("filters", "blocks") if getattr(settings.tune_detector, k)]
    if searched:
        names = " and ".join(f"tune_detector.{k}" for k in searched)
        raise SettingsError(f"weights to begin with fit one architecture only: set {names} to []")


def _need_optuna() -> None:
    """What a search needs beyond `need_keras`."""
    import importlib.util

    need_keras()
    if importlib.util.find_spec("optuna") is None:
        raise typer.BadParameter("tuning needs Optuna: pip install 'noduscope[train]'")


def _search(
    objective: Objective, network: str, settings: Settings, where: tuple[Path, Path, int], as_json: bool
) -> Any:
    """Run the search; its summary as a document or as what prints it."""
    from noduscope.tune.search import tune
    from noduscope.tune.space import declared_space

    logging.getLogger("noduscope").setLevel(logging.INFO)
    study, out, trials = where
    summary = tune(objective, declared_space(settings, network), settings, study, out, trials)
    return summary if as_json else lambda: _show(summary, out)


def _show(summary: dict[str, Any], out: Path) -> None:
    start, best = summary["start"], summary["best"]
    counts = ", ".join(f"{n} {state}" for state, n in summary["trials"].items())
    if best is None:
        typer.echo(f"no trial is finished yet ({counts})")
        return

    def scored(trial: dict[str, Any] | None) -> str:
        return "–" if trial is None else f"{trial['score']:.4f}"

    rows = [("score", scored(start), scored(best))]
    for name, value in best["settings"].items():
        rows.append((name, "–" if start is None else _text(start["settings"][name]), _text(value)))
    table(f"{counts}; best settings: {out / 'best.toml'}", ("setting", "at the start", "best"), rows)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
