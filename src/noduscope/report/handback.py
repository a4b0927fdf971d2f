"""The files of a result that other systems take: DICOM objects, label volume, JSON forms."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from noduscope.errors import SettingsError
from noduscope.findings import ScanResult
from noduscope.report import exchange
from noduscope.report.dicom import MakeDicom, dicom_files
from noduscope.report.masks import write_labels
from noduscope.scan import ScanWarning

CAD_SR, PDF_EXTRA = "cad-sr", "pdf"
EXTRAS = (CAD_SR, *exchange.KINDS, PDF_EXTRA)
"""What is written only when asked for."""


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The names of the files written, and what the user must know where some were left out."""

    names: tuple[str, ...]
    warnings: tuple[ScanWarning, ...]


def check_extras(extras: Collection[str]) -> None:
    """Refuse an unknown extra: call it before the work, not after.

    Raises
    ------
    SettingsError
        With the names that there are.
    """
    unknown = sorted(set(extras) - set(EXTRAS))
    if unknown:
        raise SettingsError(f"unknown result form {', '.join(unknown)}; known: {', '.join(EXTRAS)}")


def hand_back(
    result: ScanResult, folder: Path, extras: Collection[str] = (), make: MakeDicom = dicom_files
) -> HandedBack:
    """Write what a result is handed on as.

    Parameters
    ----------
    extras : of `EXTRAS`.
    make : what makes the DICOM objects: `dicom_files`, or another process that does.

    Notes
    -----
    A scan that is not DICOM, or whose files are gone, gets its outlines as a label volume instead of the
    segmentation, and a warning that says why.
    """
    check_extras(extras)
    made = make(result, cad=CAD_SR in extras)
    files = dict(made.files)
    files |= exchange.exchange_files(result, [e for e in extras if e in exchange.KINDS])
    for name, data in files.items():
        (folder / name).write_bytes(data)
    names = [*files]
    if made.warnings and any(n.mask is not None for n in result.nodules):
        names.append(write_labels(result, folder))
    return HandedBack(tuple(names), made.warnings)
