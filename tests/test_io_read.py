"""What a user may point at: folders, files, zips, DICOMDIRs; which series is taken; what is refused, and how."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, generate_uid

from helpers_dicom import Layout, Place, save, small_chest, write_series
from noduscope.errors import AmbiguousInput, InputRefused, NoScanFound
from noduscope.io import archive
from noduscope.io.read import list_series, read_scan


@pytest.fixture
def hu():
    return small_chest()


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for file in folder.rglob("*"):
            out.write(file, file.relative_to(folder))
    return target


# finding the series


def test_the_chest_ct_is_found_among_other_series_and_files(tmp_path, hu):
    uid = write_series(tmp_path / "a" / "b", hu)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / "report.dcm").write_text("a text file renamed .dcm")
    write_series(tmp_path / "mr", hu, edit=lambda ds, _: setattr(ds, "Modality", "MR"))
    write_series(tmp_path / "scout", hu, edit=lambda ds, _: setattr(ds, "ImageType", "ORIGINAL\\PRIMARY\\LOCALIZER"))
    write_series(tmp_path / "few", hu[:3])
    write_series(tmp_path / "coronal", hu, place=Place(orientation=(1, 0, 0, 0, 0, -1)))
    write_series(tmp_path / "mip", hu, edit=lambda ds, _: setattr(ds, "ImageType", "DERIVED\\SECONDARY\\AXIAL\\MIP"))
    write_series(tmp_path / "iodine", hu, edit=lambda ds, _: setattr(ds, "RescaleType", "MGML"))
    write_series(tmp_path / "seg", hu[:1], edit=lambda ds, _: setattr(ds, "Modality", "SEG"))
    write_series(tmp_path / "capture", hu, edit=lambda ds, _: setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"))
    scan = read_scan(tmp_path)
    assert scan.source.series_uid == uid and scan.warnings == ()
    np.testing.assert_array_equal(scan.hu, hu)
    infos = list_series(tmp_path)
    assert infos[0].uid == uid and infos[0].slices == 8 and infos[0].refused == ""
    assert infos[0].spacing_xyz_mm == pytest.approx((0.7, 0.8, 2.0))
    assert sorted(info.refused for info in infos[1:]) == [
        "localizer (scout)",
        "modality MR, not CT",
        "modality SEG, not CT",
        "not a CT image (a secondary capture or a report)",
        "not axial",
        "only 3 slice(s)",
        "projection or rendering",
        "values in MGML, not HU",
    ]


def test_a_scout_inside_the_series_is_left_out(tmp_path, hu):
    scout = {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER", "ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}

    def edit(ds, i):
        if i == 0:
            for keyword, value in scout.items():
                setattr(ds, keyword, value)

    write_series(tmp_path, hu, edit=edit)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu[1:])
    assert scan.warnings == ()


def test_a_coronal_series_alone_is_read(tmp_path, hu):
    place = Place(orientation=(1.0, 0.0, 0.0, 0.0, 0.0, -1.0))
    write_series(tmp_path, hu, place=place)
    scan = read_scan(tmp_path)
    np.testing.assert_allclose(scan.geometry.to_world([0, 10, 0]), [-100, -120, -308])


def test_several_candidates_are_listed_and_one_can_be_chosen(tmp_path, hu):
    soft = write_series(tmp_path / "1", hu, edit=lambda ds, _: setattr(ds, "SeriesDescription", "B30f soft"))
    sharp = write_series(tmp_path / "2", hu + 1, edit=lambda ds, _: setattr(ds, "SeriesDescription", "B70f sharp"))
    with pytest.raises(AmbiguousInput) as refused:
        read_scan(tmp_path)
    for part in (soft, sharp, "B30f soft", "B70f sharp", "8 slices, 0.70 × 0.80 × 2.00 mm", "--series"):
        assert part in str(refused.value)
    np.testing.assert_array_equal(read_scan(tmp_path, series_uid=sharp).hu, hu + 1)
    with pytest.raises(NoScanFound, match=rf"there is no series 1\.2\.3; there are:\n.*{soft}"):
        read_scan(tmp_path, series_uid="1.2.3")


def test_choosing_a_series_that_is_no_ct_says_so(tmp_path, hu):
    uid = write_series(tmp_path, hu, edit=lambda ds, _: setattr(ds, "Modality", "PT"))
    with pytest.raises(NoScanFound, match="modality PT, not CT"):
        read_scan(tmp_path, series_uid=uid)
    with pytest.raises(NoScanFound, match="modality PT, not CT"):
        read_scan(tmp_path)


def test_one_file_of_a_series_reads_its_series_only(tmp_path, hu):
    uid = write_series(tmp_path, hu)
    write_series(tmp_path, hu + 1)
    file = next(tmp_path.glob(f"*{uid[-6:]}.dcm"))
    scan = read_scan(file)
    assert scan.source.series_uid == uid
    np.testing.assert_array_equal(scan.hu, hu)


def test_pixels_of_other_series_are_not_touched(tmp_path, hu):
    write_series(tmp_path / "good", hu)
    write_series(tmp_path / "other", hu[:4])
    for file in (tmp_path / "other").iterdir():
        file.write_bytes(file.read_bytes()[:-1000])
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


def test_damaged_files_beside_the_scan_are_told(tmp_path, hu):
    write_series(tmp_path, hu)
    victim = min(tmp_path.iterdir(), key=lambda f: dcmread(f).ImagePositionPatient[2])
    victim.write_bytes(victim.read_bytes()[:300])
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu[1:])
    assert [w.code for w in scan.warnings] == ["skipped-files"] and "1 file(s)" in scan.warnings[0].text


def test_linked_files_are_followed_and_link_loops_are_not(tmp_path, hu):
    write_series(tmp_path / "real", hu)
    links = tmp_path / "links"
    links.mkdir()
    for file in (tmp_path / "real").iterdir():
        (links / file.name).symlink_to(file)
    (links / "loop").symlink_to(links)
    np.testing.assert_array_equal(read_scan(links).hu, hu)


# zip


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_a_zip_reads_like_its_folder(tmp_path, hu, syntax):
    uid = write_series(tmp_path / "in" / "deep", hu, layout=Layout(syntax=syntax))
    path = zipped(tmp_path / "in", tmp_path / "scan.zip")
    scan = read_scan(path)
    assert scan.source.series_uid == uid
    np.testing.assert_array_equal(scan.hu, hu)
    assert [info.uid for info in list_series(path)] == [uid]


def test_the_unpacked_files_live_as_long_as_the_voxels(tmp_path, hu):
    write_series(tmp_path / "in", hu)
    scan = read_scan(zipped(tmp_path / "in", tmp_path / "scan.zip"))
    files = [Path(file) for file in scan.source.files]
    part = scan.cropped((slice(0, 2), slice(0, 9), slice(0, 9)))
    del scan
    assert all(file.exists() for file in files)
    del part
    assert not any(file.exists() for file in files)


def test_a_refused_zip_leaves_nothing_behind(tmp_path, hu, monkeypatch):
    monkeypatch.setattr(archive.tempfile, "tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    with pytest.raises(NoScanFound, match=r"empty\.zip: no chest CT found"):
        read_scan(zipped(tmp_path / "in", tmp_path / "empty.zip"))
    write_series(tmp_path / "in", hu)
    good = zipped(tmp_path / "in", tmp_path / "cut.zip")
    good.write_bytes(good.read_bytes()[:-500])
    with pytest.raises(InputRefused, match="damaged zip"):
        read_scan(good)
    assert not list((tmp_path / "temp").iterdir())


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "C:\\evil.dcm", "..\\evil.dcm"])
def test_a_zip_cannot_write_outside_its_folder(tmp_path, name):
    path = tmp_path / "slip.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(name, b"x")
    with pytest.raises(InputRefused, match="outside its folder"):
        read_scan(path)


def test_a_zip_with_a_link_is_refused(tmp_path):
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as out:
        entry = zipfile.ZipInfo("a.dcm")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        out.writestr(entry, "/etc/passwd")
    with pytest.raises(InputRefused, match="symbolic link"):
        read_scan(path)


def test_a_zip_bomb_is_refused_by_what_it_announces(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_SMALL_BYTES", 1 << 16)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.dcm", bytes(1 << 22))
    with pytest.raises(InputRefused, match="zip bomb"):
        read_scan(path)


def test_a_zip_bomb_is_refused_by_what_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_SMALL_BYTES", 1 << 16)
    monkeypatch.setattr(archive, "_MAX_RATIO", 1)
    monkeypatch.setattr(archive, "_checked_members", lambda members, path: members.infolist())
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a.dcm", bytes(1 << 23))
    with pytest.raises(InputRefused, match="more than it announces"):
        read_scan(path)


# DICOMDIR


def write_dicomdir(folder: Path, names) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.1.3.10", generate_uid()
    ds.DirectoryRecordSequence = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with disable_value_validation():  # real discs hold names that the standard forbids
            record.ReferencedFileID = list(name)
        ds.DirectoryRecordSequence.append(record)
    save(ds, folder / "DICOMDIR")
    return folder / "DICOMDIR"


def test_a_dicomdir_reads_the_files_it_lists(tmp_path, hu):
    uid = write_series(tmp_path / "DATA" / "S1", hu)
    write_series(tmp_path / "OTHER", hu + 1)
    names = [("DATA", "S1", f.name) for f in (tmp_path / "DATA" / "S1").iterdir()]
    scan = read_scan(write_dicomdir(tmp_path, names))
    assert scan.source.series_uid == uid
    np.testing.assert_array_equal(scan.hu, hu)
    with pytest.raises(AmbiguousInput):
        read_scan(tmp_path)


def test_a_dicomdir_cannot_lead_outside(tmp_path, hu):
    write_series(tmp_path / "secret", hu)
    inner = tmp_path / "disc"
    inner.mkdir()
    names = [("..", "secret", f.name) for f in (tmp_path / "secret").iterdir()]
    with pytest.raises(InputRefused, match="outside its folder"):
        read_scan(write_dicomdir(inner, names))
    (inner / "link").symlink_to(tmp_path / "secret")
    names = [("link", f.name) for f in (tmp_path / "secret").iterdir()]
    with pytest.raises(InputRefused, match="outside its folder"):
        read_scan(write_dicomdir(inner, names))


def test_a_dicomdir_without_its_files(tmp_path):
    with pytest.raises(NoScanFound, match="lists no file that is there"):
        read_scan(write_dicomdir(tmp_path, [("A", "B")]))


# refusals


def test_a_missing_path(tmp_path):
    with pytest.raises(NoScanFound, match="no such file or folder"):
        read_scan(tmp_path / "nowhere")
    with pytest.raises(NoScanFound):
        list_series(tmp_path / "nowhere")


def test_an_empty_folder_says_what_every_reader_saw(tmp_path):
    with pytest.raises(NoScanFound, match=r"DICOM: the folder is empty; zip: not a zip archive; NIfTI"):
        read_scan(tmp_path)
    assert list_series(tmp_path) == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.dcm", b"just a text\n" * 50),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
        ("a.jpg", b"\xff\xd8\xff"),
        ("e", b""),
    ],
)
def test_a_file_that_is_no_scan(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(NoScanFound, match=r"DICOM: .*(not DICOM|empty file)"):
            read_scan(path)


def test_a_single_slice(tmp_path, hu):
    uid = write_series(tmp_path, hu[:1])
    with pytest.raises(NoScanFound, match=r"only 1 slice\(s\)"):
        read_scan(tmp_path)
    with pytest.raises(InputRefused, match=r"single slice|same place"):
        read_scan(tmp_path, series_uid=uid)


def test_an_unreadable_file_is_a_sentence(tmp_path, hu, monkeypatch):
    write_series(tmp_path, hu)
    real = Path.open

    def denied(self, *args, **kwargs):
        if self.suffix == ".dcm":
            raise PermissionError(13, "Permission denied")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(NoScanFound, match=r"8 file\(s\) cannot be opened \(Permission denied\)"):
        read_scan(tmp_path)


def test_a_windowed_picture_in_ct_clothes_is_refused(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (8, 40, 36))
    write_series(tmp_path, grey, layout=Layout(intercept=0.0))
    with pytest.raises(InputRefused, match="windowed 8-bit picture"):
        read_scan(tmp_path)


def test_neither_warnings_nor_logs_nor_errors_hold_the_patient(tmp_path, hu, caplog):
    caplog.set_level(logging.DEBUG, logger="noduscope")
    write_series(tmp_path / "good", hu, edit=lambda ds, _: setattr(ds, "AcquisitionNumber", "1"))
    write_series(tmp_path / "bad", hu[:2])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scan = read_scan(tmp_path)
        with pytest.raises(NoScanFound) as refused:
            read_scan(tmp_path / "bad")
    said = [str(refused.value), repr(scan.source), repr(scan.warnings), *(r.getMessage() for r in caplog.records)]
    assert not caught
    assert not any("secret" in text.lower() for text in said)


def test_the_reader_of_one_format_does_not_load_the_library_of_another():
    script = (
        "import sys\nimport noduscope.io.read\n"
        "print([m for m in ('pydicom', 'SimpleITK', 'cv2', 'scipy', 'openvino', 'tensorflow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert result.stdout.strip() == "[]"
