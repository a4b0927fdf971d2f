"""The follow-up from two files to the page: a real scan, and the patient breathed differently with a nodule grown."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import SimpleITK

from helpers_followup import GrowingBreath
from noduscope import compare as road
from noduscope.compare import CompareOptions, run_compare
from noduscope.io.read import read_scan
from noduscope.lungs import find_lungs
from noduscope.settings import LungSettings

CENTRE, RADIUS_MM = (-57.0, 131.3, -519.8), 12.0
"""The 15.5 mm nodule of LIDC-IDRI-0314, LPS mm, and a ball that holds it."""
DAYS = 120


def _write(scan, path):
    """A scan as one NIfTI file."""
    image = SimpleITK.GetImageFromArray(scan.hu)
    image.SetSpacing(scan.geometry.spacing_xyz_mm)
    image.SetOrigin(scan.geometry.origin_xyz_mm)
    image.SetDirection(scan.geometry.direction)
    SimpleITK.WriteImage(image, str(path))


@pytest.mark.slow
def test_a_nodule_that_doubled_between_two_breaths_is_told_as_grown(shared_data, tmp_path, monkeypatch):
    folder = shared_data / "scans" / "LIDC-IDRI-0314"
    prior = read_scan(folder).canonical()
    breath = GrowingBreath.of(find_lungs(prior, LungSettings()), centre=CENTRE, radius_mm=RADIUS_MM, factor=2.0)
    _write(breath.scan(prior), tmp_path / "later.nii")
    truth = float(breath.growth(np.array([CENTRE]))[0])
    seen = []

    def registered(*given):
        seen.append(register(*given))
        return seen[0]

    register = road.register_lungs
    monkeypatch.setattr(road, "register_lungs", registered)
    out = tmp_path / "out"
    held = run_compare(folder, tmp_path / "later.nii", out, CompareOptions(interval_days=DAYS))

    assert np.linalg.norm(seen[0].map(CENTRE) - breath.forward(np.array([CENTRE]))[0]) < 2.0
    row = next(r for r in held["rows"] if r["prior"].get("nodule_id") == 1)
    assert row["current"]["nodule_id"] == 1
    volume = row["volume_change"]["percent"]
    assert volume["low"] < 100 * (truth - 1) < volume["high"]
    assert row["status"] == "grown"
    time, expected = row["doubling_time_days"], DAYS * np.log(2) / np.log(truth)
    assert time["low"] < expected < time["high"]
    assert row["rules"]["bts_2015"]["met"] is True

    assert json.loads((out / "comparison.json").read_text())["rows"] == held["rows"]
    lines = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [line["status"] for line in lines] == [r["status"] for r in held["rows"]]
    assert 'class="status grown"' in (out / "comparison.html").read_text()
