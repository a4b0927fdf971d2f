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
from noduscope.errors import InputRefused
from noduscope.io.read import read_scan
from noduscope.lungs import find_lungs
from noduscope.region import lung_region
from noduscope.scan import Geometry, HuVolume
from noduscope.settings import Settings, settings_hash


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
    """Prepare the named scans, or take them from the cache where they were prepared before.

    The cache's key is the hash of the settings that shape its content.
    """
    lesions, reviewed = read_lesions(scans / "nodules.csv"), reviewed_findings()
    key = settings_hash(settings.preprocess) + settings_hash(settings.lungs)
    folder = cache / f"hosts-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return [_load_host(scans / n, folder, lesions.get(n, []) + reviewed.get(n, []), settings) for n in names]


def _load_host(path: Path, folder: Path, known: list[KnownLesion], settings: Settings) -> HostScan:
    file = folder / f"{path.name}.npz"
    if not file.exists():
        scan = read_scan(path)
        region = lung_region(scan, find_lungs(scan, settings.lungs), settings.preprocess.spacing_mm)
        place = np.concatenate([region.geometry.spacing_xyz_mm, region.geometry.origin_xyz_mm])
        axes = np.asarray(region.geometry.direction)
        temporary = file.with_suffix(".tmp.npz")
        np.savez_compressed(temporary, hu=region.hu, lungs=region.lungs, place=place, axes=axes)
        temporary.rename(file)
    with np.load(file, allow_pickle=False) as held:
        hu, lungs, place = held["hu"], held["lungs"], held["place"].tolist()
        geometry = Geometry(hu.shape, tuple(place[:3]), tuple(place[3:]), tuple(held["axes"].tolist()))
    lesions = tuple(
        Lesion(tuple(geometry.to_index(k.position_xyz_mm).tolist()), k.diameter_mm, k.counts) for k in known
    )
    return HostScan(path.name, hu, lungs, geometry, lesions)
