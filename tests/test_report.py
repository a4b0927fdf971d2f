"""The result folder: what is in it, that it is whole or absent, and that marks lie where the nodules are."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from noduscope.errors import InputRefused
from noduscope.findings import (
    NOT_A_MEDICAL_DEVICE,
    Candidate,
    Diameter,
    Interval,
    ModelUsed,
    Nodule,
    NoduleMask,
    ScanResult,
)
from noduscope.report import write
from noduscope.report.figures import finding_panels, key_image, projection_panels
from noduscope.report.tables import LUNA16_COLUMNS
from noduscope.report.views import AXIAL, CORONAL, SAGITTAL, Anatomy, Frame, contours
from noduscope.report.write import MOST_PICTURED, check_replaceable, write_result
from noduscope.scan import Geometry, Scan, ScanSource, ScanWarning
from noduscope.settings import Settings

SPACING = (1.2, 1.2, 2.5)
SHAPE = (36, 80, 96)
ORIGIN = (-60.0, -30.0, -200.0)
LEFT_UPPER = (30.0, 2.0, -130.0)
"""In the patient's left lung, towards the front and the head."""
RIGHT_LOWER = (-28.0, 26.0, -176.0)
FILES = {"candidates.csv", "findings.csv", "findings.json", "nodules.mrk.json", "report.html", "run.json"}


def make_result(points=((LEFT_UPPER, 10.0), (RIGHT_LOWER, 8.0)), orientation="axial") -> ScanResult:
    """A block of tissue with two lungs and bright spheres, stored in the given orientation."""
    geometry = Geometry(SHAPE, SPACING, ORIGIN)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    world = geometry.to_world(grid)
    middle = geometry.to_world((np.array(SHAPE) - 1) / 2)
    lungs = np.zeros(SHAPE, np.uint8)
    for label, side in ((1, 26.0), (2, -26.0)):
        centre = np.add(middle, (side, 0.0, 0.0))
        lungs[(((world - centre) / (22.0, 36.0, 42.0)) ** 2).sum(-1) <= 1] = label
    hu = np.where(lungs > 0, -850, 40).astype(np.int16)
    masks = []
    for point, diameter in points:
        mask = ((world - point) ** 2).sum(-1) <= (diameter / 2) ** 2
        hu[mask] = 60
        masks.append(mask)
    return _turned(hu, lungs, masks, points, geometry, orientation)


