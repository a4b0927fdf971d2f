"""``noduscope demo``: the main job on the built-in phantom, planted against found."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noduscope.batch import DetectOptions, detect_one
from noduscope.files import replace_text
from noduscope.findings import Nodule, ScanResult
from noduscope.phantom import PhantomSettings, PlantedNodule, make_phantom, write_dicom
from noduscope.report.write import check_replaceable


@dataclass(frozen=True, slots=True)
class PlantedAndFound:
    """A planted nodule and the finding inside its radius, if there is one."""

    planted: PlantedNodule
    found: Nodule | None


@dataclass(frozen=True, slots=True, eq=False)
class DemoResult:
    """What the demo shows."""

    pairs: tuple[PlantedAndFound, ...]
    false_positives: tuple[Nodule, ...]
    result: ScanResult
    report: Path


def run_demo(out: Path, options: DetectOptions, seed: int = 0) -> DemoResult:
    """Write the phantom as a DICOM series to ``out/phantom``, analyse it into ``out/result``, compare.

    ``out/planted.csv`` holds what was planted.
    """
    check_replaceable(out / "result")
    phantom = make_phantom(PhantomSettings(seed=seed))
    series = write_dicom(phantom, _emptied(out / "phantom"))
    replace_text(out / "planted.csv", _planted_csv(phantom.nodules))
    result = detect_one(series, out / "result", options)
    pairs, rest = match_planted(phantom.nodules, result.nodules)
    return DemoResult(pairs, rest, result, out / "result" / "report.html")


def _emptied(folder: Path) -> Path:
    """The folder, without the series that an earlier demo left there; anything else in it stays and is refused."""
    if folder.is_dir() and all(p.is_file() and p.suffix == ".dcm" for p in folder.iterdir()):
        shutil.rmtree(folder)
    return folder


def match_planted(
    planted: tuple[PlantedNodule, ...], found: tuple[Nodule, ...]
) -> tuple[tuple[PlantedAndFound, ...], tuple[Nodule, ...]]:
    """LUNA16's rule: a finding nearer to a nodule's centre than its radius is a hit, the most probable one counts."""
    pairs, used = [], set()
    for nodule in planted:
        inside = [f for f in found if _apart(nodule, f) < nodule.diameter_mm / 2]
        used |= {f.id for f in inside}
        pairs.append(PlantedAndFound(nodule, max(inside, key=lambda f: f.probability, default=None)))
    return tuple(pairs), tuple(f for f in found if f.id not in used)


def _apart(planted: PlantedNodule, found: Nodule) -> float:
    return float(np.linalg.norm(np.subtract(planted.position_xyz_mm, found.position_xyz_mm)))


def _planted_csv(nodules: tuple[PlantedNodule, ...]) -> str:
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(["coordX", "coordY", "coordZ", "diameter_mm", "volume_mm3", "type", "shape", "place"])
    for n in nodules:
        place = [f"{v:.2f}" for v in n.position_xyz_mm]
        writer.writerow([*place, f"{n.diameter_mm:.2f}", f"{n.volume_mm3:.1f}", n.type, n.shape, n.place])
    return made.getvalue()
