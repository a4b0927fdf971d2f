"""Reading: one function for every format, one for the list of what is there."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noduscope.errors import AmbiguousInput, NoScanFound
from noduscope.io import dicom, headers
from noduscope.io.headers import Series
from noduscope.scan import Scan


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """What can be said of a series without reading its pixels.

    Parameters
    ----------
    uid : SeriesInstanceUID, or the file's stem for formats that have none.
    description : SeriesDescription, empty when absent.
    slices : number of images that can be slices of a CT.
    spacing_xyz_mm : pixel spacing and median distance of the slices; None where there is none.
    refused : why the series is no chest CT to choose; empty when it is one.
    """

    uid: str
    description: str
    slices: int
    spacing_xyz_mm: tuple[float, float, float] | None
    refused: str = ""


def read_scan(path: str | os.PathLike[str], *, series_uid: str | None = None, workers: int = 2) -> Scan:
    """Read a chest CT.

    Parameters
    ----------
    path : DICOM folder.
    series_uid : the series to take where there are several.
    workers : threads that read and decode.

    Raises
    ------
    NoScanFound
        Nothing there reads as a chest CT; the message lists what each reader saw.
    AmbiguousInput
        Several series fit and none was chosen; the message lists them.
    InputRefused
        There is a scan, but no right volume can be made of it.
    """
    source = Path(path)
    if not source.exists():
        raise NoScanFound(f"{source}: no such file or folder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dicom.read_series(_choose(source, series_uid), workers=workers)


def list_series(path: str | os.PathLike[str]) -> tuple[SeriesInfo, ...]:
    """All DICOM series below a folder, the usable ones first."""
    found, _ = headers.read_headers(_files(Path(path)))
    return tuple(_info(series) for series in headers.group_series(found))


def _files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(root, name)
            if file.is_file():
                yield file


def _choose(path: Path, series_uid: str | None) -> Series:
    found, refused = headers.read_headers(_files(path))
    every = headers.group_series(found)
    if series_uid is not None:
        for series in every:
            if series.uid == series_uid and series.slices:
                return series
        raise NoScanFound(f"{path}: no CT series {series_uid}; there: {_listed([_info(s) for s in every])}")
    fit = [(series, info) for series in every if not (info := _info(series)).refused]
    if len(fit) == 1:
        return fit[0][0]
    if fit:
        raise AmbiguousInput(
            f"{path}: several CT series; choose one with --series UID:\n{_listed([i for _, i in fit])}"
        )
    reasons = [f"{count} file(s): {why}" for why, count in refused.items()]
    reasons += [f"series {i.uid}: {i.refused}" for i in map(_info, every)]
    raise NoScanFound(f"{path}: no chest CT found ({'; '.join(reasons) or 'the folder is empty'})")


def _info(series: Series) -> SeriesInfo:
    if not series.slices:
        why = ", ".join(f"{reason} ({count})" for reason, count in series.refused.items())
        return SeriesInfo(series.uid, series.description, 0, None, why)
    first = series.slices[0]
    spacing = None
    if first.spacing_yx and len(series.slices) > 1 and first.orientation:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        depth = np.sort([np.dot(s.position or (0, 0, 0), normal) for s in series.slices])
        spacing = (first.spacing_yx[1], first.spacing_yx[0], float(np.median(np.diff(depth))))
    refused = "" if len(series.slices) >= dicom.MIN_SLICES else f"only {len(series.slices)} slice(s)"
    return SeriesInfo(series.uid, series.description, len(series.slices), spacing, refused)


def _listed(infos: Sequence[SeriesInfo]) -> str:
    lines = []
    for info in infos:
        spacing = " × ".join(f"{mm:.2f}" for mm in info.spacing_xyz_mm) + " mm" if info.spacing_xyz_mm else "no spacing"
        lines.append(f"  {info.uid}  {info.description or '(no description)'}  {info.slices} slices  {spacing}")
    return "\n".join(lines)
