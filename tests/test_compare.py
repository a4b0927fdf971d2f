"""The follow-up from two paths to a folder: what is refused, what is written, what the page shows."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from pydicom import dcmread

from helpers_followup import result_of, shifted
from noduscope import compare as module
from noduscope.compare import CompareOptions, run_compare
from noduscope.errors import InputRefused
from noduscope.findings import NOT_A_MEDICAL_DEVICE
from noduscope.growth import compare
from noduscope.io.read import read_scan
from noduscope.phantom import PhantomSettings, PlantedNodule, make_phantom, write_dicom
from noduscope.report.compare_page import write_comparison
from noduscope.report.compare_tables import COLUMNS, comparison_dict, signed
from noduscope.report.earlier import read_findings
from noduscope.report.write import write_result
from noduscope.scan import Geometry, Scan, ScanSource, ScanWarning
from noduscope.settings import GrowthSettings

FILES = {"comparison.csv", "comparison.html", "comparison.json", "run.json"}
STAYS, GROWS, GOES = (-25.0, 0.0, 0.0), (0.0, 0.0, 0.0), (25.0, 0.0, 0.0)


def tissue(spheres, uid):
    """A block of lung with solid spheres, and what detection would say of it."""
    geometry = Geometry((40, 40, 70), (1.5, 1.5, 1.5), (-52.0, -30.0, -30.0))
    world = geometry.to_world(np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape_zyx), indexing="ij"), -1))
    hu = np.full(geometry.shape_zyx, -860.0)
    for place, diameter in spheres:
        hu += (40.0 - hu) * np.clip(0.5 - (np.linalg.norm(world - place, axis=-1) - diameter / 2) / 1.5, 0, 1)
    scan = Scan(hu.astype(np.int16), geometry, ScanSource(uid, "phantom", description=(("Kernel", "<b>soft</b>"),)))
    return result_of(scan, spheres, np.ones(geometry.shape_zyx, np.uint8))


@pytest.fixture(scope="module")
def comparison():
    prior = tissue([(STAYS, 8.0), (GROWS, 8.0), (GOES, 8.0)], "1.1")
    current = tissue([(STAYS, 8.0), (GROWS, 18.0)], "1.2")
    warned = (ScanWarning("patient-unknown", "Nobody knows <who>."),)
    return compare(prior, current, shifted(), 180, GrowthSettings(), warned)


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    out = tmp_path_factory.mktemp("follow-up") / "out"
    names = {path.name for path in write_comparison(comparison, out)}
    assert names == FILES == {path.name for path in out.iterdir()}
    return out


# --- files ------------------------------------------------------------------------------------------


def test_json_tells_every_fate(written):
    held = json.loads((written / "comparison.json").read_text())
    assert held["schema"] == "noduscope.comparison/1"
    assert held["not_a_medical_device"] is True
    assert {k: v for k, v in held["counts"].items() if v} == {"grown": 1, "stable": 1, "gone": 1}
    grown, stable, gone = held["rows"]
    assert grown["prior"]["nodule_id"] == 2
    assert grown["rules"]["lung_rads_2022"]["met"] is True
    assert grown["doubling_time_days"]["low"] < grown["doubling_time_days"]["days"]
    assert stable["volume_change"]["measurable"] is False
    assert stable["doubling_time_days"]["days"] is None
    assert gone["current"] == {"place_xyz_mm": list(GOES)}
    assert gone["text"] == "Marked in the prior scan; nothing there now."


def test_csv_has_one_line_per_nodule_and_empty_cells_for_what_is_not_known(written):
    rows = list(csv.DictReader(io.StringIO((written / "comparison.csv").read_text())))
    assert tuple(rows[0]) == COLUMNS
    assert [row["status"] for row in rows] == ["grown", "stable", "gone"]
    assert rows[0]["lung_rads_2022"] == "yes"
    assert float(rows[0]["volume_change_percent"]) > 300
    assert rows[2]["volume_change_percent"] == rows[2]["current_diameter_mm"] == rows[2]["bts_2015"] == ""


def test_page_is_one_file_with_both_scans_of_each_nodule(written):
    page = (written / "comparison.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert NOT_A_MEDICAL_DEVICE in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    # three planes of both scans for three nodules, two projections of both, each close-up in two versions
    assert page.count('class="panel') == 3 * 6 + 4
    for side in ("prior", "current"):
        assert page.count(f'alt="{side} scan, Axial view of nodule 1,') == 2
    assert "no measurable change" in page


def test_page_escapes_what_comes_from_the_scan(written):
    page = (written / "comparison.html").read_text()
    assert "<b>soft</b>" not in page
    assert "Nobody knows &lt;who&gt;." in page


def test_manifest_makes_the_folder_replaceable(comparison, written):
    run = json.loads((written / "run.json").read_text())
    assert set(run["files"]) == FILES
    assert {path.name for path in write_comparison(comparison, written)} == FILES


def test_a_place_that_was_not_scanned_has_a_sentence_instead_of_pictures(comparison, tmp_path):
    far = compare(comparison.prior, comparison.current, shifted((500.0, 0, 0)), 180, GrowthSettings())
    write_comparison(far, tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("This place was not scanned.") == len(far.rows) == 5


@pytest.mark.parametrize(("value", "text"), [(12.4, "+12"), (-3.6, "−4"), (0.3, "0"), (-0.3, "0")])
def test_signed(value, text):
    assert signed(value) == text


def test_unmarked_rows_say_where_to_look(comparison):
    blind = replace(comparison.current, nodules=())
    held = comparison_dict(compare(comparison.prior, blind, shifted(), 180, GrowthSettings()))
    texts = [row["text"] for row in held["rows"] if row["status"] == "unmarked"]
    assert len(texts) == 2
    assert all(re.search(r"Not marked by the detector in the current scan; \d+\.\d mm seen", t) for t in texts)


# --- the road from two paths ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two coarse phantoms as DICOM, half a year apart."""
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for seed, day in ((None, "20240101"), (5, "20240701")):
        planted = (PlantedNodule((-70.0, 10.0, 0.0), 20.0),)
        settings = PhantomSettings(spacing_xyz_mm=(4.0, 4.0, 5.0), nodules=planted, noise_seed=seed)
        path = write_dicom(make_phantom(settings), folder / day)
        for file in path.rglob("*.dcm"):
            dataset = dcmread(file)
            dataset.StudyDate = day
            dataset.save_as(file)
        paths.append(path)
    return tuple(paths)


