"""Whole scans for training: prepared once, cached, with their known lesions.

The layout on disk: ``scans/<name>/`` holds one DICOM series (or any file that `read_scan` takes) and
``scans/nodules.csv`` the known lesions (``scan,coordX,coordY,coordZ,diameter_mm,kind``, LPS mm;
``kind`` is ``reference`` or ``other``: other counts neither way).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Lesion
from noduscope.data.cache import is_prepared, open_prepared, prepare_scan, prepared_folder
from noduscope.errors import InputRefused
from noduscope.scan import Geometry, HuVolume
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class KnownLesion:
    """A lesion in world coordinates, as a table of known lesions has it."""

    position_xyz_mm: tuple[float, float, float]
    diameter_mm: float
    counts: bool


@dataclass(frozen=True, slots=True, eq=False)
class HostScan:
    """A scan's lung region with its known lesions: where crops and implants are taken from."""

    name: str
    hu: HuVolume
    lungs: NDArray[np.uint8]
    geometry: Geometry
    lesions: tuple[Lesion, ...]


def read_lesions(path: Path) -> dict[str, list[KnownLesion]]:
    """Known lesions per scan of a ``nodules.csv``."""
    if not path.exists():
        raise InputRefused(f"{path.parent} holds no {path.name}: the table of known lesions is needed")
    known: dict[str, list[KnownLesion]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = (float(row["coordX"]), float(row["coordY"]), float(row["coordZ"]))
            lesion = KnownLesion(place, float(row["diameter_mm"]), row["kind"] == "reference")
            known.setdefault(row["scan"], []).append(lesion)
    return known


def reviewed_findings() -> dict[str, list[KnownLesion]]:
    """Places in the public scans that look like nodules and have no reference: neither reference nor negative.

    ``reviewed_findings.csv`` beside this module holds them, one by one with a reason. Only the LIDC's scans
    were read for all nodules; to call such a place a false positive would teach and score the opposite of what is seen.
    """
    known: dict[str, list[KnownLesion]] = {}
    text = (Path(__file__).parent / "reviewed_findings.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        place = (float(row["coordX"]), float(row["coordY"]), float(row["coordZ"]))
        known.setdefault(row["scan"], []).append(KnownLesion(place, float(row["diameter_mm"]), counts=False))
    return known


def load_hosts(scans: Path, names: Iterable[str], cache: Path, settings: Settings) -> list[HostScan]:
    """Prepare the named scans, or take them from the cache where they were prepared before."""
    lesions, reviewed = read_lesions(scans / "nodules.csv"), reviewed_findings()
    folder = prepared_folder(cache, settings)
    hosts = []
    for name in names:
        if not is_prepared(folder / name):
            prepare_scan(scans / name, folder / name, settings)
        hosts.append(open_host(folder / name, lesions.get(name, []) + reviewed.get(name, [])))
    return hosts


def open_host(folder: Path, known: Iterable[KnownLesion]) -> HostScan:
    """A prepared scan with its known lesions."""
    region = open_prepared(folder)
    lesions = tuple(
        Lesion(tuple(region.geometry.to_index(k.position_xyz_mm).tolist()), k.diameter_mm, k.counts) for k in known
    )
    return HostScan(folder.name, region.hu, region.lungs, region.geometry, lesions)
