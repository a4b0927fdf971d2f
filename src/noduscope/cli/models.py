"""`models`: what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from noduscope.cli.shared import Json, group, say
from noduscope.console import table

app = group("Installed model bundles.")


@app.command("list")
def models_list(as_json: Json = False) -> None:
    """Installed bundles."""
    from noduscope.model.bundle import find_bundles, load_bundle

    rows = [(b.name, b.version, b.sha256[:12], str(b.path)) for b in map(load_bundle, find_bundles())]
    columns = ("name", "version", "sha256", "folder")
    say([dict(zip(columns, r, strict=True)) for r in rows] if as_json else lambda: table("models", columns, rows))


@app.command("show")
def models_show(model: Annotated[str, typer.Argument(help="Name, name-version or folder.")]) -> None:
    """A bundle's card: data, protocol, figures with intervals, limits."""
    from noduscope.model.bundle import find_bundle, load_bundle

    typer.echo(load_bundle(find_bundle(model)).card)


@app.command("verify")
def models_verify() -> None:
    """Compare every file of every bundle with its manifest."""
    from noduscope.model.bundle import find_bundles, load_bundle

    for path in find_bundles():
        bundle = load_bundle(path)
        typer.echo(f"{bundle.name} {bundle.version}: all files are as the manifest says")
