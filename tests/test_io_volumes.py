"""NIfTI, MetaImage and NRRD: the same scan as from DICOM, and refusals for what ITK would let pass."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_dicom import Place, small_chest, write_series
from noduscope.errors import AmbiguousInput, InputRefused, NoScanFound
from noduscope.io.read import list_series, read_scan

ENDINGS = [".nii", ".nii.gz", ".mhd", ".mha", ".nrrd", ".nhdr"]


def write_volume(path, values, place=None, packed=False):
    place = place or Place()
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(place.spacing_xyz)
    image.SetOrigin(place.origin)
    image.SetDirection(place.axes.ravel().tolist())
    sitk.WriteImage(image, str(path), packed)
    return path


@pytest.fixture
def hu():
    return small_chest()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_scan_that_dicom_gives(tmp_path, hu, ending, packed):
    write_series(tmp_path / "dicom", hu)
    dicom = read_scan(tmp_path / "dicom")
    scan = read_scan(write_volume(tmp_path / f"1.2.840.7{ending}", hu, packed=packed))
    np.testing.assert_array_equal(scan.hu, dicom.hu)
    assert scan.hu.flags.c_contiguous
    corners = [[0, 0, 0], [7, 0, 0], [0, 39, 0], [0, 0, 35], [3.5, 2, 1]]
    np.testing.assert_allclose(scan.geometry.to_world(corners), dicom.geometry.to_world(corners), atol=1e-4)
    assert scan.source.series_uid == "1.2.840.7" and scan.source.sop_instance_uids == ()


@given(
    ending=st.sampled_from(ENDINGS),
    orientation=st.sampled_from(
        [
            (1, 0, 0, 0, 1, 0),
            (-1, 0, 0, 0, -1, 0),
            (0, 1, 0, 0, 0, -1),
            (0, -1, 0, 1, 0, 0),
            (0.8, 0.6, 0, -0.6, 0.8, 0),
        ]
    ),
    spacing=st.tuples(*[st.floats(0.3, 3.0).map(lambda v: round(v, 3))] * 3),
    origin=st.tuples(*[st.floats(-400, 400).map(lambda v: round(v, 2))] * 3),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_positions_survive_any_orientation(tmp_path_factory, ending, orientation, spacing, origin):
    place = Place(spacing, origin, tuple(float(v) for v in orientation))
    hu = small_chest((4, 6, 5))
    scan = read_scan(write_volume(tmp_path_factory.mktemp("v") / f"a{ending}", hu, place))
    np.testing.assert_array_equal(scan.hu, hu)
    expected = np.array(origin) + place.axes @ (np.array([4, 5, 3]) * spacing)
    np.testing.assert_allclose(scan.geometry.to_world([3, 5, 4]), expected, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int16, np.uint16])
def test_other_number_types_are_rounded_to_int16(tmp_path, hu, dtype):
    if dtype == np.uint16:
        with pytest.raises(InputRefused, match="values run from"):
            read_scan(write_volume(tmp_path / "a.mha", (hu + 1024).astype(dtype)))
        return
    values = hu.astype(dtype)
    if values.dtype.kind == "f":
        values = values + dtype(0.3)
    scan = read_scan(write_volume(tmp_path / "a.mha", values, packed=True))
    np.testing.assert_array_equal(scan.hu, hu)


def test_padding_and_missing_numbers_become_air(tmp_path, hu):
    values = hu.astype(np.float32)
    values[0, 0, 0], values[0, 0, 1], values[0, 0, 2] = np.nan, -3024, 1e9
    scan = read_scan(write_volume(tmp_path / "a.nrrd", values))
    assert scan.hu[0, 0, :3].tolist() == [-1024, -1024, 32767]
    assert [w.code for w in scan.warnings] == ["not-a-number"]


def test_big_endian_packed_metaimage(tmp_path, hu):
    packed = zlib.compress(hu.astype(">i2").tobytes())
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\nCompressedData = True\n"
        f"CompressedDataSize = {len(packed)}\nElementSpacing = 0.7 0.8 2\nDimSize = 36 40 8\n"
        "ElementType = MET_SHORT\nElementDataFile = a.zraw\n"
    )
    (tmp_path / "a.mhd").write_text(header)
    (tmp_path / "a.zraw").write_bytes(packed)
    np.testing.assert_array_equal(read_scan(tmp_path / "a.mhd").hu, hu)


def test_nifti_scale_factors_are_applied(tmp_path, hu):
    path = write_volume(tmp_path / "a.nii", ((hu + 1024) // 2).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    np.testing.assert_array_equal(read_scan(path).hu, (hu + 1024) // 2 * 2 - 1024)


def test_nifti_without_orientation_is_warned_about(tmp_path, hu):
    path = write_volume(tmp_path / "a.nii", hu)
    data = bytearray(path.read_bytes())
    data[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(data)
    assert [w.code for w in read_scan(path).warnings] == ["no-orientation"]


# refusals


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
@pytest.mark.parametrize(
    ("ending", "packed", "victim"),
    [
        (".nii", False, ".nii"),
        (".nii.gz", True, ".nii.gz"),
        (".mhd", False, ".raw"),
        (".mhd", True, ".zraw"),
        (".mha", False, ".mha"),
        (".mha", True, ".mha"),
        (".nrrd", False, ".nrrd"),
        (".nrrd", True, ".nrrd"),
        (".nhdr", False, ".raw"),
    ],
)
def test_a_file_cut_short_is_refused(tmp_path, hu, ending, packed, victim, share):
    path = write_volume(tmp_path / f"a{ending}", hu, packed=packed)
    data = tmp_path / f"a{victim}"
    data.write_bytes(data.read_bytes()[: int(share * data.stat().st_size)])
    with pytest.raises(InputRefused, match=r"^a\."):
        read_scan(path)


@pytest.mark.parametrize("at", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_damaged_compressed_data_are_refused(tmp_path, hu, ending, at):
    path = write_volume(tmp_path / f"a{ending}", hu, packed=True)
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputRefused, match=r"^a\."):
        read_scan(path)


def test_a_gzip_of_two_members_is_whole(tmp_path, hu):
    data = write_volume(tmp_path / "a.nii", hu).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    np.testing.assert_array_equal(read_scan(tmp_path / "b.nii.gz").hu, hu)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_text_under_that_name(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("hello, this is no image\n" * 30)
    with pytest.raises(InputRefused, match=r"^a\."):
        read_scan(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("missing.raw", "is missing"),
        ("../a.raw", "outside its folder"),
        ("/etc/passwd", "outside its folder"),
        ("C:\\a.raw", "outside its folder"),
        ("LIST", "several files"),
        ("a%03d.raw 1 8 1", "several files"),
    ],
)
def test_a_metaimage_must_keep_its_data_beside_it(tmp_path, hu, line, message):
    inner = tmp_path / "in"
    inner.mkdir()
    path = write_volume(inner / "a.mhd", hu)
    (inner / "a.raw").rename(tmp_path / "a.raw")
    path.write_text(path.read_text().replace("a.raw", line))
    with pytest.raises(InputRefused, match=message):
        read_scan(path)


def test_a_detached_nrrd_must_keep_its_data_beside_it(tmp_path, hu):
    inner = tmp_path / "in"
    inner.mkdir()
    path = write_volume(inner / "a.nhdr", hu)
    (inner / "a.raw").rename(tmp_path / "a.raw")
    path.write_text(path.read_text().replace("a.raw", "../a.raw"))
    with pytest.raises(InputRefused, match="outside its folder"):
        read_scan(path)


@pytest.mark.parametrize("spacing", ["0 1 1", "nan 1 1", "-1 1 1"])
def test_a_spacing_that_is_no_length(tmp_path, hu, spacing):
    path = write_volume(tmp_path / "a.mhd", hu)
    text = [f"ElementSpacing = {spacing}" if "Spacing" in line else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(text) + "\n")
    with pytest.raises(InputRefused, match=r"a\.mhd: .*spacing"):
        read_scan(path)


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path, hu):
    path = write_volume(tmp_path / "a.mhd", hu, packed=True)
    path.write_text(path.read_text().replace("36 40 8", "60000 60000 9"))
    with pytest.raises(InputRefused, match="more than any chest CT has"):
        read_scan(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((20, 20), np.int16), "three axes"),
        (np.zeros((2, 8, 20, 20), np.float32), "three axes"),
        (np.full((8, 20, 20), -1000, np.int16), "same value"),
        (np.random.default_rng(0).integers(0, 256, (8, 20, 20)).astype(np.uint8), "windowed 8-bit picture"),
        (np.random.default_rng(0).random((8, 20, 20)).astype(np.float32), "windowed 8-bit picture or a mask"),
        (np.random.default_rng(0).integers(0, 4000, (8, 20, 20)).astype(np.int16), "expected Hounsfield units"),
    ],
)
def test_what_is_no_ct_volume(tmp_path, values, message):
    image = sitk.GetImageFromArray(values, isVector=False)
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    with pytest.raises(InputRefused, match=message):
        read_scan(tmp_path / "a.nii")


def test_colours_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((8, 20, 20, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.nii"))
    with pytest.raises(InputRefused, match="3 numbers per voxel"):
        read_scan(tmp_path / "a.nii")


def test_a_folder_with_one_volume_reads_it_and_with_two_asks(tmp_path, hu):
    write_volume(tmp_path / "1.2.3.mhd", hu)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)
    write_volume(tmp_path / "1.2.4.mhd", hu + 1)
    with pytest.raises(AmbiguousInput, match=r"1\.2\.3  \(1\.2\.3\.mhd\)"):
        read_scan(tmp_path)
    np.testing.assert_array_equal(read_scan(tmp_path, series_uid="1.2.4").hu, hu + 1)
    with pytest.raises(NoScanFound, match=r"no volume file named 9"):
        read_scan(tmp_path, series_uid="9")
    infos = list_series(tmp_path)
    assert [(i.uid, i.slices, i.refused) for i in infos] == [("1.2.3", 8, ""), ("1.2.4", 8, "")]
    assert infos[0].spacing_xyz_mm == pytest.approx((0.7, 0.8, 2.0))
