"""Results handed back into real studies: the two LIDC scans that nothing was trained on."""

from __future__ import annotations

import csv
import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from noduscope.findings import Diameter, ModelUsed, Nodule, NoduleMask, ScanResult
from noduscope.io.read import read_scan
from noduscope.report.dicom import REPORT, SEGMENTATION, dicom_files
from test_report_dicom import assert_same_voxels


def ball(geometry, centre_xyz_mm, diameter_mm):
    """The voxels within a ball."""
    reach = np.ceil(diameter_mm / 2 / np.array(geometry.spacing_zyx_mm)).astype(int) + 1
    middle = np.rint(geometry.to_index(centre_xyz_mm)).astype(int)
    start, stop = np.maximum(middle - reach, 0), np.minimum(middle + reach + 1, geometry.shape_zyx)
    box = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    grid = np.stack(np.meshgrid(*(np.arange(b.start, b.stop) for b in box), indexing="ij"), axis=-1)
    away = np.linalg.norm(geometry.to_world(grid) - centre_xyz_mm, axis=-1)
    return NoduleMask(box, away <= diameter_mm / 2)


def reference_result(shared_data, name) -> ScanResult:
    """A scan with its reference nodule as a ball."""
    scan = read_scan(shared_data / "scans" / name)
    with (shared_data / "scans" / "nodules.csv").open() as table:
        row = next(r for r in csv.DictReader(table) if r["scan"] == name and r["kind"] == "reference")
    centre = tuple(float(row[c]) for c in ("coordX", "coordY", "coordZ"))
    diameter = float(row["diameter_mm"])
    index = scan.geometry.to_index(centre)
    plane = round(index[0])
    nodule = Nodule(
        id=1,
        probability=0.9,
        position_xyz_mm=centre,
        voxel_zyx=tuple(float(i) for i in index),
        slice_number=plane + 1,
        sop_instance_uid=scan.source.sop_instance_uids[plane],
        diameter_mm=Diameter(diameter, diameter, diameter, diameter, diameter),
        volume_mm3=None,
        mask=ball(scan.geometry, centre, diameter),
    )
    lungs = np.zeros(scan.geometry.shape_zyx, np.uint8)
    return ScanResult(scan, lungs, (nodule,), (), 0.5, (ModelUsed("detector", "0", "0" * 64),), scan.warnings)


@pytest.mark.parametrize("name", ["LIDC-IDRI-0001", "LIDC-IDRI-0314"])
def test_a_real_study_gets_its_segmentation_and_report(shared_data, tmp_path, name):
    result = reference_result(shared_data, name)
    made = dicom_files(result, cad=True)
    assert made.warnings == ()
    scan = dcmread(result.scan.source.files[0], stop_before_pixels=True)
    seg, report = (dcmread(DicomBytesIO(made.files[f])) for f in (SEGMENTATION, REPORT))
    assert_same_voxels(result, seg)
    for ds in (seg, report):
        assert (ds.PatientID, ds.StudyInstanceUID) == (scan.PatientID, scan.StudyInstanceUID)
    assert seg.FrameOfReferenceUID == scan.FrameOfReferenceUID
    named = {
        g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for g in seg.PerFrameFunctionalGroupsSequence
    }
    assert result.nodules[0].sop_instance_uid in named
    if shutil.which("dciodvfy") is None:
        return
    for file, data in made.files.items():
        (tmp_path / file).write_bytes(data)
        done = subprocess.run(["dciodvfy", str(tmp_path / file)], capture_output=True, text=True, check=False)
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], (file, errors)
