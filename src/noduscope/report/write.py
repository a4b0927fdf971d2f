"""Write a result folder: complete or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from noduscope.errors import InputRefused
from noduscope.findings import ScanResult
from noduscope.preprocess import in_threads
from noduscope.report.dicom import MakeDicom, dicom_files
from noduscope.report.figures import Panel, finding_panels, key_image, projection_panels
from noduscope.report.handback import PDF_EXTRA, check_extras, hand_back
from noduscope.report.page import Pictures, render_page
from noduscope.report.pdf import PDF, find_browser, print_page
from noduscope.report.tables import (
    candidates_csv,
    findings_csv,
    findings_json,
    manifest_json,
    slicer_markups,
)
from noduscope.report.views import Anatomy
from noduscope.scan import ScanWarning
from noduscope.settings import Settings

MOST_PICTURED = 16
"""Findings with pictures: the most probable ones. More would make the page too large to send."""
_MANIFEST = "run.json"
_NO_BROWSER = ScanWarning("no-pdf", "No PDF was made: it is printed by Chromium, and none is installed.")
_OWN_NAMES = {"findings.json", "findings.csv", "candidates.csv", "nodules.mrk.json", "report.html", _MANIFEST}


def write_result(
    result: ScanResult,
    out: Path,
    settings: Settings | None = None,
    extras: Collection[str] = (),
    make_dicom: MakeDicom = dicom_files,
) -> tuple[Path, ...]:
    """Write all files of a result into a folder, complete or not at all (see `write_folder`).

    Parameters
    ----------
    settings : the run's settings, kept in ``run.json``.
    extras : forms of the result written only when asked for, of `noduscope.report.handback.EXTRAS`.
    make_dicom : see `hand_back`.

    Returns
    -------
    The files, in ``out``, sorted by name.

    Raises
    ------
    InputRefused
        ``out`` is a file or holds something that is not ours, or it cannot be written.
    SettingsError
        For an unknown extra, or one whose packages are not installed.
    """
    check_extras(extras)
    return write_folder(out, lambda part: _fill(result, part, settings, (extras, make_dicom)))


def write_folder(out: Path, fill: Callable[[Path], Sequence[str]]) -> tuple[Path, ...]:
    """Fill a result folder, complete or not at all.

    Everything is written into a sibling folder that takes the place of ``out`` at the end: at no time
    is there a half-written result under that name, whatever fails or interrupts.

    Parameters
    ----------
    out : made with its parents; may exist when it is empty or holds an earlier result and nothing else.
    fill : writes the files into the folder that it is given, ``run.json`` with all their names among them, and
        returns the names.

    Raises
    ------
    InputRefused
        ``out`` is a file or holds something that is not ours, or it cannot be written.
    """
    check_replaceable(out)
    # beside the real folder, also where `out` is a link: a rename works only within one file system
    target = out.resolve()
    token = uuid.uuid4().hex[:8]
    part, old = (target.with_name(f".{target.name}.{token}.{kind}") for kind in ("part", "old"))
    try:
        part.mkdir(parents=True)
        names = fill(part)
        _swap(part, target, old)
    except OSError as error:
        raise InputRefused(
            f"cannot write the results to {out}: {error.strerror or error}; choose another folder with -o"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return tuple(out / name for name in names)


def check_replaceable(out: Path) -> None:
    """Refuse an output folder whose content is not ours: call it before the work, not after.

    Raises
    ------
    InputRefused
        ``out`` is a file, or holds files that no earlier run wrote.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputRefused(f"{out} is a file; the results need a folder: choose another name with -o")
    held = {p.name for p in out.iterdir()}
    foreign = sorted(held - _written_before(out, held))
    if foreign:
        some = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise InputRefused(
            f"{out} holds files that are not an earlier result ({some}) and is left as it is; "
            "choose a new or empty folder with -o"
        )


def _written_before(out: Path, held: set[str]) -> set[str]:
    """The names that an earlier run put into a folder, told by its manifest; none without one."""
    if _MANIFEST not in held:
        return set()
    try:
        run = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    if not isinstance(run, dict) or not str(run.get("schema", "")).startswith("noduscope.run/"):
        return set()
    files = run.get("files")
    return _OWN_NAMES | {str(name) for name in files} if isinstance(files, list) else _OWN_NAMES


def _fill(
    result: ScanResult, folder: Path, settings: Settings | None, forms: tuple[Collection[str], MakeDicom]
) -> list[str]:
    """Write every file; the names, sorted."""
    extras, make_dicom = forms
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(_draw, result, settings)
        handed = hand_back(result, folder, extras, make_dicom)
        pictures, keys = drawing.result()
    browser = find_browser() if PDF_EXTRA in extras else None
    missing = (_NO_BROWSER,) if PDF_EXTRA in extras and browser is None else ()
    result = replace(result, warnings=(*result.warnings, *handed.warnings, *missing))
    texts = {
        "findings.json": findings_json(result),
        "findings.csv": findings_csv(result),
        "candidates.csv": candidates_csv(result),
        "nodules.mrk.json": slicer_markups(result),
        "report.html": render_page(result, pictures),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    for name, data in keys.items():
        (folder / name).write_bytes(data)
    printed = browser is not None and print_page(folder / "report.html", folder / PDF, browser)
    names = sorted([*texts, *keys, *handed.names, *([PDF] if printed else []), _MANIFEST])
    (folder / _MANIFEST).write_text(manifest_json(result, settings, names), encoding="utf-8", newline="\n")
    return names


def _draw(result: ScanResult, settings: Settings | None) -> tuple[Pictures, dict[str, bytes]]:
    """All pictures of a result; findings are drawn in parallel."""
    anatomy = Anatomy.of(result, settings)
    pictured = result.nodules[:MOST_PICTURED]
    panels: list[tuple[Panel, ...]] = [()] * len(pictured)
    keys = [b""] * len(pictured)

    def one(k: int) -> None:
        panels[k] = finding_panels(anatomy, pictured[k], result)
        keys[k] = key_image(panels[k], pictured[k])

    in_threads(one, len(pictured))
    named = {f"nodule-{n.id}.png": key for n, key in zip(pictured, keys, strict=True)}
    return Pictures(projection_panels(anatomy, result), tuple(panels)), named


def _swap(part: Path, target: Path, old: Path) -> None:
    """Put the new folder in place of the one before, which comes back if that fails."""
    if not target.exists():
        part.rename(target)
        return
    target.rename(old)
    try:
        part.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
