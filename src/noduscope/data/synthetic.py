"""Synthetic chests as whole training scans: nodules on vessels, of every type and at every place, all of them known.

They are written in the layout that `data.hosts` reads, so that one road prepares them and patients' scans.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from noduscope.data.hosts import HostScan, load_hosts
from noduscope.files import replace_text
from noduscope.phantom import PhantomSettings, make_phantom, plan_nodules, write_mhd
from noduscope.settings import Settings

FIRST_SEED = 1000
"""Far from the seeds that people type; the demo's own, 0, is never trained on."""
_ROUNDS = 3


def phantom_hosts(count: int, cache: Path, settings: Settings) -> list[HostScan]:
    """So many synthetic chests with 12 and more nodules each, made once and kept in the cache."""
    folder = cache / "phantoms"
    names = [_written(folder, FIRST_SEED + i) for i in range(count)]
    return [h for name in names for h in load_hosts(folder / name, ["phantom.mha"], folder / name, settings)]


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
