"""Write the reference pages that follow from what is there: ``settings.md``, ``commands.md`` and ``models.md``.

::

    python docs/make_reference.py

A test fails when they are stale.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from typer.main import get_command

from noduscope import settings
from noduscope.cli import app
from noduscope.model.bundle import shipped_weights

REFERENCE = Path(__file__).resolve().parent / "reference"


def main() -> None:
    """Write the pages."""
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The pages' texts by file name."""
    return {"settings.md": settings_page(), "commands.md": commands_page(), "models.md": models_page()}


def models_page() -> str:
    """The cards of the networks in the package, each heading one level down."""
    lines = [
        "# Models",
        "",
        "The cards of the networks that come with the package, as `noduscope models show` prints them. The commands",
        "that train the networks write them.",
        "",
    ]
    for card in sorted(shipped_weights().glob("*/card.md")):
        text = card.read_text(encoding="utf-8")
        lines += ["#" + line if line.startswith("#") else line for line in text.splitlines()] + [""]
    return "\n".join(lines)


def field_docs() -> dict[str, dict[str, str]]:
    """The docstring below each field of each class in `noduscope.settings`."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(settings)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        found[node.name] = {
            part.target.id: " ".join(after.value.value.split())
            for part, after in zip(node.body, node.body[1:], strict=False)
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        }
    return found


def settings_page() -> str:
    """One section per TOML table."""
    docs, defaults = field_docs(), settings.Settings()
    lines = [
        "# Settings",
        "",
        "`--settings FILE.toml` reads this file over the defaults. What it does not name keeps its default; a table or",
        "key that does not exist is an error, and so is a value of another type. An option on the command line wins.",
        "",
        "```toml",
        "[detect]",
        "threshold = 0.3",
        "```",
        "",
        "When a scan is analysed, the network's own `[preprocess]` and `[detector]` come from its [bundle](bundle.md);",
        "the file's are for training, as are `[split]` and `[train_detector]`.",
        "",
        "From Python the tables are frozen dataclasses: `noduscope.load_settings(path)` gives a `noduscope.Settings`.",
        "",
    ]
    for table in dataclasses.fields(defaults):
        part = getattr(defaults, table.name)
        purpose = (inspect.getdoc(type(part)) or "").split("\n", 1)[0]
        lines += [f"## `[{table.name}]`", "", purpose, "", "| key | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(part):
            meaning = docs[type(part).__name__][field.name]
            lines.append(f"| `{field.name}` | {_toml(getattr(part, field.name))} | {_cell(meaning)} |")
        lines.append("")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    return "not set" if value is None else f"`{json.dumps(value)}`"


def commands_page() -> str:
    """One section per command, depth first."""
    root = get_command(app)
    lines = [
        "# Commands",
        "",
        "`noduscope COMMAND --help` shows the same on a terminal. [Exit statuses](results.md#exit-statuses) and the",
        "[files written](results.md) have a page of their own.",
        "",
        "## `noduscope`",
        "",
        *_options(root),
    ]
    for path, command in commands(root):
        if hasattr(command, "commands"):
            continue
        arguments = [p.name.upper() + ("..." if p.nargs == -1 else "") for p in command.params if p.opts[0][0] != "-"]
        lines += [f"## `{' '.join(['noduscope', *path, *arguments])}`", "", " ".join(command.help.split()), ""]
        lines += _options(command)
    return "\n".join(lines)


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every command and group below a group, with its words."""
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if hasattr(command, "commands"):
            found += commands(command, (*path, name))
    return found


def _options(command: Any) -> list[str]:
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for option in command.params:
        if option.name == "help":
            continue
        named = option.opts[0].startswith("-")
        names = ", ".join(f"`{o}`" for o in option.opts) if named else f"`{option.name.upper()}`"
        lines.append(f"| {names} | {_default(option)} | {_cell(option.help or '')} |")
    return [*lines, ""] if len(lines) > 2 else []


def _default(option: Any) -> str:
    if option.required:
        return "needed"
    if option.default is None or option.is_flag or option.count:
        return ""
    return f"`{option.default}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
