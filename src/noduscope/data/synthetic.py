"""Whole training scans that are made: synthetic chests, and patients' scans with synthetic opacities.

The chests hold nodules on vessels, of every type and at every place, all of them known. They are written in the layout
that `data.hosts` reads, so that one road prepares them and patients' scans.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noduscope.data.cache import is_prepared, keep_prepared, open_prepared, prepared_folder
from noduscope.data.hosts import HostScan, load_hosts
from noduscope.data.opacities import opacified, random_opacities
from noduscope.data.validation import KnownVolume
from noduscope.files import replace_text
from noduscope.phantom import PhantomSettings, make_phantom, plan_nodules, write_mhd
from noduscope.region import LungRegion
from noduscope.scan import HuVolume
from noduscope.settings import Settings

FIRST_SEED = 1000
"""Far from the seeds that people type; the demo's own, 0, is never trained on."""
_ROUNDS = 3
_DRAWN = "opacities-2"
"""Folder in the cache of the copies with opacities; another number where they are drawn in another way."""


def phantom_hosts(count: int, cache: Path, settings: Settings) -> list[HostScan]:
    """So many synthetic chests with 12 and more nodules each, made once and kept in the cache."""
    folder = cache / "phantoms"
    names = [_written(folder, FIRST_SEED + i) for i in range(count)]
    return [h for name in names for h in load_hosts(folder / name, ["phantom.mha"], folder / name, settings)]


def opacified_hosts(hosts: Sequence[HostScan], count: int, cache: Path, settings: Settings) -> list[HostScan]:
    """The first so many of the scans with opacities in their lungs, made once and kept in the cache."""
    made = []
    for host in hosts[:count]:
        folder = prepared_folder(cache, settings) / _DRAWN / f"{host.name}+opacities"
        if not is_prepared(folder):
            keep_prepared(LungRegion(_opaque(host), host.lungs, host.geometry), folder)
        made.append(dataclasses.replace(host, name=folder.name, hu=open_prepared(folder).hu))
    return made


def opacified_volumes(volumes: Sequence[KnownVolume]) -> tuple[KnownVolume, ...]:
    """Copies of the volumes with opacities in their lungs, in memory."""
    return tuple(dataclasses.replace(v, name=f"{v.name}+opacities", hu=_opaque(v)) for v in volumes)


def _opaque(scan: HostScan | KnownVolume) -> HuVolume:
    """The scan with opacities that its name alone decides on."""
    rng = np.random.default_rng((FIRST_SEED, zlib.crc32(scan.name.encode())))
    return opacified(rng, scan, random_opacities(rng))


def _written(folder: Path, seed: int) -> str:
    """The chest of a seed and its table of lesions in a folder of their own; the folder's name."""
    name = f"{seed}"
    table = folder / name / "nodules.csv"
    if not table.exists():
        nodules = plan_nodules(seed, _ROUNDS)
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_mhd(make_phantom(PhantomSettings(seed=seed, nodules=nodules)), folder / name / "phantom.mha")
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["scan", "coordX", "coordY", "coordZ", "diameter_mm", "kind"])
        rows.writerows(["phantom.mha", *n.position_xyz_mm, n.diameter_mm, "reference"] for n in nodules)
        # the table last: where it is, the scan is whole
        replace_text(table, text.getvalue())
    return name
