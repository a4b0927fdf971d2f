"""DICOM series: every transfer syntax and layout gives the same HU; odd stacks are warned about or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from helpers_dicom import Layout, Place, save, set_pixels, slice_dataset, small_chest, write_series
from noduscope.errors import InputRefused
from noduscope.io import pixels
from noduscope.io.read import read_scan

SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
]


def codes(scan):
    return [warning.code for warning in scan.warnings]


@pytest.fixture
def hu():
    return small_chest()


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_every_lossless_transfer_syntax_gives_the_same_scan(tmp_path, hu, syntax):
    uid = write_series(tmp_path, hu, layout=Layout(syntax=syntax))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert scan.hu.flags.c_contiguous and scan.warnings == ()
    assert scan.source.series_uid == uid and scan.source.reader == "dicom"
    np.testing.assert_allclose(scan.geometry.to_world([7, 0, 0]), [-100, -120, -286])
    np.testing.assert_allclose(scan.geometry.to_world([0, 10, 5]), [-96.5, -112, -300])


@pytest.mark.parametrize("syntax", [s for s in SYNTAXES if s != JPEGLosslessSV1], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize("bits", [13, 16])
def test_signed_numbers_keep_their_sign(tmp_path, hu, syntax, bits):
    write_series(tmp_path, hu, layout=Layout(syntax=syntax, signed=True, bits_stored=bits, intercept=0.0))
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


def test_near_lossless_jpeg_ls_is_within_its_bound(tmp_path, hu):
    write_series(tmp_path, hu, layout=Layout(syntax=JPEGLSNearLossless, near=3, bits_stored=12))
    difference = np.abs(read_scan(tmp_path).hu.astype(int) - hu)
    assert 0 < difference.max() <= 3


def test_jpeg_ls_reads_the_same_without_the_direct_call(tmp_path, hu, monkeypatch):
    write_series(tmp_path, hu, layout=Layout(syntax=JPEGLSLossless))
    assert pixels._charls() is not None
    monkeypatch.setattr(pixels, "_charls", lambda: None)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


def test_bits_above_bits_stored_are_ignored(tmp_path, hu):
    def overlay(ds, _):
        data = np.frombuffer(ds.PixelData, "<u2") | np.uint16(0x8000)
        ds.PixelData = data.tobytes()

    write_series(tmp_path, hu, layout=Layout(bits_stored=12), edit=overlay)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


def test_rescale_is_taken_from_each_slice(tmp_path, hu):
    def own_rescale(ds, i):
        stored = np.frombuffer(ds.PixelData, "<u2").astype(int) - 1024
        ds.RescaleIntercept, ds.RescaleSlope = -1500 - i, 0.5
        set_pixels(ds, (2 * (stored + 1500 + i)).reshape(40, 36), Layout())

    write_series(tmp_path, hu, edit=own_rescale)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)


@given(
    orientation=st.sampled_from(
        [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, -0.6, 0.8, 0)]
    ),
    spacing=st.tuples(*[st.floats(0.3, 3.0).map(lambda v: round(v, 4))] * 3),
    origin=st.tuples(*[st.floats(-400, 400).map(lambda v: round(v, 3))] * 3),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_world_positions_follow_the_header_for_any_orientation(tmp_path_factory, orientation, spacing, origin):
    folder = tmp_path_factory.mktemp("series")
    hu = small_chest((5, 8, 7))
    place = Place(spacing, origin, tuple(float(v) for v in orientation))
    write_series(folder, hu, place=place)
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.hu, hu)
    # DICOM PS3.3 C.7.6.2.1.1, by hand for voxel (z 3, y 2, x 6)
    expected = place.positions(5)[3] + place.axes @ (6 * spacing[0], 2 * spacing[1], 0)
    np.testing.assert_allclose(scan.geometry.to_world([3, 2, 6]), expected, atol=1e-3)


def test_slice_identifiers_follow_the_slices(tmp_path, hu):
    at = {}
    write_series(tmp_path, hu, edit=lambda ds, i: at.__setitem__(i, ds.SOPInstanceUID))
    scan = read_scan(tmp_path)
    assert scan.source.sop_instance_uids == tuple(at[i] for i in range(8))
    assert [dcmread(f).SOPInstanceUID for f in scan.source.files] == list(scan.source.sop_instance_uids)


# padding


@pytest.mark.parametrize(
    ("padding", "stored", "layout"),
    [
        (63536, -2000, Layout(signed=True)),
        (-2000 & 0xFFFF, -2000, Layout(signed=True, intercept=0.0)),
        (32767, 32767, Layout(signed=True)),
        (0, 0, Layout()),
    ],
)
def test_padding_becomes_air(tmp_path, hu, padding, stored, layout):
    hu = np.maximum(hu, -1000)

    def pad(ds, _):
        data = np.frombuffer(ds.PixelData, "<i2").copy().reshape(40, 36)
        data[:3, :3] = stored
        set_pixels(ds, data.astype(int), layout)
        ds.add_new("PixelPaddingValue", "US", padding)

    write_series(tmp_path, hu, layout=layout, edit=pad)
    scan = read_scan(tmp_path)
    assert np.all(scan.hu[:, :3, :3] == -1024)
    np.testing.assert_array_equal(scan.hu[:, 3:], hu[:, 3:])


def test_padding_wider_than_bits_stored_becomes_air(tmp_path, hu):
    def pad(ds, _):
        data = np.frombuffer(ds.PixelData, "<u2").copy().reshape(40, 36)
        data[:2] = 63536
        ds.PixelData = data.tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path, hu, layout=Layout(bits_stored=12), edit=pad)
    assert np.all(read_scan(tmp_path).hu[:, :2] == -1024)


def test_padding_that_reads_as_water_is_believed_only_outside_the_circle(tmp_path):
    hu = small_chest((5, 32, 32))
    hu[:, [0, 0, -1, -1], [0, -1, 0, -1]] = 0
    hu[:, 20, 16] = 0

    def pad(ds, _):
        ds.add_new("PixelPaddingValue", "US", 0)

    write_series(tmp_path, hu, layout=Layout(signed=True, intercept=0.0), edit=pad)
    read = read_scan(tmp_path).hu
    assert np.all(read[:, [0, 0, -1, -1], [0, -1, 0, -1]] == -1024)
    assert np.all(read[:, 20, 16] == 0)


def test_values_outside_the_circle_without_a_padding_value_become_air(tmp_path, hu):
    hu = hu.copy()
    hu[:, 0, 0] = -3024
    write_series(tmp_path, hu, layout=Layout(signed=True, intercept=0.0))
    read = read_scan(tmp_path).hu
    assert np.all(read[:, 0, 0] == -1024) and read.min() == -1024


def test_missing_rescale_is_a_warning_where_the_numbers_are_hu(tmp_path, hu):
    write_series(tmp_path, hu, layout=Layout(signed=True, intercept=None, slope=None))
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert codes(scan) == ["rescale-missing"]


def test_missing_rescale_is_refused_where_they_are_not(tmp_path, hu):
    def strip(ds, _):
        del ds.RescaleSlope, ds.RescaleIntercept

    write_series(tmp_path, hu, edit=strip)
    with pytest.raises(InputRefused, match="values run from"):
        read_scan(tmp_path)


# order, gaps, duplicates, tilt


def test_one_missing_slice_is_interpolated_and_named(tmp_path, hu):
    place = Place()
    keep = [0, 1, 2, 4, 5, 6, 7]
    uids = []
    write_series(
        tmp_path, hu[keep], positions=place.positions(8)[keep], edit=lambda ds, i: uids.append(ds.SOPInstanceUID)
    )
    scan = read_scan(tmp_path)
    assert scan.hu.shape[0] == 8 and codes(scan) == ["slice-gap"] and "slice 4" in scan.warnings[0].text
    np.testing.assert_array_equal(scan.hu[keep], hu[keep])
    np.testing.assert_array_equal(scan.hu[3], np.rint((hu[2].astype(float) + hu[4]) / 2))
    assert scan.source.sop_instance_uids[3] in (uids[2], uids[3])
    np.testing.assert_allclose(scan.geometry.spacing_xyz_mm, (0.7, 0.8, 2.0))


def test_a_gap_that_could_hide_a_nodule_is_refused(tmp_path):
    hu = small_chest((20, 8, 8))
    keep = [i for i in range(20) if not 7 <= i < 14]
    write_series(tmp_path, hu[keep], positions=Place().positions(20)[keep])
    with pytest.raises(InputRefused, match=r"16\.00 mm between the slices at -288\.00 and -272\.00"):
        read_scan(tmp_path)


def test_uneven_spacing_is_resampled_onto_an_even_grid(tmp_path):
    depth = np.array([0, 2, 4, 6, 7.2, 9.2, 11.2, 13.2, 15.2, 17.2])
    ramp = np.clip(np.broadcast_to(100 * depth[:, None, None] - 900, (10, 6, 6)), -1024, 3000).astype(np.int16)
    positions = np.array([[0, 0, d] for d in depth])
    write_series(tmp_path, ramp, positions=positions)
    scan = read_scan(tmp_path)
    assert codes(scan) == ["uneven-spacing"]
    z = scan.geometry.to_world(np.stack([np.arange(scan.hu.shape[0]), *np.zeros((2, scan.hu.shape[0]))], axis=1))[:, 2]
    # the ramp is linear in z, so linear interpolation must keep it (a slice nearer than a tenth is taken as it is)
    assert np.abs(scan.hu[:, 0, 0] - (100 * z - 900)).max() <= 0.1 * 200 + 1
    assert np.all(scan.geometry.spacing_xyz_mm[2] == 2.0)


def test_a_stray_duplicate_is_dropped_and_the_larger_acquisition_kept(tmp_path, hu):
    stray = Place().positions(8)[3] + np.array([0, 0, 0.01])
    positions = np.concatenate([Place().positions(8), stray[None]])
    stack = np.concatenate([hu, hu[:1]])
    write_series(
        tmp_path, stack, positions=positions, edit=lambda ds, i: setattr(ds, "AcquisitionNumber", 1 + (i == 8))
    )
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert codes(scan) == ["duplicate-slice"] and "-293.99 mm" in scan.warnings[0].text


def test_two_acquisitions_in_one_series_are_refused(tmp_path, hu):
    write_series(tmp_path, np.concatenate([hu, hu]), positions=np.concatenate([Place().positions(8)] * 2))
    with pytest.raises(InputRefused, match="8 of 16 slices lie where another slice already is"):
        read_scan(tmp_path)


def test_copies_of_a_file_count_once(tmp_path, hu):
    write_series(tmp_path, hu)
    for file in sorted(tmp_path.glob("*.dcm"))[:3]:
        (tmp_path / f"copy-{file.name}").write_bytes(file.read_bytes())
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu)
    assert codes(scan) == ["duplicate-file"]


def test_a_tilted_gantry_is_straightened(tmp_path):
    # a bright bar along the body axis: in each tilted slice it sits 1 pixel (0.8 mm) further back
    hu = np.full((10, 40, 20), -900, dtype=np.int16)
    for i in range(10):
        hu[i, 10 + i, :] = 100
    step = np.array([0.0, -0.8, 2.0])
    positions = np.array([-10.0, -20.0, -30.0]) + np.arange(10)[:, None] * step
    write_series(tmp_path, hu, positions=positions)
    scan = read_scan(tmp_path)
    assert codes(scan) == ["gantry-tilt"] and "21.8°" in scan.warnings[0].text
    assert np.all(scan.hu[:, 10, 2:-2] == 100) and np.all(scan.hu[:, 11, 2:-2] == -900)
    np.testing.assert_allclose(scan.geometry.to_world([9, 10, 0]), [-10, -12, -12])


def test_slices_that_do_not_stack_are_refused(tmp_path, hu):
    write_series(tmp_path, hu, positions=Place().positions(8) + np.arange(8)[:, None] * [3.0, 0, 0])
    with pytest.raises(InputRefused, match="56° off their normal"):
        read_scan(tmp_path)


def test_a_frame_of_reference_per_slice_is_a_warning(tmp_path, hu):
    write_series(tmp_path, hu, edit=lambda ds, i: setattr(ds, "FrameOfReferenceUID", f"1.2.{i}"))
    assert codes(read_scan(tmp_path)) == ["frames-of-reference"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: setattr(ds, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "mixes orientations"),
        (lambda ds: setattr(ds, "PixelSpacing", [0.5, 0.5]), "mixes pixel spacings"),
        (lambda ds: set_pixels(ds, np.zeros((10, 20), int), Layout()), "mixes sizes"),
    ],
)
def test_mixed_stacks_are_refused(tmp_path, hu, change, message):
    write_series(tmp_path, hu, edit=lambda ds, i: change(ds) if i == 4 else None)
    with pytest.raises(InputRefused, match=message):
        read_scan(tmp_path)


@pytest.mark.parametrize("orientation", [[1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]])
def test_axes_that_are_not_at_right_angles_are_refused(tmp_path, hu, orientation):
    write_series(tmp_path, hu, edit=lambda ds, _: setattr(ds, "ImageOrientationPatient", orientation))
    with pytest.raises(InputRefused, match="not two unit vectors at right angles"):
        read_scan(tmp_path)


# multi-frame


def enhanced(hu, layout, place):
    ds = slice_dataset(hu[0], layout, place, place.origin)
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.SeriesInstanceUID = generate_uid()
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing, ds.RescaleSlope, ds.RescaleIntercept
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(place.orientation)
    measures.PixelSpacing = [place.spacing_xyz[1], place.spacing_xyz[0]]
    values.RescaleSlope, values.RescaleIntercept = layout.slope, layout.intercept
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    order = np.random.default_rng(0).permutation(len(hu))
    for i in order:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [float(v) for v in place.positions(len(hu))[i]]
        frame.PlanePositionSequence = [position]
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    ds.NumberOfFrames = len(hu)
    set_pixels(ds, hu[order].astype(int) - int(layout.intercept), layout)
    return ds


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGLSLossless, RLELossless], ids=lambda uid: uid.keyword)
def test_enhanced_multi_frame_ct(tmp_path, hu, syntax):
    layout = Layout(syntax=syntax)
    save(enhanced(hu, layout, Place()), tmp_path / "all.dcm")
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.hu, hu)
    np.testing.assert_allclose(scan.geometry.to_world([7, 0, 0]), [-100, -120, -286])
    assert len(scan.source.sop_instance_uids) == 8
    np.testing.assert_array_equal(read_scan(tmp_path / "all.dcm").hu, hu)


# damaged files


def test_a_slice_cut_short_is_named(tmp_path, hu):
    write_series(tmp_path, hu)
    victim = sorted(tmp_path.glob("*.dcm"))[2]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(InputRefused, match=f"{victim.name}: the file is cut short: 2,780 of 2,880 bytes"):
        read_scan(tmp_path)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless], ids=lambda uid: uid.keyword)
def test_a_compressed_slice_cut_short_is_named(tmp_path, hu, syntax):
    write_series(tmp_path, hu, layout=Layout(syntax=syntax))
    victim = sorted(tmp_path.glob("*.dcm"))[2]
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(InputRefused, match=victim.name):
        read_scan(tmp_path)


def test_pixel_data_of_another_size_than_the_header_says(tmp_path, hu):
    write_series(tmp_path, hu, edit=lambda ds, _: setattr(ds, "Rows", 20))
    with pytest.raises(InputRefused, match=r"2,880 bytes of pixel data where 1 × 20 × 36 pixels of 2 bytes need 1,440"):
        read_scan(tmp_path)


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path, hu):
    def huge(ds, _):
        ds.Rows = ds.Columns = 65535

    write_series(tmp_path, hu, edit=huge)
    with pytest.raises(InputRefused, match="more than any chest CT has"):
        read_scan(tmp_path)


def test_an_unknown_transfer_syntax_is_named(tmp_path, hu):
    def video(ds, _):
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        set_pixels(ds, np.zeros((40, 36), int), Layout())

    from pydicom.encaps import encapsulate

    def encapsulated(ds, i):
        video(ds, i)
        ds.PixelData = encapsulate([b"\0" * 10])
        ds["PixelData"].VR = "OB"

    write_series(tmp_path, hu, edit=encapsulated)
    with pytest.raises(InputRefused, match=r"1\.2\.840\.10008\.1\.2\.4\.102 is not supported"):
        read_scan(tmp_path)


def test_a_file_without_preamble_is_read(tmp_path, hu):
    write_series(tmp_path, hu, layout=Layout(syntax=ImplicitVRLittleEndian))
    for file in tmp_path.glob("*.dcm"):
        ds = dcmread(file)
        ds.file_meta = FileMetaDataset()
        ds.save_as(file, enforce_file_format=False, implicit_vr=True, little_endian=True)
        data = file.read_bytes()
        file.write_bytes(data[132:] if data[128:132] == b"DICM" else data)
    np.testing.assert_array_equal(read_scan(tmp_path).hu, hu)
