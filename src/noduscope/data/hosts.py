"""Whole scans for training: prepared once, cached, with their known lesions.

The layout on disk: ``scans/<name>/`` holds one DICOM series (or any file that `read_scan` takes) and
``scans/nodules.csv`` the known lesions; ``luna16/`` beside ``scans/`` may hold LUNA16's excluded findings
(see `noduscope.data.known`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Lesion
from noduscope.data.cache import is_prepared, open_prepared, prepare_scan, prepared_folder
from noduscope.data.known import KnownLesion, lesions_beside
from noduscope.scan import Geometry, HuVolume
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class HostScan:
    """A scan's lung region with its known lesions: where crops and implants are taken from."""

    name: str
    hu: HuVolume
    lungs: NDArray[np.uint8]
    geometry: Geometry
    lesions: tuple[Lesion, ...]


def load_hosts(scans: Path, names: Iterable[str], cache: Path, settings: Settings) -> list[HostScan]:
    """Prepare the named scans, or take them from the cache where they were prepared before."""
    known = lesions_beside(scans)
    folder = prepared_folder(cache, settings)
    hosts = []
    for name in names:
        if not is_prepared(folder / name):
            prepare_scan(scans / name, folder / name, settings)
        hosts.append(open_host(folder / name, known.get(name, [])))
    return hosts


def open_host(folder: Path, known: Iterable[KnownLesion]) -> HostScan:
    """A prepared scan with its known lesions."""
    region = open_prepared(folder)
    lesions = tuple(
        Lesion(tuple(region.geometry.to_index(k.position_xyz_mm).tolist()), k.diameter_mm, k.counts) for k in known
    )
    return HostScan(folder.name, region.hu, region.lungs, region.geometry, lesions)
