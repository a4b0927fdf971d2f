"""From a scan to findings with a detector whose answer is known: places, sides, slices, whatever the orientation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers_chest import NODULES, without_lungs
from noduscope.boxes import Marks
from noduscope.demo import match_planted
from noduscope.errors import ModelError, NoScanFound
from noduscope.findings import Nodule, ScanResult
from noduscope.lungs import find_lungs
from noduscope.model.engine import near_lungs
from noduscope.phantom import Phantom
from noduscope.predict import Models, load_models, predict, with_timing
from noduscope.region import MARGIN_MM, lung_region
from noduscope.scan import Geometry, Scan
from noduscope.settings import DetectSettings, LungSettings, Settings


@pytest.fixture(scope="module")
def models(blob_bundle: Path) -> Models:
    return load_models(str(blob_bundle), threads=1)


@pytest.fixture(scope="module")
def result(chest: Phantom, models: Models) -> ScanResult:
    return predict(chest.scan, models)


def nearest(result: ScanResult, place: tuple[float, float, float]) -> Nodule:
    return min(result.nodules, key=lambda n: np.linalg.norm(np.subtract(n.position_xyz_mm, place)))


def test_what_was_planted_is_found_and_nothing_else(result: ScanResult):
    assert len(result.nodules) == len(NODULES)
    for planted, side in zip(NODULES, ("left", "right"), strict=True):
        found = nearest(result, planted.position_xyz_mm)
        # LUNA16's rule; the test's detector knows no offset, and its cells are 4 mm apart
        away = np.linalg.norm(np.subtract(found.position_xyz_mm, planted.position_xyz_mm))
        assert away < planted.diameter_mm / 2
        assert found.side == side
        assert found.zone in ("upper", "middle", "lower")
        assert found.diameter_mm.mean == pytest.approx(planted.diameter_mm, abs=2.5)


def test_findings_are_numbered_by_probability_and_point_at_their_slice(result: ScanResult):
    assert [n.id for n in result.nodules] == [1, 2]
    chances = [c.probability for c in result.candidates]
    assert chances == sorted(chances, reverse=True)
    for nodule in result.nodules:
        index = result.scan.geometry.to_index(nodule.position_xyz_mm)
        assert nodule.voxel_zyx == pytest.approx(tuple(index))
        assert nodule.slice_number == round(index[0]) + 1


def test_masks_lie_on_the_nodules_of_the_scan(result: ScanResult):
    for nodule in result.nodules:
        assert np.median(result.scan.hu[nodule.mask.box][nodule.mask.mask]) > -100


@pytest.mark.parametrize("turn", ["flipped", "coronal"])
def test_the_orientation_changes_nothing(chest: Phantom, models: Models, result: ScanResult, turn: str):
    scan = chest.scan
    g = scan.geometry
    if turn == "flipped":  # towards the feet, and to the patient's right
        hu = np.ascontiguousarray(scan.hu[::-1, :, ::-1])
        origin = g.to_world((g.shape_zyx[0] - 1, 0, g.shape_zyx[2] - 1))
        geometry = replace(g, origin_xyz_mm=tuple(origin), direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    else:  # slices from front to back, rows from feet to head
        hu = np.ascontiguousarray(scan.hu.transpose(1, 0, 2))
        geometry = Geometry(hu.shape, (2.5, 3.0, 2.5), g.origin_xyz_mm, (1.0, 0, 0, 0, 0, 1.0, 0, 1.0, 0))
    turned = predict(Scan(hu, geometry, scan.source), models)
    assert len(turned.nodules) == len(result.nodules)
    for a, b in zip(turned.nodules, result.nodules, strict=True):
        assert a.position_xyz_mm == pytest.approx(b.position_xyz_mm, abs=1e-3)
        assert a.probability == pytest.approx(b.probability, abs=1e-4)
        assert a.side == b.side
        assert np.median(hu[a.mask.box][a.mask.mask]) > -100
    assert np.count_nonzero(turned.lungs) == pytest.approx(np.count_nonzero(result.lungs), rel=0.01)


def test_the_threshold_is_the_user_s_or_the_model_s(chest: Phantom, models: Models, result: ScanResult):
    assert result.threshold == 0.5
    strict = predict(chest.scan, models, Settings(detect=DetectSettings(threshold=1.0)))
    assert strict.threshold == 1.0
    assert strict.nodules == ()
    assert len(strict.candidates) == len(result.candidates)


def test_stages_are_timed_and_summed(result: ScanResult):
    assert list(result.timing_s) == ["lungs", "detect", "measure", "guidelines"]
    timed = with_timing(with_timing(result, read=1.0), open=2.0)
    assert list(timed.timing_s) == ["open", "read", "lungs", "detect", "measure", "guidelines", "total"]
    assert timed.timing_s["total"] == pytest.approx(sum(result.timing_s.values()) + 3.0)


def test_without_lungs_it_says_so(models: Models):
    with pytest.raises(NoScanFound, match="no lungs"):
        predict(without_lungs(), models)


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="no model 'no-such-detector'"):
        load_models("no-such-detector")


def test_the_region_is_isotropic_and_holds_the_lungs_with_their_margin(chest: Phantom):
    lungs = find_lungs(chest.scan, LungSettings())
    region = lung_region(chest.scan, lungs, 1.5)
    assert region.geometry.spacing_xyz_mm == pytest.approx((1.5, 1.5, 1.5), rel=0.03)
    assert region.hu.shape == region.lungs.shape == region.geometry.shape_zyx
    true = np.argwhere(chest.lungs > 0)
    corners = chest.scan.geometry.to_world([true.min(axis=0), true.max(axis=0)])
    low, high = region.geometry.to_world([(0, 0, 0), np.subtract(region.hu.shape, 1)])
    assert np.all(low <= corners[0] - MARGIN_MM + 5)
    assert np.all(high >= corners[1] + MARGIN_MM - 5)
    # the same tissue: the nodule is where it was
    z, y, x = np.rint(region.geometry.to_index(NODULES[0].position_xyz_mm)).astype(int)
    assert region.hu[z, y, x] == pytest.approx(35, abs=60)
    assert region.lungs[z, y, x] == 1


def test_marks_far_from_the_lungs_are_dropped():
    lungs = np.zeros((20, 20, 20), np.uint8)
    lungs[8:12, 8:12, 8:12] = 1
    places = np.array([(10, 10, 10), (15, 10, 10), (16, 10, 10), (-30, 10, 10), (25, 25, 25)], np.float32)
    marks = Marks(places, np.zeros(5, np.float32), np.zeros(5, np.float32))
    assert near_lungs(marks, lungs).tolist() == [True, True, False, False, False]


def test_planted_and_found_are_paired_by_the_radius(result: ScanResult):
    finding = nearest(result, NODULES[0].position_xyz_mm)
    x, y, z = NODULES[0].position_xyz_mm

    def at(number: int, dx: float, probability: float) -> Nodule:
        return replace(finding, id=number, position_xyz_mm=(x + dx, y, z), probability=probability)

    # 6.4 of a radius of 6.5 is inside, 6.6 is not; the most probable one inside counts
    found = (at(1, 6.6, 0.99), at(2, 1.0, 0.7), at(3, -6.4, 0.9))
    pairs, false = match_planted(NODULES, found)
    assert [p.found.id if p.found else None for p in pairs] == [3, None]
    assert [f.id for f in false] == [1]
