"""DICOM objects and JSON forms of a result: same patient, same voxels, same places, read back by others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import highdicom as hd
import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.sr.codedict import codes

from helpers_dicom import Layout, Place, save
from noduscope.errors import SettingsError
from noduscope.findings import Grade, Interval, NoduleMask
from noduscope.io.read import read_scan
from noduscope.phantom_write import write_dicom
from noduscope.report.dicom import CAD, REPORT, SEGMENTATION, dicom_files
from noduscope.report.exchange import BUNDLE, LIKELIHOODS, POINTS, exchange_files
from noduscope.report.handback import hand_back
from noduscope.report.masks import label_volume
from test_io_dicom import enhanced
from test_report import LEFT_UPPER, ORIGIN, SPACING, make_result

CHEST_CAD = "1.2.840.10008.5.1.4.1.1.88.65"


def graded_nodule(nodule, malignancy, kind="solid"):
    return replace(nodule, grade=Grade(malignancy, kind, {"spiculation": 2.0}))


def parse(data):
    return dcmread(DicomBytesIO(data))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Two spheres in a small series that lies on disk."""
    made = make_result()
    folder = tmp_path_factory.mktemp("series") / "scan"
    write_dicom(replace(made.scan, source=replace(made.scan.source, series_uid="1.2.840.99")), folder)
    return replace(made, scan=read_scan(folder))


@pytest.fixture(scope="module")
def made(result):
    graded = graded_nodule(result.nodules[0], Interval(0.8, 0.6, 0.9), "part-solid")
    first = replace(graded, guidelines={"lung_rads_2022": {"category": "4A", "reason": "size"}})
    told = replace(result, nodules=(first, *result.nodules[1:]))
    files = dicom_files(told, cad=True)
    assert files.warnings == ()
    return dict(files.files)


@pytest.fixture(scope="module")
def seg(made):
    return parse(made[SEGMENTATION])


@pytest.fixture(scope="module")
def groups(made):
    report = srread(DicomBytesIO(made[REPORT]))
    return report.content.get_volumetric_roi_measurement_groups()


def edited(result, folder, edit):
    """The same scan, its files changed by ``edit(dataset, slice)`` before it is read."""
    folder.mkdir()
    for k, path in enumerate(result.scan.source.files):
        ds = dcmread(path)
        edit(ds, k)
        ds.save_as(folder / f"{k}.dcm")
    return replace(result, scan=read_scan(folder))


