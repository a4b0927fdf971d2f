"""Writing files so that a reader never meets half of one: under a temporary name, then renamed."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from noduscope.errors import InputRefused


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder (made where it is missing); all are complete before the first takes its name.

    Raises
    ------
    InputRefused
        When the folder cannot be made or written.
    """
    partial = {name: folder / f".{name}.{os.getpid()}.partial" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in partial.items():
            path.write_bytes(files[name])
        for name, path in partial.items():
            path.replace(folder / name)
    except OSError as error:
        raise InputRefused(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        for path in partial.values():
            with suppress(OSError):  # where the folder could not even be made
                path.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write one UTF-8 text file in the same way."""
    replace_files(path.parent, {path.name: text.encode("utf-8")})


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Rows, the header first, as a CSV file with lines ended as on Unix."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
