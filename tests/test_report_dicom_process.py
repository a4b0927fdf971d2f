"""The process that makes DICOM objects: the same objects, and none lost when it is not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from noduscope.batch import DetectOptions, detect_one
from noduscope.report.dicom import REPORT, SEGMENTATION, dicom_files
from noduscope.report.dicom_process import DicomProcess
from test_report import make_result
from test_report_dicom import parse, result  # noqa: F401  (a fixture)


def said(data):
    """What an object says, but for identifiers and times, which are new each time, and how long the identifiers are."""
    dataset = parse(data)
    del dataset.file_meta.FileMetaInformationGroupLength
    return [line for line in str(dataset).splitlines() if not any(f" {vr}: " in line for vr in ("UI", "DT", "TM"))]


def test_it_makes_what_is_made_here(result):  # noqa: F811
    here = dicom_files(result)
    with DicomProcess() as aside:
        there = aside.files(result)
    assert there.warnings == here.warnings == ()
    assert set(there.files) == set(here.files) == {REPORT, SEGMENTATION}
    for name in here.files:
        assert len(said(here.files[name])) > 50
        assert said(there.files[name]) == said(here.files[name])
    assert (parse(there.files[SEGMENTATION]).pixel_array == parse(here.files[SEGMENTATION]).pixel_array).all()


@pytest.mark.parametrize("begin", [True, False])
def test_a_reason_comes_back_too(begin):
    with DicomProcess(begin=begin) as aside:
        assert [w.code for w in aside.files(make_result()).warnings] == ["no-dicom-results"]


@pytest.mark.parametrize("program", ["/no/such/python", "/bin/false"])
def test_without_the_process_they_are_made_here(result, monkeypatch, program):  # noqa: F811
    monkeypatch.setattr(sys, "executable", program)
    with DicomProcess() as aside:
        assert set(aside.files(result).files) == {REPORT, SEGMENTATION}


def test_a_process_that_is_not_used_ends_with_the_block(monkeypatch):
    begun = []
    real = subprocess.Popen

    def noted(*given, **options):
        begun.append(real(*given, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with pytest.raises(KeyError), DicomProcess():
        raise KeyError
    assert len(begun) == 1
    assert begun[0].poll() is not None


def test_no_process_loads_for_a_scan_that_is_not_dicom(chest_files, blob_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    detect_one(chest_files["mhd"], tmp_path / "out", DetectOptions(model=str(blob_bundle)))
    assert (tmp_path / "out" / "report.html").exists()