def world_of_segments(seg):
    """LPS mm of every voxel of every segment, by the frames' own places (PS3.3 C.7.6.2.1.1)."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    axes = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    found = {}
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(
            groups.get("SegmentIdentificationSequence", shared.get("SegmentIdentificationSequence"))[
                0
            ].ReferencedSegmentNumber
        )
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        rows, columns = np.nonzero(frame)
        points = origin + columns[:, None] * column_mm * axes[0] + rows[:, None] * row_mm * axes[1]
        found.setdefault(number, []).append(points)
    return {k: np.concatenate(v) for k, v in found.items()}


def world_of_mask(result, nodule):
    start = [b.start for b in nodule.mask.box]
    return result.scan.geometry.to_world(np.argwhere(nodule.mask.mask) + start)


def assert_same_voxels(result, seg):
    found = world_of_segments(seg)
    outlined = [n for n in result.nodules if n.mask is not None]
    assert sorted(found) == list(range(1, len(outlined) + 1))
    for number, nodule in enumerate(outlined, 1):
        want = world_of_mask(result, nodule)
        got = found[number]
        assert len(got) == len(want)
        order = [np.lexsort(np.round(p, 1).T) for p in (got, want)]
        assert np.abs(got[order[0]] - want[order[1]]).max() < 0.01


# --- segmentation ------------------------------------------------------------------------------------


def test_the_segments_are_the_masks_voxel_by_voxel_in_place(result, seg):
    assert_same_voxels(result, seg)


def test_every_frame_names_the_image_it_lies_on(result, seg):
    uids = result.scan.source.sop_instance_uids
    for groups in seg.PerFrameFunctionalGroupsSequence:
        named = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        z = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        assert named == uids[round((z - result.scan.geometry.origin_xyz_mm[2]) / 2.5)]


def test_all_objects_are_of_the_scans_patient_study_and_frame(result, made):
    scan = dcmread(result.scan.source.files[0], stop_before_pixels=True)
    for name, data in made.items():
        ds = parse(data)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
            assert ds.get(keyword) == scan.get(keyword), (name, keyword)
        assert ds.SeriesInstanceUID != scan.SeriesInstanceUID
    assert parse(made[SEGMENTATION]).FrameOfReferenceUID == scan.FrameOfReferenceUID
    series = {parse(data).SeriesInstanceUID for data in made.values()}
    assert len(series) == 3


def test_no_person_is_named_as_the_maker(seg):
    assert "ContentCreatorName" in seg
    assert not seg.ContentCreatorName


def test_segments_are_coded(seg):
    first = seg.SegmentSequence[0]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "27925004"
    assert first.AnatomicRegionSequence[0].CodeValue == "39607008"
    assert first.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Left"
    assert (seg.SegmentationType, first.SegmentAlgorithmType) == ("BINARY", "AUTOMATIC")


def test_overlapping_outlines_stay_whole(result):
    one = result.nodules[0]
    twin = replace(one, id=2, position_xyz_mm=(31.0, 2.0, -130.0))
    told = replace(result, nodules=(one, twin))
    assert_same_voxels(told, parse(dicom_files(told).files[SEGMENTATION]))


def test_planes_that_are_no_source_image_keep_their_place(result):
    """As after straightening a tilted gantry: the grid is the scan's, not the files'."""
    x, y, z = result.scan.geometry.origin_xyz_mm
    shifted = replace(result.scan, geometry=replace(result.scan.geometry, origin_xyz_mm=(x + 0.4, y, z + 0.7)))
    told = replace(result, scan=shifted)
    assert_same_voxels(told, parse(dicom_files(told).files[SEGMENTATION]))


def test_a_frame_of_reference_per_slice_becomes_one(result, tmp_path):
    def edit(ds, k):
        ds.FrameOfReferenceUID = f"1.2.3.{k + 1}"

    told = edited(result, tmp_path / "s", edit)
    files = dicom_files(told).files
    seg = parse(files[SEGMENTATION])
    assert seg.FrameOfReferenceUID == "1.2.3.1"
    assert_same_voxels(told, seg)
    group = srread(DicomBytesIO(files[REPORT])).content.get_volumetric_roi_measurement_groups()[0]
    points = [i for i in group[0].ContentSequence if i.ValueType == "SCOORD3D"]
    assert points[0].ReferencedFrameOfReferenceUID == "1.2.3.1"


def test_frames_of_a_multi_frame_scan_are_named_in_the_files_order(tmp_path):
    """The frames of the file are shuffled; the scan's planes are not."""
    made = make_result()
    scan = enhanced(made.scan.hu, Layout(), Place(SPACING, ORIGIN))
    save(scan, tmp_path / "all.dcm")
    told = replace(made, scan=read_scan(tmp_path))
    files = dicom_files(told, cad=True).files
    seg = parse(files[SEGMENTATION])
    assert_same_voxels(told, seg)
    frames = [f.PlanePositionSequence[0].ImagePositionPatient for f in scan.PerFrameFunctionalGroupsSequence]
    for groups in seg.PerFrameFunctionalGroupsSequence:
        named = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert frames[int(named.ReferencedFrameNumber) - 1] == groups.PlanePositionSequence[0].ImagePositionPatient
    mark = parse(files[CAD]).ContentSequence[1].ContentSequence[0].ContentSequence
    picture = next(i for i in mark if i.ValueType == "SCOORD").ContentSequence[0].ReferencedSOPSequence[0]
    assert abs(frames[int(picture.ReferencedFrameNumber) - 1][2] - LEFT_UPPER[2]) <= SPACING[2] / 2


