"""Reading: one function for every format, and one for the list of what is there."""

from __future__ import annotations

import os
import shutil
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from noduscope.errors import AmbiguousInput, InputRefused, NoScanFound
from noduscope.io import NotThisFormat
from noduscope.scan import Scan, Triple

# The readers' modules load pydicom and SimpleITK (a third of a second each), so each is imported by
# the reader that needs it.

_FORMATS: Final = "a DICOM folder, file, zip or DICOMDIR, NIfTI (.nii, .nii.gz), MetaImage (.mhd, .mha) or NRRD"


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """What can be said of a series without reading its pixels.

    Parameters
    ----------
    uid : SeriesInstanceUID, or the file's stem for formats that have none.
    description : SeriesDescription, empty when absent.
    slices : number of images that can be slices of a CT.
    spacing_xyz_mm : pixel spacing and median distance of the slices; None where there is none.
    refused : why the series cannot be taken for a chest CT; empty when it can.
    """

    uid: str
    description: str
    slices: int
    spacing_xyz_mm: Triple | None
    refused: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        spacing = self.spacing_xyz_mm
        size = " × ".join(f"{mm:.2f}" for mm in spacing) + " mm" if spacing else "no spacing"
        note = f"  [{self.refused}]" if self.refused else ""
        return f"{self.uid}  {self.description or '(no description)'}  {self.slices} slices, {size}{note}"


def read_scan(path: str | os.PathLike[str], *, series_uid: str | None = None, workers: int = 2) -> Scan:
    """Read a chest CT.

    Parameters
    ----------
    path : a folder with DICOM files (nested, among other files), one file of a series, a zip of such
        a folder, a DICOMDIR, or a NIfTI, MetaImage or NRRD file.
    series_uid : the series to take where there are several.
    workers : threads that read and decode.

    Returns
    -------
    Scan
        int16 HU, C-contiguous. DICOM slices ascend along the slice normal, which for axial slices
        points to the head; other formats keep their own index order. What is odd but does no harm
        is in its warnings.

    Raises
    ------
    NoScanFound
        Nothing there reads as a chest CT; the message says what each reader saw.
    AmbiguousInput
        Several series fit and none was chosen; the message lists them.
    InputRefused
        There is a scan, but no right volume can be made of it.
    """
    source = _existing(path)
    reasons = []
    # pydicom and SimpleITK warn in their own words; what matters of it is in the scan's own warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, reader in _READERS:
            try:
                return reader(source, series_uid, workers)
            except NotThisFormat as reason:
                reasons.append(f"{name}: {reason}")
    raise NoScanFound(f"{source}: no chest CT found. Expected {_FORMATS}. " + "; ".join(reasons))


def list_series(path: str | os.PathLike[str]) -> tuple[SeriesInfo, ...]:
    """What there is to choose from at a path, without reading pixels; unusable series come last.

    Raises
    ------
    NoScanFound
        When the path does not exist.
    InputRefused
        For a damaged archive or volume file.
    """
    source = _existing(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _is_zip(source):
            from noduscope.io.archive import unpack  # noqa: PLC0415

            folder = unpack(source)
            try:
                return list_series(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        if is_volume_file(source):
            return _volume_infos([source])
        try:
            return _dicom_infos(source)
        except NotThisFormat:
            return _volume_infos(_volume_files(source))


def is_volume_file(path: Path) -> bool:
    """Whether a path is one NIfTI, MetaImage or NRRD file, by its name; anything else may hold DICOM."""
    return path.is_file() and bool(_volume_files(path))


def _existing(path: str | os.PathLike[str]) -> Path:
    source = Path(path)
    try:
        if source.exists():
            return source
    except (OSError, ValueError) as error:
        raise NoScanFound(f"{source}: cannot be looked at ({error})") from error
    raise NoScanFound(f"{source}: no such file or folder")


def _read_dicom(path: Path, series_uid: str | None, workers: int) -> Scan:
    from noduscope.io import dicom, discover  # noqa: PLC0415

    if is_volume_file(path):
        raise NotThisFormat("not DICOM")
    series, warned = discover.choose_series(path, series_uid)
    scan = dicom.read_series(series, workers=workers)
    return replace(scan, warnings=(*warned, *scan.warnings)) if warned else scan


def _read_zip(path: Path, series_uid: str | None, workers: int) -> Scan:
    if not _is_zip(path):
        raise NotThisFormat("not a zip archive")
    from noduscope.io.archive import unpack  # noqa: PLC0415

    folder = unpack(path)
    try:
        scan = read_scan(folder, series_uid=series_uid, workers=workers)
    except InputRefused as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise type(error)(str(error).replace(str(folder), str(path))) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # ScanSource.files point into the folder: it lives as long as the voxels (or the process) do
    weakref.finalize(scan.hu, shutil.rmtree, folder, ignore_errors=True)
    return scan


def _read_volume(path: Path, series_uid: str | None, workers: int) -> Scan:
    del workers  # ITK has its own threads
    files = _volume_files(path)
    if not files:
        raise NotThisFormat("no such file in the folder" if path.is_dir() else "another file name ending")
    from noduscope.io.volumes import read_volume, stem_of  # noqa: PLC0415

    if series_uid is not None:
        files = [file for file in files if stem_of(file) == series_uid]
        if not files:
            raise NoScanFound(f"{path}: no volume file named {series_uid}")
    if len(files) > 1:
        names = "\n".join(f"  {stem_of(file)}  ({file.name})" for file in files)
        raise AmbiguousInput(f"{path}: several volume files; name one of them, or choose by its stem:\n{names}")
    return read_volume(files[0])


_READERS: Final = (("DICOM", _read_dicom), ("zip", _read_zip), ("NIfTI, MetaImage, NRRD", _read_volume))


def _is_zip(path: Path) -> bool:
    """By content; a DICOM file has ``DICM`` elsewhere, and no zip begins otherwise."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def _volume_files(path: Path) -> list[Path]:
    """The volume files at a path (of a folder: directly in it)."""
    endings = (".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr")
    files = [path] if path.is_file() else sorted(path.iterdir()) if os.access(path, os.R_OK) else []
    return [file for file in files if file.name.lower().endswith(endings) and file.is_file()]


def _volume_infos(files: Sequence[Path]) -> tuple[SeriesInfo, ...]:
    return tuple(_volume_info(file) for file in files)


def _volume_info(file: Path) -> SeriesInfo:
    from noduscope.io.volumes import describe_volume, stem_of  # noqa: PLC0415

    try:
        slices, spacing = describe_volume(file)
    except InputRefused as error:
        return SeriesInfo(stem_of(file), file.name, 0, None, str(error))
    return SeriesInfo(stem_of(file), file.name, slices, spacing)


def _dicom_infos(path: Path) -> tuple[SeriesInfo, ...]:
    from noduscope.io import discover  # noqa: PLC0415

    found = discover.find_series(path).series
    infos = [SeriesInfo(s.uid, s.description, len(s.slices), discover.spacing_of(s), r) for s, r in found]
    return tuple(sorted(infos, key=lambda info: bool(info.refused)))