@pytest.fixture
def road(monkeypatch):
    """Detection by truth and registration by nothing: what is tested here is the road between."""
    mark = [((-70.0, 10.0, 0.0), 20.0)]
    monkeypatch.setattr(module, "load_models", lambda name="detector": name)

    def truth(scan, models, settings):
        return result_of(scan, mark, np.ones_like(scan.hu, np.uint8))

    monkeypatch.setattr(module, "predict", truth)
    monkeypatch.setattr(module, "register_lungs", lambda *scans_and_settings: shifted())


def test_two_scans(road, scans, tmp_path):
    stages = []
    held = run_compare(*scans, tmp_path / "out", CompareOptions(on_stage=stages.append))
    assert held["interval_days"] == 182
    assert [row["status"] for row in held["rows"]] == ["stable"]
    assert {w["code"] for w in held["warnings"]} == {"slices-thick"}
    assert len(held["files"]) == 4
    assert stages == ["read", "detect", "register", "compare", "write"]


def test_swapped_scans_are_refused_unless_the_interval_is_given(road, scans, tmp_path):
    with pytest.raises(InputRefused, match="182 days older"):
        run_compare(*scans[::-1], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    held = run_compare(*scans[::-1], tmp_path / "out", CompareOptions(interval_days=10))
    assert held["interval_days"] == 10


def test_different_patients_are_refused_unless_forced(road, scans, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for k, file in enumerate(sorted(scans[1].rglob("*.dcm"))):
        dataset = dcmread(file)
        dataset.PatientID = "SOMEBODY"
        dataset.save_as(other / f"{k}.dcm")
    with pytest.raises(InputRefused, match="different patients") as refusal:
        run_compare(scans[0], other, tmp_path / "out")
    assert "SOMEBODY" not in str(refusal.value)
    held = run_compare(scans[0], other, tmp_path / "out", CompareOptions(force=True))
    assert held["warnings"][0]["code"] == "patient-differs"


def test_an_earlier_result_goes_with_its_scan(road, scans, tmp_path):
    scan = read_scan(scans[0])
    earlier = result_of(scan, [((-70.0, 10.0, 0.0), 20.0)], np.ones_like(scan.hu, np.uint8))
    folder = tmp_path / "earlier"
    write_result(earlier, folder)
    kept = read_findings(folder).nodules[0]
    assert kept.position_xyz_mm == earlier.nodules[0].position_xyz_mm
    with pytest.raises(InputRefused, match="--prior-scan"):
        run_compare(folder, scans[1], tmp_path / "out")
    with pytest.raises(InputRefused, match="made from"):
        other = read_scan(scans[1]).source.series_uid
        run_compare(folder, scans[1], tmp_path / "out", CompareOptions(prior_scan=scans[1], prior_series=other))
    held = run_compare(folder, scans[1], tmp_path / "out", CompareOptions(prior_scan=scans[0]))
    assert held["rows"][0]["prior"]["nodule_id"] == 1
    with pytest.raises(InputRefused, match="input"):
        run_compare(folder, scans[1], folder, CompareOptions(prior_scan=scans[0]))


def test_a_damaged_result_is_refused(road, scans, tmp_path):
    (tmp_path / "findings.json").write_text('{"schema": "noduscope.findings/1", "scan": {}}')
    with pytest.raises(InputRefused, match="damaged"):
        run_compare(tmp_path, scans[1], tmp_path / "out", CompareOptions(prior_scan=scans[0]))
    (tmp_path / "findings.json").write_text('{"schema": "noduscope.findings/9"}')
    with pytest.raises(InputRefused, match="schema"):
        run_compare(tmp_path, scans[1], tmp_path / "out", CompareOptions(prior_scan=scans[0]))


def test_a_scan_option_without_a_result_is_refused(road, scans, tmp_path):
    with pytest.raises(InputRefused, match="leave it out"):
        run_compare(*scans, tmp_path / "out", CompareOptions(current_scan=scans[1]))