def test_headers_that_highdicom_refuses_cost_no_more_than_the_dicom_files(result, monkeypatch):
    def refuse(*_):
        raise ValueError("Source images must have a shared orientation.")

    monkeypatch.setattr("noduscope.report.dicom_seg.segmentation", refuse)
    made = dicom_files(result)
    assert made.files == {} and "headers do not allow" in made.warnings[0].text


# --- measurement report ------------------------------------------------------------------------------


def test_one_measurement_group_per_nodule_refers_to_its_segment(seg, groups):
    assert len(groups) == 2
    for number, group in enumerate(groups, 1):
        segment = group.referenced_segment[0]
        assert segment.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert segment.ReferencedSOPSequence[0].ReferencedSegmentNumber == number
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
        assert group.tracking_identifier == f"nodule {number}"
        assert group.finding_type == codes.SCT.Nodule


def test_the_finding_site_is_the_third_of_the_lung_and_its_side(groups):
    sites = [group.finding_sites[0] for group in groups]
    assert [site.value for site in sites] == [codes.SCT.UpperZoneOfLung, codes.SCT.LowerZoneOfLung]
    assert [site.laterality for site in sites] == [codes.SCT.Left, codes.SCT.Right]


def test_the_measurements_are_the_results_numbers(groups):
    # the sphere of 10 mm of test_report: mean 10, long 11, short 9, 8 to 13; pi / 6 * 1000 = 523.6 mm³
    found = {(m.name.meaning, m.unit.value): m for m in groups[0].get_measurements()}
    assert {k: m.value for k, m in found.items()} == {
        ("Certainty of Finding", "%"): 85.0,
        ("Long axis", "mm"): 11.0,
        ("Short axis", "mm"): 9.0,
        ("Diameter", "mm"): 10.0,
        ("Volume", "mm3"): 523.6,
        ("Probability of cancer", "%"): 80.0,
    }
    reach = [i for i in found["Diameter", "mm"][0].ContentSequence if i.ValueType == "NUM"]
    assert [float(i.value) for i in reach] == [3.0, 2.0]
    assert {i.unit.value for i in reach} == {"mm"}


def test_what_was_not_judged_is_not_there(groups):
    names = {m.name.meaning for m in groups[1].get_measurements()}
    assert "Probability of cancer" not in names

    def said(group):
        # highdicom counts every CODE item of a group, also its category
        found = group.get_qualitative_evaluations()
        return {e.name.meaning: e.value.meaning for e in found if e.name.scheme_designator == "99NODUSCOPE"}

    assert said(groups[1]) == {}
    assert said(groups[0]) == {"Nodule type": "Part-solid nodule", "Lung-RADS v2022 category": "Lung-RADS 4A"}


def test_the_centre_lies_in_the_nodule(result, groups):
    for nodule, group in zip(result.nodules, groups, strict=True):
        point = next(i for i in group[0].ContentSequence if i.ValueType == "SCOORD3D")
        away = np.linalg.norm(world_of_mask(result, nodule) - np.array(point.GraphicData), axis=1)
        assert away.min() < 1.3


def test_no_findings_is_a_report_that_says_so(result):
    files = dicom_files(replace(result, nodules=())).files
    assert set(files) == {REPORT}
    report = parse(files[REPORT])
    part = report.ContentSequence[-1]
    said = part.ContentSequence[0]
    assert (said.ConceptNameCodeSequence[0].CodeMeaning, said.ConceptCodeSequence[0].CodeMeaning) == (
        "Nodule",
        "Absent",
    )
    texts = [i.TextValue for i in part.ContentSequence if i.ValueType == "TEXT"]
    assert any("No lung nodule" in t for t in texts) and any("Not a medical device" in t for t in texts)
    assert len(report.CurrentRequestedProcedureEvidenceSequence) == 1


def test_a_nodule_without_an_outline_is_reported_without_a_segment(result):
    bare = replace(result.nodules[0], mask=None, diameter_mm=None, volume_mm3=None, side=None)
    files = dicom_files(replace(result, nodules=(bare,))).files
    assert set(files) == {REPORT}
    content = srread(DicomBytesIO(files[REPORT])).content
    group = content.get_image_measurement_groups()[0]
    assert [m.name.meaning for m in group.get_measurements()] == ["Certainty of Finding"]


