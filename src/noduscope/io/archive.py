"""Containers of many files: a zip, a DICOMDIR. What they name is not trusted."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

from noduscope.errors import InputRefused

MAX_FILES: Final = 100_000
"""More files than any study has."""
MAX_UNPACKED_BYTES: Final = 8 * 2**30
"""More bytes than any study needs uncompressed."""
_MAX_RATIO: Final = 200
"""CT data shrink two- to fivefold; beyond this (and beyond `_SMALL_BYTES`) it is a bomb."""
_SMALL_BYTES: Final = 256 * 2**20
_BLOCK: Final = 1 << 20


def unpack(path: Path) -> Path:
    """Unpack a zip into a new temporary folder and return it; the caller removes it.

    Raises
    ------
    InputRefused
        For a damaged or encrypted archive, one that would write outside the folder, holds links,
        or unpacks to more than a study can need. Nothing is left behind.
    """
    folder = Path(tempfile.mkdtemp(prefix="noduscope-"))
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked_members(archive, path)
            budget = _budget(path)
            for member in members:
                budget -= _unpack_one(archive, member, folder, budget)
                if budget < 0:
                    raise InputRefused(f"{path.name}: unpacks to more than it announces (a zip bomb): not read")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputRefused(f"{path.name}: a damaged zip archive, or of a kind that is not supported") from error
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputRefused(f"{path.name}: cannot be unpacked ({error.strerror or error})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _checked_members(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    members = [m for m in archive.infolist() if not m.is_dir() and "__MACOSX" not in PurePosixPath(m.filename).parts]
    if len(members) > MAX_FILES:
        raise InputRefused(f"{path.name}: {len(members):,} files, more than any study has: not read")
    for member in members:
        if not _stays_inside(member.filename):
            raise InputRefused(f"{path.name}: holds a file that would be written outside its folder: not read")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise InputRefused(f"{path.name}: holds a symbolic link: not read")
        if member.flag_bits & 1:
            raise InputRefused(f"{path.name}: is encrypted; unpack it first")
    total = sum(member.file_size for member in members)
    if total > _budget(path):
        raise InputRefused(f"{path.name}: {total:,} bytes unpacked, more than any study needs (a zip bomb): not read")
    return members


def _budget(path: Path) -> int:
    return min(MAX_UNPACKED_BYTES, max(_SMALL_BYTES, _MAX_RATIO * path.stat().st_size))


def _stays_inside(name: str) -> bool:
    """Whether a relative name cannot lead out of the folder it is put in, on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    absolute = posix.is_absolute() or windows.is_absolute() or bool(windows.drive) or bool(windows.root)
    return not absolute and ".." not in posix.parts and ".." not in windows.parts and "\0" not in name


def _unpack_one(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, budget: int) -> int:
    """Unpack one file, stopping a little beyond the budget; returns the bytes written."""
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(member) as source, target.open("wb") as out:
        while written <= budget and (block := source.read(_BLOCK)):
            written += out.write(block)
    return written


def dicomdir_files(directory: Path, dataset: Any) -> list[Path]:
    """The files that a DICOMDIR lists (DICOM PS3.3 F.3), in its order, those that exist.

    Parameters
    ----------
    directory : the DICOMDIR file.
    dataset : its parsed content.

    Raises
    ------
    InputRefused
        When it names a file outside its own folder.
    """
    folder = directory.parent.resolve()
    files = []
    for record in dataset.get("DirectoryRecordSequence") or []:
        parts = record.get("ReferencedFileID")
        if not parts:
            continue
        relative = "/".join([parts] if isinstance(parts, str) else [str(part) for part in parts])
        target = (folder / relative).resolve()
        if not _stays_inside(relative) or not target.is_relative_to(folder):
            raise InputRefused(f"{directory.name}: names a file outside its folder: not read")
        if target.is_file():
            files.append(target)
    return files
