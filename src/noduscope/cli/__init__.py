"""The command line: one thin function per verb. Heavy modules load inside the verb that needs them."""

from __future__ import annotations

import gc
import logging
import sys
from typing import Annotated

import typer

from noduscope import NOT_A_MEDICAL_DEVICE, __version__
from noduscope.cli import analyse, crossval, data, evaluate, models, train, tune
from noduscope.errors import NoduscopeError

app = typer.Typer(
    name="noduscope",
    help=f"Finds, measures and reports lung nodules on chest CT. {NOT_A_MEDICAL_DEVICE}",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(analyse.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(data.app, name="data")
app.add_typer(train.app, name="train")
app.add_typer(crossval.app, name="crossval")
app.add_typer(tune.app, name="tune")
app.add_typer(models.app, name="models")

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_COLLECT_EVERY = 200_000
"""Objects made between two searches for garbage. Python's 700 has it search the libraries' tables, a million objects
that stay, over and over: a tenth of the time of `detect`."""


def main() -> None:
    """Entry point: our errors become one sentence and an exit status, never a traceback."""
    gc.set_threshold(_COLLECT_EVERY)
    try:
        app()
    except NoduscopeError as error:
        typer.echo(f"noduscope: {error}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
            typer.echo("noduscope: interrupted; nothing half-written was left", err=True)
        raise
    finally:
        gc.freeze()  # the process ends: what is left need not be searched, which takes a second


def _version(value: bool) -> None:
    if value:
        typer.echo(f"noduscope {__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="More on standard error.")] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options for every command."""
    level = logging.ERROR if quiet else [logging.WARNING, logging.INFO, logging.DEBUG][min(verbose, 2)]
    # only our own logger: those of the libraries may quote values of a DICOM header
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    own = logging.getLogger("noduscope")
    own.handlers, own.propagate = [handler], False
    own.setLevel(level)
