"""Scan, segmentation and report stored in a real PACS (Orthanc) by DICOM, found and fetched by DICOMweb."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage, SegmentationStorage

from noduscope.io.read import read_scan
from noduscope.phantom_write import write_dicom
from noduscope.report.dicom import REPORT, SEGMENTATION
from noduscope.report.write import write_result
from test_report import make_result

PLUGINS = Path("/usr/share/orthanc/plugins")
WAIT_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url, accept="application/json"):
    with urlopen(Request(url, headers={"Accept": accept}), timeout=60) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    """A fresh Orthanc on ports of its own: its HTTP address and its DICOM port."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None:
        pytest.skip("needs Orthanc")
    folder = tmp_path_factory.mktemp("orthanc")
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(p) for p in PLUGINS.glob("*DicomWeb*")],
        "DicomWeb": {"Enable": True},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    address = f"http://127.0.0.1:{http}"
    try:
        wait_for(f"{address}/system", server, folder / "log")
        yield address, dicom
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(url, server, log):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if server.poll() is not None:
            pytest.fail(f"Orthanc stopped: {log.read_text()[-2000:]}")
        try:
            get(url)
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"Orthanc did not answer within {WAIT_S:.0f} s")


@pytest.fixture(scope="module")
def sent(orthanc, tmp_path_factory):
    """The folder of a result that was sent together with its scan, and the Orthanc's address."""
    pynetdicom = pytest.importorskip("pynetdicom")
    address, port = orthanc
    base = tmp_path_factory.mktemp("sent")
    made = make_result()
    write_dicom(replace(made.scan, source=replace(made.scan.source, series_uid="1.2.840.99")), base / "scan")
    result = replace(made, scan=read_scan(base / "scan"))
    write_result(result, base / "out")
    entity = pynetdicom.AE("NODUSCOPE")
    for kind in (CTImageStorage, SegmentationStorage, Comprehensive3DSRStorage):
        entity.add_requested_context(kind)
    link = entity.associate("127.0.0.1", port, ae_title="ORTHANC")
    assert link.is_established
    files = [*sorted((base / "scan").iterdir()), base / "out" / SEGMENTATION, base / "out" / REPORT]
    statuses = {link.send_c_store(dcmread(path)).Status for path in files}
    link.release()
    assert statuses == {0x0000}
    return address, base / "out"


def test_it_is_one_study_of_one_patient_with_three_series(sent):
    address, _ = sent
    assert len(json.loads(get(f"{address}/patients"))) == 1
    assert len(json.loads(get(f"{address}/studies"))) == 1
    series = [json.loads(get(f"{address}/series/{s}")) for s in json.loads(get(f"{address}/series"))]
    assert sorted(s["MainDicomTags"]["Modality"] for s in series) == ["CT", "SEG", "SR"]


@pytest.mark.parametrize("name", [SEGMENTATION, REPORT])
def test_dicomweb_finds_and_returns_what_was_sent(sent, name):
    address, out = sent
    if not list(PLUGINS.glob("*DicomWeb*")):
        pytest.skip("needs Orthanc's DICOMweb plugin")
    mine = dcmread(out / name)
    study = f"{address}/dicom-web/studies/{mine.StudyInstanceUID}"
    assert len(json.loads(get(f"{study}/series", "application/dicom+json"))) == 3
    one = f"{study}/series/{mine.SeriesInstanceUID}/instances/{mine.SOPInstanceUID}"
    body = get(one, 'multipart/related; type="application/dicom"')
    start = body.index(b"DICM") - 128
    back = dcmread(DicomBytesIO(body[start : body.rindex(b"\r\n--")]))
    assert back.SOPInstanceUID == mine.SOPInstanceUID
    if name == SEGMENTATION:
        assert back.PixelData == mine.PixelData
    else:
        assert back.ContentSequence == mine.ContentSequence