# --- CAD marks ---------------------------------------------------------------------------------------


def test_cad_marks_lie_on_the_nodules_in_the_right_images(result, made):
    report = parse(made[CAD])
    assert (report.SOPClassUID, report.file_meta.MediaStorageSOPClassUID) == (CHEST_CAD, CHEST_CAD)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "4100"
    summary, detections, analyses = report.ContentSequence[1:]
    assert summary.ConceptCodeSequence[0].CodeValue == "111242"
    assert detections.ConceptCodeSequence[0].CodeMeaning == "Succeeded"
    assert analyses.ConceptCodeSequence[0].CodeMeaning == "Not Attempted"
    for nodule, finding in zip(result.nodules, summary.ContentSequence, strict=True):
        centre = next(i for i in finding.ContentSequence if i.ValueType == "SCOORD")
        column, row = (int(v) for v in centre.GraphicData)  # the first pixel spans 0 to 1
        uid = centre.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        plane = result.scan.source.sop_instance_uids.index(uid)
        box = nodule.mask.box
        assert nodule.mask.mask[plane - box[0].start, row - box[1].start, column - box[2].start]


def test_no_marks_is_not_no_analysis(result):
    report = parse(dicom_files(replace(result, nodules=()), cad=True).files[CAD])
    assert report.ContentSequence[1].ConceptCodeSequence[0].CodeValue == "111241"


# --- independent checkers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("program", "options"), [("dciodvfy", []), ("dsrdump", []), ("dcmdump", ["-q"])])
def test_independent_programs_find_no_error(made, result, tmp_path, program, options):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    empty = dicom_files(replace(result, nodules=()), cad=True).files
    files = {**made, **{f"empty-{name}": data for name, data in empty.items()}}
    for name, data in files.items():
        if program == "dsrdump" and name == SEGMENTATION:
            continue
        (tmp_path / name).write_bytes(data)
        done = subprocess.run([program, *options, str(tmp_path / name)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode == 0, (name, said)
        assert not [line for line in said.splitlines() if line.startswith(("Error", "E:"))], (name, said)


# --- input that does not fit -------------------------------------------------------------------------


def test_headers_that_break_the_rules_do_not_stop_the_report(result, tmp_path):
    def edit(ds, _):
        del ds.PatientID, ds.StudyID, ds.ReferringPhysicianName, ds.FrameOfReferenceUID
        ds.PatientSex = "N"
        ds.StudyDate = ""
        ds.SpecificCharacterSet = "ISO_IR 100"
        ds.PatientName = "Müller^Jörg"

    files = dicom_files(edited(result, tmp_path / "s", edit)).files
    for data in files.values():
        ds = parse(data)
        assert (str(ds.PatientName), ds.PatientID, ds.PatientSex) == ("Müller^Jörg", "", "")


def test_files_that_are_gone_are_said_to_be_and_not_named(result, tmp_path):
    folder = tmp_path / "secret-name"
    told = edited(result, folder, lambda *_: None)
    shutil.rmtree(folder)
    made = dicom_files(told)
    assert made.files == {} and [w.code for w in made.warnings] == ["no-dicom-results"]
    assert "no longer there" in made.warnings[0].text and "secret" not in made.warnings[0].text


def test_files_of_another_scan_under_the_same_names_are_not_written_into(result, tmp_path):
    told = edited(result, tmp_path / "s", lambda *_: None)
    for path in told.scan.source.files:
        ds = dcmread(path)
        ds.SOPInstanceUID += "9"
        ds.PatientName = "Someone^Else"
        ds.save_as(path)
    made = dicom_files(told)
    assert made.files == {} and "have changed" in made.warnings[0].text


@pytest.mark.parametrize(("reader", "name"), [("nifti", "nodules.nii.gz"), ("metaimage", "nodules.nrrd")])
def test_input_without_a_patient_gets_a_label_volume(result, tmp_path, reader, name):
    import SimpleITK as sitk  # noqa: N813

    told = replace(result, scan=replace(result.scan, source=replace(result.scan.source, reader=reader, files=("a",))))
    handed = hand_back(told, tmp_path)
    assert handed.names == (name,)
    assert "names no patient" in handed.warnings[0].text
    image = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), label_volume(told))
    np.testing.assert_allclose(image.GetOrigin(), told.scan.geometry.origin_xyz_mm, atol=1e-4)
    assert set(np.unique(label_volume(told))) == {0, 1, 2}


