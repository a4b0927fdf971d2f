"""Prepared scans on disk: each one's lung region, resampled once and then mapped into memory.

::

    CACHE/scans-<hashes>/<name>/
      hu.npy         int16 (z, y, x)
      lungs.npy      uint8 (z, y, x): 0 outside, 1 left, 2 right
      geometry.json  where it lies in the patient

The hashes are those of the settings which shape the content. The arrays are not compressed: a training step
cuts small crops out of random scans, and from a mapped array that reads those crops alone, however
many scans there are.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from noduscope.errors import InputRefused
from noduscope.io.read import read_scan
from noduscope.lungs import find_lungs
from noduscope.region import LungRegion, lung_region
from noduscope.scan import Geometry
from noduscope.settings import Settings, settings_hash

_HU, _LUNGS, _GEOMETRY = "hu.npy", "lungs.npy", "geometry.json"


def prepared_folder(cache: Path, settings: Settings) -> Path:
    """The folder of the scans that are prepared with these settings."""
    return cache / f"scans-{settings_hash(settings.preprocess)}-{settings_hash(settings.lungs)}"


def is_prepared(folder: Path) -> bool:
    """Whether the folder holds a prepared scan (it is whole or not there at all)."""
    return (folder / _GEOMETRY).exists()


def prepare_scan(path: Path, folder: Path, settings: Settings, series_uid: str | None = None) -> None:
    """Read a scan, find its lungs, keep the region around them (see `keep_prepared`).

    Parameters
    ----------
    path, series_uid : see `read_scan`.
    folder : of this scan, in `prepared_folder`.

    Raises
    ------
    InputRefused
        When the scan cannot be read, has no lungs, or the cache cannot be written.
    """
    scan = read_scan(path, series_uid=series_uid)
    keep_prepared(lung_region(scan, find_lungs(scan, settings.lungs), settings.preprocess.spacing_mm), folder)


def keep_prepared(region: LungRegion, folder: Path) -> None:
    """Write a lung region into a folder, under another name until it is whole.

    Raises
    ------
    InputRefused
        When the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise InputRefused(f"cannot write to {folder.parent}: {error.strerror}") from error
    try:
        _write(partial, region)
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError as error:
        # of two processes that prepared the same scan the first one's result stays
        if not is_prepared(folder):
            raise InputRefused(f"cannot write to {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, region: LungRegion) -> None:
    np.save(folder / _HU, region.hu)
    np.save(folder / _LUNGS, region.lungs)
    place = region.geometry
    text = {"spacing_xyz_mm": place.spacing_xyz_mm, "origin_xyz_mm": place.origin_xyz_mm, "direction": place.direction}
    (folder / _GEOMETRY).write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def open_prepared(folder: Path) -> LungRegion:
    """A prepared scan, its arrays mapped read-only.

    Raises
    ------
    InputRefused
        When it is not there or damaged.
    """
    try:
        place = json.loads((folder / _GEOMETRY).read_text(encoding="utf-8"))
        # plain arrays over the mapped files: what is computed from them is then no memmap either
        hu, lungs = (np.asarray(np.load(folder / n, mmap_mode="r", allow_pickle=False)) for n in (_HU, _LUNGS))
        return LungRegion(hu, lungs, Geometry(hu.shape, **{k: tuple(v) for k, v in place.items()}))
    except (OSError, ValueError, TypeError) as error:
        raise InputRefused(f"{folder} is no whole prepared scan ({error}); delete it and prepare it again") from error


def prepared_bytes(folder: Path) -> int:
    """What a prepared scan takes on disk."""
    return sum(file.stat().st_size for file in folder.iterdir())
