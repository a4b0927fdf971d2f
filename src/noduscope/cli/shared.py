"""What the commands share: options, and how a result is said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from noduscope.settings import Settings

Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="TOML settings file.")]
Model = Annotated[str, typer.Option("--model", help="Detector: an installed bundle's name, or its folder.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", min=0.0, max=1.0, help="Report findings from this probability on [default: the model's]."
    ),
]


def group(text: str) -> typer.Typer:
    """An empty group of commands with its help."""
    return typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=text)


def need_keras() -> None:
    """A clear sentence instead of an ImportError where the training extra is not installed."""
    import importlib.util

    # oneDNN is off by default where the CPU lacks AVX-512, yet triples the speed of 3D convolutions there
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("keras") is None:
        raise typer.BadParameter("training needs Keras and a backend: pip install 'noduscope[train]'")


def with_steps(settings: Settings, steps: int | None) -> Settings:
    """The settings with the number of steps from the command line, where one was given."""
    import dataclasses

    if steps is None:
        return settings
    train = settings.train_detector
    every = min(train.validate_every, steps)
    return dataclasses.replace(settings, train_detector=dataclasses.replace(train, steps=steps, validate_every=every))


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def say(content: Callable[[], None] | Any) -> None:
    """Print a JSON document, or call what prints a table."""
    if callable(content):
        content()
    else:
        typer.echo(json.dumps(content, indent=1))
