"""Which DICOM series there are at a path, which of them are chest CTs, and which one is meant."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread

from noduscope.errors import AmbiguousInput, InputRefused, NoScanFound
from noduscope.io import NotThisFormat
from noduscope.io.archive import MAX_FILES, dicomdir_files
from noduscope.io.headers import DAMAGE, DIRECTORY, LOCALIZER, NOT_DICOM, Series, group_series, read_headers
from noduscope.io.slices import slice_axes
from noduscope.scan import ScanWarning, Triple

_MIN_SLICES: Final = 5
"""Fewer images are a scout, a bolus-tracking loop or a key image, not a chest."""
_AXIAL_COSINE: Final = 0.8
"""The normal of an axial slice is within 37° of the body axis (gantry tilt included)."""
_DICOMDIR_CLASS: Final = b"1.2.840.10008.1.3.10\x02\x00\x03\x00"
"""MediaStorageSOPClassUID of a DICOMDIR, and the tag of the element that follows it."""


@dataclass(frozen=True, slots=True)
class Found:
    """All series at a path, each with the reason why it is no chest CT (empty when it is one), and the other files.

    Parameters
    ----------
    series : series and reason, in the order found.
    others : why files are no images of a series, reason to number of files.
    """

    series: tuple[tuple[Series, str], ...]
    others: dict[str, int]


def find_series(path: Path) -> Found:
    """The series in a folder, in the folder of one DICOM file (its own series only), or of a DICOMDIR.

    Raises
    ------
    NotThisFormat
        When there is no DICOM image at all; the message counts what was seen instead.
    """
    only = None
    if path.is_dir():
        files = list(_walk(path))
    elif _is_dicomdir(path):
        files = _listed_by(path)
    else:
        images, why = read_headers([path])
        if not images:
            raise NotThisFormat("; ".join(why))
        only = images[0].series_uid
        files = [path] if images[0].pixels.frames > 1 else sorted(f for f in path.parent.iterdir() if f.is_file())
    images, others = read_headers(files)
    images = [image for image in images if only is None or image.series_uid == only]
    if not images:
        seen = ", ".join(f"{count} file(s) {reason}" for reason, count in others.items())
        raise NotThisFormat(seen or "the folder is empty")
    series = group_series(images)
    return Found(tuple(zip(series, _reasons(series), strict=True)), others)


def choose_series(path: Path, series_uid: str | None) -> tuple[Series, tuple[ScanWarning, ...]]:
    """The series with this uid, or the only chest CT there is; and a warning of files that may have belonged to it.

    Raises
    ------
    NotThisFormat
        When there is no DICOM image at all.
    NoScanFound
        When no series fits; the message says why each does not.
    AmbiguousInput
        When several fit; the message lists them.
    """
    found = find_series(path)
    if series_uid is not None:
        series = _series_of_uid(found, path, series_uid)
        return series, _skipped(found, series)
    fit = [series for series, reason in found.series if not reason]
    if len(fit) == 1:
        return fit[0], _skipped(found, fit[0])
    if fit:
        lines = "\n".join(f"  {_line(series)}" for series in fit)
        raise AmbiguousInput(f"{path}: {len(fit)} CT series fit; choose one with --series UID:\n{lines}")
    lines = "\n".join(f"  {_line(series)}: {reason}" for series, reason in found.series)
    raise NoScanFound(f"{path}: no series there is a chest CT; expected a stack of CT slices:\n{lines}")


def _skipped(found: Found, series: Series) -> tuple[ScanWarning, ...]:
    harmless = (NOT_DICOM, DIRECTORY, LOCALIZER)
    reasons = Counter(found.others) + Counter(series.refused)
    texts = [f"{count} file(s): {reason}" for reason, count in reasons.items() if reason not in harmless]
    if not texts:
        return ()
    return (ScanWarning("skipped-files", "skipped, though they may belong to the scan: " + "; ".join(texts)),)


def spacing_of(series: Series) -> Triple | None:
    """Pixel spacing and median slice distance in mm; None when there is no stack."""
    if len(series.slices) < 2:
        return None
    first = series.slices[0]
    y, x = first.spacing_yx or (0.0, 0.0)
    try:
        normal = slice_axes(first.orientation or ())[:, 2]
    except InputRefused:
        return None
    depth = np.unique(np.round([np.dot(image.position or (0, 0, 0), normal) for image in series.slices], 3))
    return (x, y, float(np.median(np.diff(depth)))) if len(depth) > 1 else None


def _series_of_uid(found: Found, path: Path, series_uid: str) -> Series:
    for series, reason in found.series:
        if series.uid == series_uid:
            if series.slices:
                return series
            raise NoScanFound(f"{path}: series {series_uid} is no CT: {reason}")
    lines = "\n".join(f"  {_line(series)}" for series, _ in found.series)
    raise NoScanFound(f"{path}: there is no series {series_uid}; there are:\n{lines}")


def _line(series: Series) -> str:
    spacing = spacing_of(series)
    size = " × ".join(f"{mm:.2f}" for mm in spacing) + " mm" if spacing else "no spacing"
    count = len(series.slices) or sum(series.refused.values())
    return f"{series.uid}  {series.description or '(no description)'}  {count} slices, {size}"


def _reasons(every: list[Series]) -> list[str]:
    """Why each series is not the chest CT; reformatted planes count only where there is no axial series."""
    reasons = [_why_not(series) for series in every]
    axial = [not reason and _is_axial(series) for series, reason in zip(every, reasons, strict=True)]
    if any(axial):
        return [reason or ("" if a else "not axial") for reason, a in zip(reasons, axial, strict=True)]
    return reasons


def _why_not(series: Series) -> str:
    if not series.slices:
        return ", ".join(series.refused)
    if len(series.slices) < _MIN_SLICES:
        return f"only {len(series.slices)} slice(s)"
    places = Counter(image.position for image in series.slices)
    return "all slices lie at the same place" if len(places) == 1 else ""


def _is_axial(series: Series) -> bool:
    try:
        axes = slice_axes(series.slices[0].orientation or ())
    except InputRefused:
        return True  # a damaged orientation is refused by name when the series is read
    return abs(float(axes[2, 2])) > _AXIAL_COSINE


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below a folder in a fixed order; linked folders are not entered."""
    count = 0
    for root, folders, names in os.walk(folder, onerror=_refuse_unreadable):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            if name != "DICOMDIR" and file.is_file():
                count += 1
                if count > MAX_FILES:
                    raise InputRefused(f"{folder}: more than {MAX_FILES:,} files; name the folder of one study")
                yield file


def _refuse_unreadable(error: OSError) -> None:
    raise InputRefused(f"{error.filename}: cannot be read ({error.strerror})") from error


def _is_dicomdir(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read ({error.strerror})") from error
    return head[128:132] == b"DICM" and _DICOMDIR_CLASS in head


def _listed_by(directory: Path) -> list[Path]:
    try:
        dataset = dcmread(directory)
        files = dicomdir_files(directory, dataset)
    except DAMAGE as error:
        raise InputRefused(f"{directory.name}: a damaged DICOMDIR; give its folder instead") from error
    if not files:
        raise NoScanFound(f"{directory}: the DICOMDIR lists no file that is there; give its folder instead")
    return files