def _turned(hu, lungs, masks, points, geometry, orientation):
    """The same patient on another grid: the order and sense of the axes differ, the world does not."""
    order, flips = {
        "axial": ((0, 1, 2), ()),
        "feet first": ((0, 1, 2), (0,)),
        "prone": ((0, 1, 2), (1, 2)),
        "coronal": ((1, 0, 2), (1,)),
        "sagittal": ((2, 0, 1), (1,)),
    }[orientation]

    def turn(array):
        return np.ascontiguousarray(np.flip(array.transpose(order), flips))

    axes = np.eye(3)[:, [2 - a for a in order[::-1]]]
    start = np.zeros(3)
    for flip in flips:
        start[order[flip]] = geometry.shape_zyx[order[flip]] - 1
        axes[:, 2 - flip] *= -1
    spacing = tuple(geometry.spacing_zyx_mm[a] for a in order[::-1])
    shape = tuple(geometry.shape_zyx[a] for a in order)
    turned = Geometry(shape, spacing, tuple(geometry.to_world(start)), tuple(axes.ravel()))
    uids = tuple(f"1.9.{k}" for k in range(shape[0]))
    source = ScanSource("1.2.840.99", "dicom", uids, ("/data/Doe^Jane/1.dcm",), (("Kernel", "B30f"),))
    scan = Scan(turn(hu), turned, source)
    nodules = []
    for number, ((point, diameter), mask) in enumerate(zip(points, masks, strict=True), 1):
        index = turned.to_index(point)
        spans = [np.flatnonzero(turn(mask).any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
        box = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
        z = int(np.clip(np.rint(index[0]), 0, shape[0] - 1))
        volume = np.pi / 6 * diameter**3
        nodules.append(
            Nodule(
                id=number,
                probability=0.95 - 0.1 * number,
                position_xyz_mm=point,
                voxel_zyx=tuple(float(i) for i in index),
                slice_number=z + 1,
                sop_instance_uid=uids[z],
                diameter_mm=Diameter(diameter, diameter + 1, diameter - 1, 0.8 * diameter, 1.3 * diameter),
                volume_mm3=Interval(volume, 0.5 * volume, 2 * volume),
                side="left" if point[0] > 0 else "right",
                zone="upper" if point[2] > -150 else "lower",
                mask=NoduleMask(box, turn(mask)[box]),
            )
        )
    marks = tuple(Candidate(n.position_xyz_mm, n.probability, 8.0) for n in nodules)
    weak = (Candidate((1.0, 2.0, -150.0), 0.125, 5.0),)
    model = ModelUsed("detector", "0.1", "ab" * 32)
    timing = {"read": 0.5, "total": 1.25}
    return ScanResult(scan, turn(lungs), tuple(nodules), marks + weak, 0.5, (model,), (), timing)


@pytest.fixture(scope="module")
def result():
    return make_result()


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    write_result(result, out, Settings())
    return out


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


# --- what is in the folder ---------------------------------------------------------------------------


def test_the_folder_is_complete_and_nothing_is_left_beside_it(result, tmp_path):
    made = write_result(result, tmp_path / "deep" / "out")
    # the scan's files are not there, so that its outlines come as a label volume
    names = FILES | {"nodule-1.png", "nodule-2.png", "nodules.nrrd"}
    assert [p.name for p in made] == sorted(names)
    assert {p.name for p in (tmp_path / "deep" / "out").iterdir()} == names
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]
    assert all(p.stat().st_size > 50 for p in made)


def test_the_json_is_the_result(result, folder):
    told = json.loads((folder / "findings.json").read_text())
    assert [w["code"] for w in told["scan"].pop("warnings")] == ["no-dicom-results"]
    known = json.loads(json.dumps(result.to_dict()))
    assert known["scan"].pop("warnings") == []
    assert told == known


def test_findings_start_with_the_columns_of_luna16(folder):
    table = rows(folder / "findings.csv")
    assert list(table[0])[:5] == list(LUNA16_COLUMNS)
    first = table[0]
    assert first["seriesuid"] == "1.2.840.99"
    assert [float(first[c]) for c in ("coordX", "coordY", "coordZ")] == list(LEFT_UPPER)
    assert float(first["probability"]) == 0.85
    # sphere of 10 mm: pi / 6 * 1000 = 523.6 mm³
    assert (first["diameter_mm"], first["volume_mm3"], first["side"], first["zone"]) == ("10.0", "524", "left", "upper")
    assert first["sop_instance_uid"] == f"1.9.{int(first['slice_number']) - 1}"


def test_candidates_hold_all_marks(result, folder):
    table = rows(folder / "candidates.csv")
    assert list(table[0]) == list(LUNA16_COLUMNS)
    assert [float(r["probability"]) for r in table] == [c.probability for c in result.candidates]


def test_what_was_not_measured_is_an_empty_cell(result, tmp_path):
    bare = replace(
        result.nodules[0], diameter_mm=None, volume_mm3=None, mask=None, side=None, zone=None, sop_instance_uid=None
    )
    write_result(replace(result, nodules=(bare,)), tmp_path / "out")
    row = rows(tmp_path / "out" / "findings.csv")[0]
    assert {row[k] for k in ("diameter_mm", "volume_mm3", "side", "zone", "sop_instance_uid")} == {""}
    assert "Could not be outlined" in (tmp_path / "out" / "report.html").read_text()


def test_slicer_gets_the_points_in_lps_mm(folder):
    markup = json.loads((folder / "nodules.mrk.json").read_text())["markups"][0]
    assert (markup["type"], markup["coordinateSystem"], markup["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    assert [p["position"] for p in markup["controlPoints"]] == [list(LEFT_UPPER), list(RIGHT_LOWER)]


def test_the_manifest_tells_what_made_the_folder(folder):
    run = json.loads((folder / "run.json").read_text())
    assert set(run["files"]) == {p.name for p in folder.iterdir()}
    assert run["settings"]["preprocess"]["spacing_mm"] == 1.0
    assert run["models"][0]["sha256"] == "ab" * 32
    assert run["input"]["shape_zyx"] == list(SHAPE)


def test_no_file_names_the_patients_files(folder):
    for path in folder.iterdir():
        assert b"Doe" not in path.read_bytes(), path.name


def test_nan_is_never_written_as_json(result, tmp_path):
    broken = replace(result.nodules[0], probability=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_result(replace(result, nodules=(broken,)), tmp_path / "out")
    assert not any(tmp_path.iterdir())


# --- the page ----------------------------------------------------------------------------------------


def test_third_of_the_lung_is_told_and_that_it_is_not_the_lobe(folder):
    nodules = json.loads((folder / "findings.json").read_text())["nodules"]
    assert [n["zone"] for n in nodules] == ["upper", "lower"]
    page = (folder / "report.html").read_text()
    assert "left lung, upper third, slice" in page
    assert "fissures are not seen" in page


def test_the_page_needs_nothing_from_outside(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]{1,12})', page)
    assert links and all(link.startswith(("data:image", "#")) for link in links)
    assert "<script" not in page and "http" not in page
    assert NOT_A_MEDICAL_DEVICE in page


def test_the_page_says_what_was_found(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>2 findings</h1>" in page
    assert "10.0 mm" in page and "left lung" in page and "likely a nodule" in page
    images = re.findall(r"<img [^>]*>", page)
    # three projections; per finding four pictures and three clearer ones
    assert len(images) == 3 + 2 * 7
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)


def test_text_from_the_scan_is_escaped(result, tmp_path):
    evil = '<script>alert("x")</script>'
    source = replace(result.scan.source, series_uid=evil, description=(("Kernel", evil),))
    scan = Scan(result.scan.hu, result.scan.geometry, source)
    nodule = replace(result.nodules[0], sop_instance_uid=evil)
    write_result(replace(result, scan=scan, nodules=(nodule,), warnings=(ScanWarning("odd", evil),)), tmp_path / "o")
    page = (tmp_path / "o" / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4


def test_no_findings_is_said_plainly(result, tmp_path):
    names = {p.name for p in write_result(replace(result, nodules=()), tmp_path / "out")}
    assert names == FILES
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>No findings</h1>" in page
    assert "What it does not mean" in page and "1 weaker mark stayed" in page
    assert rows(tmp_path / "out" / "findings.csv") == []


def test_a_large_shadow_that_is_hardly_a_nodule_is_not_told_first(result, tmp_path):
    small, large = sorted(result.nodules, key=lambda n: n.diameter_mm.mean)
    large = replace(large, probability=0.06)
    page = {}
    for name, nodules in (("both", (small, large)), ("weak", (large,))):
        write_result(replace(result, nodules=nodules, threshold=0.05), tmp_path / name)
        page[name] = (tmp_path / name / "report.html").read_text(encoding="utf-8")
    told = r"<span>Largest</span><b>{:.1f} mm</b>\s*<small>[^<]* {}\W*% likely a nodule"
    assert re.search(told.format(small.diameter_mm.mean, round(100 * small.probability)), page["both"])
    assert re.search(told.format(large.diameter_mm.mean, 6), page["weak"])


def test_a_scan_without_lung_labels_still_has_a_page(result, tmp_path):
    write_result(replace(result, lungs=np.zeros(SHAPE, np.uint8)), tmp_path / "out")
    assert "2 findings" in (tmp_path / "out" / "report.html").read_text()


def test_many_findings_do_not_make_the_page_endless(result, tmp_path):
    many = tuple(replace(result.nodules[0], id=k + 1) for k in range(MOST_PICTURED + 3))
    write_result(replace(result, nodules=many), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<article") == MOST_PICTURED and page.count("<tr") == 1 + len(many)
    assert len(list((tmp_path / "out").glob("nodule-*.png"))) == MOST_PICTURED
    assert len(page) < 3_000_000


# --- whole or absent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing(result, tmp_path, monkeypatch, failure):
    def fail(*_):
        raise failure

    monkeypatch.setattr(write, "manifest_json", fail)
    with pytest.raises(type(failure)):
        write_result(result, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_failure_keeps_the_earlier_result(result, tmp_path, monkeypatch):
    write_result(result, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(write, "render_page", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_result(replace(result, nodules=()), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_earlier_result_is_replaced_whole(result, tmp_path):
    write_result(result, tmp_path / "out")
    write_result(replace(result, nodules=result.nodules[:1]), tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES | {"nodule-1.png", "nodules.nrrd"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(result, tmp_path):
    (tmp_path / "out").mkdir()
    write_result(result, tmp_path / "out")
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("beside_ours", [False, True])
def test_other_peoples_files_are_never_replaced(result, tmp_path, beside_ours):
    out = tmp_path / "out"
    if beside_ours:
        write_result(result, out)
    out.mkdir(exist_ok=True)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(InputRefused, match=r"thesis\.tex"):
        write_result(result, out)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_a_json_of_that_name_does_not_make_a_folder_ours(tmp_path):
    (tmp_path / "run.json").write_text('{"schema": "other/1", "files": ["run.json"]}')
    with pytest.raises(InputRefused, match="not an earlier result"):
        check_replaceable(tmp_path)


def test_a_file_in_the_way_is_refused(result, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputRefused, match="is a file"):
        write_result(result, tmp_path / "out")
    with pytest.raises(InputRefused, match="cannot write the results"):
        write_result(result, tmp_path / "out" / "below")


# --- where things lie --------------------------------------------------------------------------------

ORIENTATIONS = ["axial", "feet first", "prone", "coronal", "sagittal"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_close_ups_are_centred_and_outlined(orientation):
    result = make_result(orientation=orientation)
    anatomy = Anatomy.of(result)
    for nodule, diameter in zip(result.nodules, (10.0, 8.0), strict=True):
        panels = finding_panels(anatomy, nodule, result)
        assert [p.name for p in panels] == ["axial", "coronal", "sagittal", "context"]
        for panel in panels[:3]:
            x, y = (round(v) for v in panel.target)
            assert abs(x - panel.size[0] / 2) < 2 and abs(y - panel.size[1] / 2) < 2
            assert panel.grey[y, x] > 220
            (outline,) = panel.outlines
            low, high = outline.min(axis=0), outline.max(axis=0)
            assert np.all(low < (x, y)) and np.all(high > (x, y))
            # half a voxel at each end, and single voxels at the tips go with the smoothing
            width, height = (high - low) * panel.step_mm
            assert width == pytest.approx(diameter, abs=1.5)
            assert height == pytest.approx(diameter, abs=1.5 if panel.name == "axial" else 3.0)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_as_radiologists_expect(orientation):
    result = make_result(orientation=orientation)
    anatomy = Anatomy.of(result)
    axial, coronal, sagittal = projection_panels(anatomy, result)
    assert axial.letters == ("R", "L", "A", "P") and coronal.letters == ("R", "L", "H", "F")
    assert sagittal.letters == ("A", "P", "H", "F")
    for panel in (axial, coronal, sagittal):
        first, second = panel.spots
        assert panel.grey[round(first.y), round(first.x)] > 200
        assert panel.grey[round(second.y), round(second.x)] > 200
    # finding 1 lies in the left lung, in front of and above finding 2
    for panel, right, below in ((axial, True, False), (coronal, True, False), (sagittal, False, False)):
        first, second = panel.spots
        assert (first.x > second.x) is right and (first.y > second.y) is below


def test_projections_keep_proportions_and_scale(result):
    axial, coronal, sagittal = projection_panels(Anatomy.of(result), result)
    assert axial.step_mm == coronal.step_mm == sagittal.step_mm
    assert axial.size[0] == coronal.size[0] and coronal.size[1] == sagittal.size[1]
    # the lungs are 96 mm wide and 84 mm high: half axes of 22 mm at ±26 mm, and of 42 mm; a voxel and 12 mm free
    assert axial.size[0] * axial.step_mm == pytest.approx(96 + 12, abs=2 * 1.2)
    assert coronal.size[1] * coronal.step_mm == pytest.approx(84 + 12, abs=2 * 2.5)


def test_bones_do_not_hide_the_lungs(result):
    hu = result.scan.hu.copy()
    hu[result.lungs == 0] = 900
    panels = projection_panels(
        Anatomy.of(replace(result, scan=Scan(hu, result.scan.geometry, result.scan.source))), result
    )
    for panel in panels:
        assert np.mean(panel.grey > 100) < 0.2


@pytest.mark.parametrize("kind", [AXIAL, CORONAL, SAGITTAL])
def test_a_view_knows_where_each_voxel_lands(result, kind):
    anatomy = Anatomy.of(result)
    view = anatomy.plane(kind, Frame((20.0, 40.0, 70.0), 50, 70, 1.0))
    assert view.pixels_of((20.0, 40.0, 70.0)) == pytest.approx([34.5, 24.5])
    step = np.zeros(3)
    step[kind.columns], step[kind.rows] = 3, 2
    moved = view.pixels_of(np.array([20.0, 40.0, 70.0]) + step) - view.pixels_of((20.0, 40.0, 70.0))
    spacing = result.scan.geometry.spacing_zyx_mm
    down = -1 if kind.flipped else 1
    assert moved == pytest.approx([3 * spacing[kind.columns], down * 2 * spacing[kind.rows]])


def test_a_finding_at_the_edge_of_the_scan_is_drawn(result):
    corner = tuple(result.scan.geometry.to_world((0, 0, 0)))
    nodule = replace(result.nodules[0], position_xyz_mm=corner, mask=None)
    panels = finding_panels(Anatomy.of(result), nodule, result)
    picture = cv2.imdecode(np.frombuffer(key_image(panels, nodule), np.uint8), cv2.IMREAD_COLOR)
    # beyond the scan there is air: (-1024 + 1350) / 1500 of 255
    assert picture.ndim == 3 and panels[0].grey[0, 0] == 55


def test_key_images_show_the_panels_with_marks(result, folder):
    picture = cv2.imread(str(folder / "nodule-1.png"))
    assert picture.shape[0] > 800 and picture.shape[1] > 800
    coloured = np.ptp(picture.astype(int), axis=2) > 60
    assert coloured.sum() > 300


def test_contours_of_nothing():
    assert contours(np.zeros((9, 9), bool)) == []
