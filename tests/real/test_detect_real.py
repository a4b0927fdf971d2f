"""The shipped detector on scans that it has never seen: every known nodule found, few marks beside them.

The scans without known nodules, and all but the LIDC ones, were never read for every nodule: what
`reviewed_findings` lists was looked at and counts neither way, nor do LUNA16's excluded findings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from noduscope.data.known import KnownLesion, lesions_beside
from noduscope.findings import Candidate, ScanResult
from noduscope.io.read import read_scan
from noduscope.model.bundle import find_bundles, shipped_weights
from noduscope.phantom import write_mhd, write_nifti
from noduscope.predict import Models, load_models, predict
from noduscope.scan import Geometry, Scan

pytestmark = pytest.mark.slow

WITH_NODULES = ("LIDC-IDRI-0001", "LIDC-IDRI-0314")
WITHOUT_KNOWN_NODULES = ("LCTSC-Test-S1-101", "LCTSC-Test-S1-102", "RICORD-1A-000082")
MOST_FALSE = 4


@pytest.fixture(scope="module")
def models() -> Models:
    """What is shipped, also where the user has a newer detector."""
    shipped = [b for b in find_bundles() if b.parent == shipped_weights() and b.name.startswith("detector-")]
    return load_models(str(shipped[-1]))


@pytest.fixture(scope="module")
def result_of(shared_data: Path, models: Models) -> Callable[[str], ScanResult]:
    """The result of a scan by its name, computed once."""

    @cache
    def run(name: str) -> ScanResult:
        return predict(read_scan(shared_data / "scans" / name), models)

    return run


def known(data: Path, name: str) -> list[KnownLesion]:
    """A scan's known lesions: the references, and what counts neither way."""
    return lesions_beside(data / "scans").get(name, [])


def within(found: Candidate, place: tuple[float, float, float], radius_mm: float) -> bool:
    return bool(np.linalg.norm(np.subtract(found.position_xyz_mm, place)) < radius_mm)


def false_positives(data: Path, name: str, result: ScanResult, threshold: float) -> list[Candidate]:
    """Marks from a probability on that lie in no known lesion and no reviewed one (LUNA16's rule)."""
    marks = [c for c in result.candidates if c.probability >= threshold]
    return [c for c in marks if not any(within(c, k.position_xyz_mm, k.diameter_mm / 2) for k in known(data, name))]


@pytest.mark.parametrize("name", WITH_NODULES)
def test_every_reference_nodule_is_found_at_even_odds(shared_data: Path, result_of, name: str):
    result = result_of(name)
    reference = [(k.position_xyz_mm, k.diameter_mm) for k in known(shared_data, name) if k.counts]
    assert reference
    for place, diameter in reference:
        hits = [c.probability for c in result.candidates if within(c, place, diameter / 2)]
        assert max(hits, default=0.0) >= 0.5, (place, diameter, hits)
        nodules = [n for n in result.nodules if np.linalg.norm(np.subtract(n.position_xyz_mm, place)) < diameter / 2]
        assert nodules, "found, but below the default threshold"


@pytest.mark.parametrize("name", [*WITH_NODULES, *WITHOUT_KNOWN_NODULES])
def test_there_are_few_false_positives(shared_data: Path, result_of, name: str):
    result = result_of(name)
    for threshold in (0.5, result.threshold):
        false = false_positives(shared_data, name, result, threshold)
        assert len(false) <= MOST_FALSE, [(c.position_xyz_mm, round(c.probability, 3)) for c in false]


def turned(scan: Scan) -> Scan:
    """The same patient, stored coronally and from the feet: other axes, other order, the same places."""
    g = scan.canonical().geometry
    hu = np.ascontiguousarray(scan.canonical().hu.transpose(1, 0, 2)[:, ::-1])
    x, y, z = g.spacing_xyz_mm
    origin = tuple(float(v) for v in g.to_world((g.shape_zyx[0] - 1, 0, 0)))
    axes = g.axes[:, [0, 2, 1]] * (1.0, -1.0, 1.0)
    geometry = Geometry(hu.shape, (x, z, y), origin, tuple(axes.ravel().tolist()))
    return Scan(hu, geometry, replace(scan.source, sop_instance_uids=()))


@pytest.mark.parametrize("form", ["mhd", "nifti", "turned"])
def test_the_findings_do_not_depend_on_how_the_scan_is_stored(models, result_of, tmp_path: Path, form: str):
    original = result_of("LIDC-IDRI-0001")
    if form == "turned":
        scan = turned(original.scan)
    elif form == "mhd":
        scan = read_scan(write_mhd(original.scan, tmp_path / "scan.mhd"))
    else:
        scan = read_scan(write_nifti(original.scan, tmp_path / "scan.nii"))
    other = predict(scan, models)
    assert len(other.nodules) == len(original.nodules)
    for nodule in original.nodules:
        same = min(other.nodules, key=lambda n: np.linalg.norm(np.subtract(n.position_xyz_mm, nodule.position_xyz_mm)))
        assert np.linalg.norm(np.subtract(same.position_xyz_mm, nodule.position_xyz_mm)) < 1.0
        assert same.probability == pytest.approx(nodule.probability, abs=0.05)
        assert same.side == nodule.side


def test_the_turned_scan_is_the_same_patient(result_of):
    """The check of the check: each voxel of the turned scan lies where it lay."""
    scan = result_of("LIDC-IDRI-0001").scan
    other = turned(scan)
    for voxel in ((10, 200, 300), (80, 100, 400), (120, 333, 77)):
        z, y, x = np.rint(other.geometry.to_index(scan.geometry.to_world(voxel))).astype(int)
        assert other.hu[z, y, x] == scan.hu[voxel]
