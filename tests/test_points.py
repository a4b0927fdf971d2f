"""Given places of a scan: every row comes back in its order, answered or with the reason why not."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from noduscope import points
from noduscope.errors import InputRefused, ModelError
from noduscope.findings import Diameter, Grade, Interval, ModelUsed, NoduleMask
from noduscope.grading import Graded
from noduscope.heads import ATTRIBUTES
from noduscope.phantom import write_mhd, write_nifti
from noduscope.points import COORDINATES, grade_points, read_points
from noduscope.scan import Geometry, Scan, ScanSource

RATINGS = {name: 1.0 + k / 4 for k, name in enumerate(ATTRIBUTES)}
SCAN = Scan(np.zeros((6, 10, 8), np.int16), Geometry((6, 10, 8), (2.0, 2.0, 5.0)), ScanSource("1.2.3", "nifti"))


class FakeGrader:
    """Its malignancy is the x of the place in metres, so that an answer shows whose it is."""

    used = ModelUsed("grader", "0.0", "cd" * 32)

    def __init__(self, box=(slice(2, 4), slice(3, 6), slice(2, 5))):
        self.box = box

    def grade(self, scan, position_xyz_mm, *, explain=True):
        assert not explain
        chance = position_xyz_mm[0] / 1000
        return Graded(
            logit=0.0,
            probability=0.75,
            grade=Grade(Interval(chance, chance - 0.001, chance + 0.001), "part-solid", RATINGS),
            diameter_mm=Diameter(8.0, 9.04, 7.0, 7.5, 8.5),
            volume_mm3=Interval(268.4, 200.0, 350.0),
            mask=NoduleMask(self.box, np.ones([b.stop - b.start for b in self.box], bool)),
            explanation=None,
        )


def table(tmp_path, text):
    path = tmp_path / "points.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# --- the table of points -----------------------------------------------------------------------------


def test_columns_are_found_by_name_in_any_order_and_capitals(tmp_path):
    read = read_points(
        table(tmp_path, '\ufeffLesionID,CoordZ, coordx,CoordY,note\r\n1,-3,1.5,2,"a, b"\r\n\r\n2,6,4,5,\r\n')
    )
    assert read.positions_xyz_mm == ((1.5, 2.0, -3.0), (4.0, 5.0, 6.0))
    assert read.columns == ("LesionID", "note")
    assert read.cells == (("1", "a, b"), ("2", ""))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "coordX, coordY, coordZ once; it has none"),
        ("x,y,z\n1,2,3\n", "it has x, y, z"),
        ("coordX,coordY,coordZ,COORDX\n1,2,3,4\n", "once"),
        ("coordX,coordY,coordZ\n1,2,3\n1,2,left\n", "row 3: coordZ is 'left'; expected a number"),
        ("coordX,coordY,coordZ\n1,nan,3\n", "row 2: coordY is 'nan'"),
        ("coordX,coordY,coordZ\n1,2\n", "row 2: 2 cells; the header has 3"),
        ('coordX,coordY,coordZ\n1,2,"3\n', "no CSV file"),
    ],
)
def test_a_bad_table_is_refused_with_the_place(tmp_path, text, why):
    with pytest.raises(InputRefused, match=r"points\.csv") as caught:
        read_points(table(tmp_path, text))
    assert why in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputRefused, match="cannot be read"):
        read_points(tmp_path / "none.csv")


# --- the answers -------------------------------------------------------------------------------------


def test_rows_keep_their_order_and_their_other_columns(tmp_path):
    given = read_points(
        table(tmp_path, "id,coordX,coordY,coordZ,probability\nb,12,6,10,old\nout,12,6,99,\na,4,6,10,7\n")
    )
    grades = grade_points(SCAN, given, FakeGrader())
    made = rows(grades.to_csv())
    assert list(made[0]) == [
        *COORDINATES,
        *["probability", "malignancy", "malignancy_low", "malignancy_high", "diameter_mm", "volume_mm3", "type"],
        *ATTRIBUTES,
        "warning",
        "id",
        "given_probability",
    ]
    assert [r["id"] for r in made] == ["b", "out", "a"]
    assert [r["malignancy"] for r in made] == ["0.0120", "", "0.0040"]
    assert [r["given_probability"] for r in made] == ["old", "", "7"]
    first, outside, _ = made
    assert (first["probability"], first["diameter_mm"], first["volume_mm3"]) == ("0.750000", "8.0", "268")
    assert (first["type"], first["subtlety"], first["texture"], first["warning"]) == ("part-solid", "1.0", "2.8", "")
    # voxel edges: z from -2.5 to 27.5, x from -1 to 15, y from -1 to 19
    assert outside["warning"] == "outside the scan, which reaches x -1 to 15, y -1 to 19, z -2 to 28 mm (LPS)"
    assert {outside[c] for c in ("probability", "diameter_mm", "volume_mm3", "type", *ATTRIBUTES)} == {""}
    assert grades.exit_status == 4


def test_json_says_the_same_and_what_made_it(tmp_path):
    given = read_points(table(tmp_path, "coordX,coordY,coordZ,id\n12,6,10,b\n12,6,99,c\n"))
    held = json.loads(json.dumps(grade_points(SCAN, given, FakeGrader()).to_dict(), allow_nan=False))
    assert (held["schema"], held["not_a_medical_device"]) == ("noduscope.grades/1", True)
    assert held["model"] == [{"name": "grader", "version": "0.0", "sha256": "cd" * 32}]
    first, second = held["points"]
    assert first["malignancy"] == {"probability": 0.012, "low": 0.011, "high": 0.013}
    assert (first["id"], first["type"], first["slice_number"]) == (1, "part-solid", 3)
    assert first["attributes"]["texture"] == 2.8
    assert first["given"] == {"id": "b"}
    assert set(second) == {"id", "position_xyz_mm", "warning", "given"}


@pytest.mark.parametrize(
    ("text", "status"), [("1,1,1\n2,2,2\n", 0), ("1,1,1\n0,0,-99\n", 4), ("0,0,-99\n0,0,-98\n", 3), ("", 0)]
)
def test_exit_status_tells_whether_all_some_or_none_were_answered(tmp_path, text, status):
    given = read_points(table(tmp_path, "coordX,coordY,coordZ\n" + text))
    assert grade_points(SCAN, given, FakeGrader()).exit_status == status


def test_a_nodule_cut_by_the_volumes_end_and_nothing_to_outline_are_told(tmp_path):
    given = read_points(table(tmp_path, "coordX,coordY,coordZ\n12,6,10\n"))
    cut = grade_points(SCAN, given, FakeGrader((slice(0, 4), slice(3, 6), slice(2, 5))))
    assert "may go on beyond it" in cut.remarks[0]
    assert cut.exit_status == 0


def test_a_cut_out_is_warned_of_and_a_whole_chest_is_not():
    empty = points.PointTable((), (), ())
    whole = Scan(np.zeros((31, 21, 21), np.int16), Geometry((31, 21, 21), (10.0, 10.0, 5.0)), ScanSource("1", "nifti"))
    for scan, codes in ((whole, []), (SCAN, ["cropped-volume"])):
        assert [w.code for w in grade_points(scan, empty, FakeGrader()).warnings] == codes


def test_a_table_over_several_series_is_warned_of(tmp_path):
    one, two = (table(tmp_path, f"seriesuid,coordX,coordY,coordZ\nA,1,1,1\n{n},1,1,1\n") for n in "AB")
    two.write_text("seriesuid,coordX,coordY,coordZ\nA,1,1,1\nB,1,1,1\n", encoding="utf-8")
    codes = [w.code for w in grade_points(SCAN, read_points(two), FakeGrader()).warnings]
    assert "several-series" in codes
    one.write_text("seriesuid,coordX,coordY,coordZ\nA,1,1,1\nA,1,1,1\n", encoding="utf-8")
    codes = [w.code for w in grade_points(SCAN, read_points(one), FakeGrader()).warnings]
    assert "several-series" not in codes


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(points, "load_grader", lambda name: FakeGrader())


@pytest.mark.parametrize(("write", "name"), [(write_nifti, "crop.nii"), (write_mhd, "crop.mhd")])
def test_the_command_grades_a_few_slices_around_a_nodule(chest, tmp_path, noduscope, faked, write, name):
    z, y, x = (round(v) for v in chest.scan.geometry.to_index(chest.nodules[0].position_xyz_mm))
    box = (slice(z - 2, z + 3), slice(y - 15, y + 15), slice(x - 15, x + 15))
    file = write(replace(chest, scan=chest.scan.cropped(box)), tmp_path / name)
    place = chest.nodules[0].position_xyz_mm
    given = table(tmp_path, "id,coordX,coordY,coordZ\nn1,{:.2f},{:.2f},{:.2f}\nfar,0,0,5000\n".format(*place))
    status, out, err = noduscope("grade", file, "--points", given, "-o", tmp_path / "out")
    assert status == 4, err
    assert "part-solid" in out
    assert "cropped-volume" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"grades.csv", "grades.json"}
    made = rows((tmp_path / "out" / "grades.csv").read_text(encoding="utf-8"))
    assert [(r["id"], r["type"]) for r in made] == [("n1", "part-solid"), ("far", "")]
    assert float(made[0]["malignancy"]) == pytest.approx(place[0] / 1000, abs=1e-4)


def test_the_command_prints_what_the_json_file_holds(chest_files, tmp_path, noduscope, faked):
    given = table(tmp_path, "coordX,coordY,coordZ\n0,0,5000\n")
    status, out, _ = noduscope("grade", chest_files["nifti"], "--points", given, "-o", tmp_path / "out", "--json")
    assert status == 3
    assert json.loads(out) == json.loads((tmp_path / "out" / "grades.json").read_text(encoding="utf-8"))


def test_nothing_is_written_when_the_table_or_the_grader_is_wrong(chest_files, tmp_path, noduscope, monkeypatch):
    given = table(tmp_path, "x,y\n1,2\n")
    status, _, err = noduscope("grade", chest_files["nifti"], "--points", given, "-o", tmp_path / "out")
    assert status == 3
    assert "coordX" in err

    def missing(name):
        raise ModelError(f"no model named {name}")

    monkeypatch.setattr(points, "load_grader", missing)
    given = table(tmp_path, "coordX,coordY,coordZ\n0,0,0\n")
    status, _, err = noduscope("grade", chest_files["nifti"], "--points", given, "-o", tmp_path / "out", "--model", "x")
    assert (status, "no model named x" in err) == (3, True)
    assert not (tmp_path / "out").exists()