def test_where_outlines_overlap_the_more_probable_keeps_the_voxel(result):
    one, two = result.nodules
    told = replace(result, nodules=(one, replace(two, mask=NoduleMask(one.mask.box, one.mask.mask))))
    assert set(np.unique(label_volume(told))) == {0, 1}


# --- JSON forms --------------------------------------------------------------------------------------


def test_grand_challenge_points(result):
    made = exchange_files(result, ["grand-challenge"])
    assert set(made) == {POINTS}
    points = json.loads(made[POINTS])
    assert points["type"] == "Multiple points" and points["version"] == {"major": 1, "minor": 0}
    assert [p["point"] for p in points["points"]] == [list(n.position_xyz_mm) for n in result.nodules]
    assert points["points"][0]["probability"] == 0.85


def test_luna25_only_where_malignancy_was_judged(result):
    first, second = result.nodules
    told = replace(result, nodules=(first, graded_nodule(second, Interval(0.3, 0.1, 0.5))))
    made = exchange_files(told, ["grand-challenge"])
    likelihoods = json.loads(made[LIKELIHOODS])
    assert LIKELIHOODS == "lung-nodule-malginancy-likelihoods.json"
    assert likelihoods["name"] == "Points of interest"
    assert [(p["name"], p["probability"]) for p in likelihoods["points"]] == [("nodule 2", 0.3)]


def test_fhir_is_a_report_and_its_observations(result, seg):
    pytest.importorskip("fhir.resources")
    bundle = json.loads(exchange_files(result, ["fhir"])[BUNDLE])
    kinds = [e["resource"]["resourceType"] for e in bundle["entry"]]
    assert kinds == ["DiagnosticReport", "Observation", "Observation"]
    report, first = (e["resource"] for e in bundle["entry"][:2])
    assert [r["reference"] for r in report["result"]] == [e["fullUrl"] for e in bundle["entry"][1:]]
    assert "Not a medical device" in report["conclusion"]
    values = {c["code"]["coding"][0]["display"]: c["valueQuantity"]["value"] for c in first["component"]}
    assert values["Diameter"] == 10.0 and values["Volume"] == 523.6
    assert first["identifier"][0]["value"] == f"urn:oid:{seg.SegmentSequence[0].TrackingUID}"
    assert first["derivedFrom"][0]["identifier"]["value"] == f"urn:oid:{seg.StudyInstanceUID}"


def test_an_unknown_form_is_refused(result, tmp_path):
    with pytest.raises(SettingsError, match="hl7v2"):
        hand_back(result, tmp_path, ["hl7v2"])
    assert not any(tmp_path.iterdir())


def test_extras_are_written_when_asked_for(result, tmp_path):
    handed = hand_back(result, tmp_path, ["cad-sr", "grand-challenge"])
    assert set(handed.names) == {REPORT, SEGMENTATION, CAD, POINTS} == {p.name for p in tmp_path.iterdir()}


def test_nothing_heavy_is_loaded_before_it_is_needed():
    code = "import sys, noduscope.report.handback; print(sorted({'highdicom', 'SimpleITK', 'fhir'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_highdicom_reads_the_segmentation_back(made, result):
    seg = hd.seg.segread(DicomBytesIO(made[SEGMENTATION]))
    assert seg.number_of_segments == 2
    uids = [uid for uid in result.scan.source.sop_instance_uids if uid in made[SEGMENTATION].decode("latin-1")]
    pixels = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    planes = [result.scan.source.sop_instance_uids.index(uid) for uid in uids]
    np.testing.assert_array_equal(pixels, label_volume(result)[planes])
