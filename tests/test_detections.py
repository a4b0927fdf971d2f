"""Evaluation of detections from files to files: reading, refusing, warning, writing."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from noduscope.errors import InputRefused
from noduscope.evaluate import detection_files
from noduscope.evaluate.detection_checks import plain_id
from noduscope.evaluate.detection_scores import evaluate_detections
from noduscope.evaluate.detection_tables import read_findings, read_marks, read_scan_list, read_tables
from noduscope.evaluate.detections import run_detections
from noduscope.evaluate.froc import RATES, FrocSettings

MARKS = "seriesuid,coordX,coordY,coordZ,probability\n"
FINDINGS = "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
QUICK = FrocSettings(replicates=50)
FILES = {
    "metrics.json",
    "froc.csv",
    "froc_band.csv",
    "froc.png",
    "nodules.csv",
    "false_positives.csv",
    "scans.csv",
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the drawing, which takes longer than all the rest, where the picture is not what is looked at."""
    monkeypatch.setattr(detection_files, "draw_froc", lambda _, path: path.write_bytes(b"picture"))


def case(
    write: Write, marks: str = "a,0,0,0,0.9\na,50,0,0,0.8\nb,50,0,0,0.7\n", **files: str
) -> dict[str, Path | None]:
    """Two scans with a nodule of 6 mm each; one is found."""
    excluded = files.get("excluded", FINDINGS)
    return {
        "predictions": write("predictions.csv", files.get("header", MARKS) + marks),
        "annotations": write("annotations.csv", FINDINGS + files.get("nodules", "a,1,0,0,6\nb,-40,-30,0,6\n")),
        "excluded": None if excluded == "none" else write("excluded.csv", excluded),
        "seriesuids": write("scans.csv", files.get("scans", "a\nb\n")),
    }


def run(files: dict[str, Path | None], out: Path, settings: FrocSettings = QUICK) -> dict:
    return run_detections(out=out, settings=settings, **files)  # type: ignore[arg-type]


def warned(write: Write, marks: str, **files: str) -> dict[str, str]:
    scores = evaluate_detections(read_tables(**case(write, marks, **files)), FrocSettings(replicates=0))  # type: ignore[arg-type]
    return {w.code: w.text for w in scores.warnings}


# --- reading -----------------------------------------------------------------------------------------------------


def test_columns_are_found_by_name_in_any_order_with_others_between(write: Write) -> None:
    text = "probability,note,coordZ,coordY,coordX,SeriesUID\n0.5,x,3,2,1,a\n0.25,y,-6e0,5,4,b\n"
    marks = read_marks(write("p.csv", text))
    assert marks.series == ("a", "b")
    assert marks.position_xyz_mm.tolist() == [[1, 2, 3], [4, 5, -6]]
    assert marks.probability.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    "text", [b"\xef\xbb\xbf" + MARKS.encode() + b"a,1,2,3,0.5\r\n\r\n", MARKS.encode() + b"a,1,2,3,0.5"]
)
def test_byte_order_mark_line_ends_and_blank_lines_are_taken(write: Write, text: bytes) -> None:
    assert len(read_marks(write("p.csv", text))) == 1


def test_a_list_of_scans_may_name_their_patients(write: Write, tmp_path: Path) -> None:
    assert read_scan_list(write("s.csv", "a\nb\n"))[1] is None
    assert read_scan_list(write("s.csv", "seriesuid,size\na,1\n"))[1] is None
    assert read_scan_list(write("s.csv", "Patient,SeriesUID\np,a\np,b\n"))[1] == {"a": "p", "b": "p"}
    # a row that ends before its id is no scan
    assert read_scan_list(write("s.csv", "patient,seriesuid\np,a\nq\n")) == (("a",), {"a": "p"})
    assert run(case(write), tmp_path / "by-scan")["bootstrap"]["unit"] == "scan"
    metrics = run(case(write, scans="seriesuid,patient\na,p\nb,p\n"), tmp_path / "by-patient")
    assert metrics["bootstrap"]["unit"] == "patient"
    # one patient, drawn every time
    cpm = metrics["cpm"]["interpolated"]
    assert cpm["low"] == cpm["value"] == cpm["high"]


@pytest.mark.parametrize("rows", ["a,p\nb,\n", "a,p\nb\n", "a,p\na,q\n"])
def test_a_scan_without_a_patient_or_with_two_is_refused(write: Write, rows: str) -> None:
    with pytest.raises(InputRefused, match="needs one patient"):
        read_scan_list(write("s.csv", f"seriesuid,patient\n{rows}"))


def test_a_header_alone_is_no_rows(write: Write) -> None:
    assert len(read_marks(write("p.csv", MARKS))) == 0
    assert read_findings(write("f.csv", FINDINGS)).position_xyz_mm.shape == (0, 3)


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n",
        "seriesuid\na\nb\n",
        "seriesuid\r\na\r\nb\r\n",
        "a\n\nb",
        "n,SeriesInstanceUID\n1,a\n2,b\n",
        "a,1\nb,2\n",
    ],
)
def test_lists_of_scans_come_with_or_without_a_header(write: Write, text: str) -> None:
    assert read_scan_list(write("s.csv", text))[0] == ("a", "b")


@pytest.mark.parametrize("text", ["", "\n\n", "seriesuid\n"])
def test_an_empty_list_of_scans_is_refused(write: Write, text: str) -> None:
    with pytest.raises(InputRefused, match=r"s\.csv lists no scan"):
        read_scan_list(write("s.csv", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.csv is empty: a header with the columns seriesuid, coordX, coordY, coordZ, probability"),
        ("seriesuid,coordX,coordY,probability\n", r"no column coordZ; its first line reads 'seriesuid,coordX"),
        ("a,1,2,3,0.5\n", r"no column seriesuid, coordX, coordY, coordZ, probability"),
        (MARKS + "a,1,2,3,0.5\na,1,2,3,high\n", r"line 3: probability must be a number; got 'high'"),
        (MARKS + "a,1,,3,0.5\n", r"line 2: coordY must be a number; got ''"),
        (MARKS + "a,1,2,3,0.5\n\na,1,2,nan,0.5\n", r"line 4: coordZ must be a finite number; got 'nan'"),
        (
            MARKS + "a,1,2,3,NaN\na,1,2,3,inf\n",
            r"line 2: probability must be a finite number; got 'NaN' \(and in 1 more",
        ),
        (MARKS + "a,-inf,2,3,0.5\n", r"coordX must be a finite number; got '-inf'"),
        (MARKS + "a,1,2\n", r"line 2: fewer cells than the header has columns"),
    ],
)
def test_what_cannot_be_read_is_refused_with_line_and_reason(write: Write, text: str, message: str) -> None:
    with pytest.raises(InputRefused, match=message):
        read_marks(write("p.csv", text))


def test_files_that_are_missing_folders_or_no_text_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match=r"cannot read .*nowhere\.csv: No such file"):
        read_marks(tmp_path / "nowhere.csv")
    with pytest.raises(InputRefused, match="cannot read"):
        read_scan_list(tmp_path)
    with pytest.raises(InputRefused, match="is not a CSV text file"):
        read_findings(write("f.csv", b"\xff\xfe\x00\x80"))


# --- writing -----------------------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_there_and_nothing_else(write: Write, tmp_path: Path) -> None:
    out = tmp_path / "new" / "result"
    metrics = run(case(write), out)
    assert {p.name for p in out.iterdir()} == FILES
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["not_a_medical_device"] is True
    assert metrics["schema"] == "noduscope.froc/1"
    assert metrics["froc"]["fps_per_scan"] == list(RATES)
    assert set(metrics["cpm"]) == {"interpolated", "nearest"}


@pytest.mark.usefixtures("no_picture")
def test_nodules_list_the_misses_first_and_where_each_was_found(write: Write, tmp_path: Path) -> None:
    run(case(write, "a,0,0,0,0.6\na,50,0,0,0.8\nb,50,0,0,0.7\n"), tmp_path / "out")
    missed, found = rows_of(tmp_path / "out" / "nodules.csv")
    assert (missed["seriesuid"], missed["found"], missed["fps_per_scan"]) == ("b", "0", "")
    # both false positives score higher, over two scans
    assert (found["seriesuid"], found["found"], found["fps_per_scan"]) == ("a", "1", "1.0")
    assert (found["probability"], found["mark_coordX"], found["distance_mm"]) == ("0.6", "0.0", "1.0")


@pytest.mark.usefixtures("no_picture")
def test_false_positives_list_the_worst_first(write: Write, tmp_path: Path) -> None:
    run(case(write), tmp_path / "out")
    first, second = rows_of(tmp_path / "out" / "false_positives.csv")
    assert (first["rank"], first["seriesuid"], first["probability"], first["fps_per_scan"]) == ("1", "a", "0.8", "0.5")
    assert (first["nearest_nodule_mm"], second["seriesuid"], second["fps_per_scan"]) == ("49.0", "b", "1.0")


@pytest.mark.usefixtures("no_picture")
def test_scans_say_what_became_of_their_marks(write: Write, tmp_path: Path) -> None:
    marks = "a,0,0,0,0.9\na,2,0,0,0.8\na,50,0,0,0.7\na,70,0,0,0.6\na,90,0,0,0.1\n"
    files = case(write, marks, excluded=FINDINGS + "a,70,0,0,6\n")
    run(files, tmp_path / "out", FrocSettings(replicates=0, max_marks=4))
    a, b = rows_of(tmp_path / "out" / "scans.csv")
    assert list(a.values()) == ["a", "1", "1", "0", "4", "1", "1", "1", "1", "0.7"]
    assert list(b.values()) == ["b", "1", "0", "1", "0", "0", "0", "0", "0", ""]


@pytest.mark.usefixtures("no_picture")
def test_the_curve_and_its_band_as_csv(write: Write, tmp_path: Path) -> None:
    run(case(write), tmp_path / "out")
    curve = rows_of(tmp_path / "out" / "froc.csv")
    assert [r["threshold"] for r in curve] == ["inf", "0.9", "0.8", "0.7"]
    assert [r["fps_per_scan"] for r in curve] == ["0.0", "0.0", "0.5", "1.0"]
    assert [r["sensitivity"] for r in curve] == ["0.0", "0.5", "0.5", "0.5"]
    band = rows_of(tmp_path / "out" / "froc_band.csv")
    rates = [float(r["fps_per_scan"]) for r in band]
    assert rates == pytest.approx(np.geomspace(0.125, 8, 193))
    assert all(0 <= float(r["low"]) <= float(r["sensitivity"]) <= float(r["high"]) <= 1 for r in band)


@pytest.mark.parametrize(("marks", "replicates"), [("a,0,0,0,0.9\na,50,0,0,0.8\n", 50), ("", 0)])
def test_the_picture_is_a_picture(write: Write, tmp_path: Path, marks: str, replicates: int) -> None:
    run(case(write, marks), tmp_path / "out", FrocSettings(replicates=replicates))
    picture = cv2.imread(str(tmp_path / "out" / "froc.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize("nodules", ["", "a,1,0,0,6\n"])
@pytest.mark.parametrize("marks", ["", "a,0,0,0,0.9\n"])
def test_corners_write_all_files_too(write: Write, tmp_path: Path, marks: str, nodules: str) -> None:
    files = case(write, marks, nodules=nodules)
    for settings in (QUICK, FrocSettings(replicates=0)):
        metrics = run(files, tmp_path / "out", settings)
        assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
        assert {p.name for p in (tmp_path / "out").iterdir()} == FILES


def test_same_input_same_bytes(write: Write, tmp_path: Path) -> None:
    files = case(write)
    run(files, tmp_path / "one")
    run(files, tmp_path / "two")
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_nothing_is_written_when_an_input_is_refused(write: Write, tmp_path: Path) -> None:
    files = case(write) | {"excluded": tmp_path / "missing.csv"}
    with pytest.raises(InputRefused):
        run(files, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_refused(write: Write) -> None:
    with pytest.raises(InputRefused, match="cannot write the results to"):
        run(case(write), write("taken", "text"))


@pytest.mark.usefixtures("no_picture")
def test_a_failure_while_writing_leaves_the_old_file_whole(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(case(write), tmp_path / "out")
    before = (tmp_path / "out" / "froc.png").read_bytes()

    def half(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(detection_files, "draw_froc", half)
    with pytest.raises(InputRefused, match="No space left"):
        run(case(write), tmp_path / "out")
    assert (tmp_path / "out" / "froc.png").read_bytes() == before
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES


# --- warnings ----------------------------------------------------------------------------------------------------

GOOD = "a,0,0,0,0.9\nb,-40,-30,0,0.8\n"


def test_nothing_odd_no_warning(write: Write) -> None:
    assert warned(write, GOOD) == {}


def test_marks_on_unlisted_scans(write: Write) -> None:
    text = warned(write, GOOD + "y,1,1,1,0.5\nz,1,1,1,0.5\nz,2,1,1,0.5\n")["marks-on-unlisted-scans"]
    assert "3 marks of 2 scans" in text
    assert "(y, z)" in text


def test_listed_scans_without_marks(write: Write) -> None:
    codes = warned(write, GOOD, scans="a\nb\nc\n")
    assert list(codes) == ["scans-without-marks"]
    assert "1 of 3 listed scans have no mark (c)" in codes["scans-without-marks"]


@pytest.mark.parametrize("other", ["056", "56.0", " 56", "56 ", "56.mhd", "scans/56.nii.gz", "'56'"])
def test_ids_that_differ_in_format(write: Write, other: str) -> None:
    codes = warned(write, f"{other},0,0,0,0.9\n", nodules="56,0,0,0,6\n", scans="56\n")
    assert "ids-differ-in-format" in codes
    assert f"{other!r} for '56'" in codes["ids-differ-in-format"]


def test_ids_of_annotations_that_differ_in_format(write: Write) -> None:
    codes = warned(write, "56,0,0,0,0.9\n", nodules="056,0,0,0,6\n", scans="56\n")
    assert re.search(r"1 ids \(1 rows\) of the annotations .*'056' for '56'", codes["ids-differ-in-format"])


def test_ids_that_differ_otherwise_are_only_unlisted(write: Write) -> None:
    assert "ids-differ-in-format" not in warned(write, GOOD + "57,0,0,0,0.9\n560,0,0,0,0.9\n", scans="a\nb\n56\n")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.3.6.1.4.1.14519.5.2.1.0012", "1.3.6.1.4.1.14519.5.2.1.12.mhd", True),
        ("LIDC-IDRI-0001", "lidc-idri-0001.mhd", True),
        ("case10", "case1", False),
        ("100", "1", False),
        ("1.30", "1.3", False),
        ("0", "00", True),
    ],
)
def test_plain_ids(one: str, other: str, same: bool) -> None:
    assert (plain_id(one) == plain_id(other)) is same


def spread(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-120, 120, (n, 3)).round(2)


def table(scans: list[str], place: np.ndarray, value: list[float]) -> str:
    return "".join(f"{s},{x},{y},{z},{v}\n" for s, (x, y, z), v in zip(scans, place.tolist(), value, strict=True))


@pytest.mark.parametrize(
    ("order", "signs", "words"),
    [
        ((0, 1, 2), (-1, -1, 1), "x and y negated (RAS instead of LPS)"),
        ((0, 1, 2), (-1, -1, -1), "x and y and z negated"),
        ((0, 1, 2), (1, 1, -1), "z negated"),
        ((2, 1, 0), (1, 1, 1), "the columns read in the order z, y, x"),
        ((1, 0, 2), (1, 1, 1), "the columns read in the order y, x, z"),
    ],
)
def test_flipped_and_swapped_axes(write: Write, order: tuple[int, ...], signs: tuple[int, ...], words: str) -> None:
    scans = [f"s{i}" for i in range(12)]
    nodules = spread(12)
    marks = np.concatenate(((nodules + 0.4)[:, order] * signs, spread(36, 1)))
    codes = warned(
        write,
        table([*scans, *(scans * 3)], marks, np.linspace(1, 0, 48).tolist()),
        nodules=table(scans, nodules, [8.0] * 12),
        scans="\n".join(scans),
    )
    assert list(codes) == ["axes-flipped"]
    assert f"with {words} they would hit 12" in codes["axes-flipped"]


def test_a_detector_that_misses_honestly_is_not_told_of_axes(write: Write) -> None:
    scans = [f"s{i}" for i in range(40)]
    codes = warned(
        write,
        table(scans * 5, spread(200, 1), np.linspace(1, 0, 200).tolist()),
        nodules=table(scans, spread(40), [8.0] * 40),
        scans="\n".join(scans),
    )
    assert codes == {}


def test_voxel_coordinates(write: Write) -> None:
    scans = [f"s{i}" for i in range(12)]
    nodules = spread(12)
    voxels = np.concatenate(((nodules + 150) / 0.7, (spread(36, 1) + 150) / 0.7))
    codes = warned(
        write,
        table([*scans, *(scans * 3)], voxels, np.linspace(1, 0, 48).tolist()),
        nodules=table(scans, nodules, [8.0] * 12),
        scans="\n".join(scans),
    )
    assert list(codes) == ["voxel-coordinates"]


def test_an_axis_diluted_by_scans_that_were_never_analysed(write: Write) -> None:
    # ten scans with a nodule and eight marks each; ten more on the list without any
    scans = [f"s{i:02d}" for i in range(20)]
    nodules = spread(10)
    marks = np.concatenate((nodules + 0.1, spread(70, 1)))
    codes = warned(
        write,
        table(scans[:10] * 8, marks, np.random.default_rng(2).random(80).tolist()),
        nodules=table(scans[:10], nodules, [8.0] * 10),
        scans="\n".join(scans),
    )
    assert list(codes) == ["scans-without-marks", "fp-axis-diluted"]
    assert "none of them has a nodule" in codes["fp-axis-diluted"]
    assert "by a factor of 2.00" in codes["fp-axis-diluted"]


def test_a_sparing_detector_may_leave_scans_empty(write: Write) -> None:
    # one mark a scan on average: about a third of all scans are empty by chance
    scans = [f"s{i:02d}" for i in range(20)]
    nodules = spread(13)
    codes = warned(
        write,
        table(scans[:13], nodules + 0.1, [0.5] * 13),
        nodules=table(scans[:13], nodules, [8.0] * 13),
        scans="\n".join(scans),
    )
    assert list(codes) == ["scans-without-marks"]


@pytest.mark.parametrize(("level", "expected"), [(0.05, ["too-good-to-be-true"]), (0.5, []), (0.9, [])])
def test_low_scores_on_excluded_findings(write: Write, level: float, expected: list[str]) -> None:
    rng = np.random.default_rng(3)
    scans = [f"s{i:02d}" for i in range(10)]
    nodules, excluded = spread(10), spread(40, 4)
    marks = np.concatenate((nodules + 0.1, excluded + 0.1, spread(60, 5)))
    scores = np.concatenate((np.full(10, 0.95), level * (0.7 + 0.6 * rng.random(40)), rng.random(60)))
    codes = warned(
        write,
        table([*scans, *(scans * 4), *(scans * 6)], marks, scores.tolist()),
        nodules=table(scans, nodules, [6.0] * 10),
        excluded=FINDINGS + table(scans * 4, excluded, [-1.0] * 40),
        scans="\n".join(scans),
    )
    assert list(codes) == expected


def test_low_scores_on_excluded_findings_are_seen_even_beyond_the_cut(write: Write) -> None:
    rng = np.random.default_rng(3)
    excluded = spread(40, 4)
    marks = np.concatenate((excluded + 0.1, spread(100, 5)))
    scores = np.concatenate((np.linspace(0.001, 0.002, 40), 0.1 + rng.random(100)))
    codes = warned(
        write,
        table(["a"] * 140, marks, scores.tolist()),
        excluded=FINDINGS + table(["a"] * 40, excluded, [-1.0] * 40),
        scans="a\n",
    )
    assert "too-good-to-be-true" in codes


def test_no_excluded_findings_given(write: Write) -> None:
    assert list(warned(write, GOOD, excluded="none")) == ["no-excluded-findings"]


def test_repeated_rows(write: Write) -> None:
    assert list(warned(write, GOOD + "a,0,0,0,0.9\n")) == ["duplicate-marks"]
    codes = warned(write, GOOD, nodules="a,1,0,0,6\na,1,0,0,6\nb,-40,-30,0,6\n")
    assert list(codes) == ["duplicate-nodules", "marks-in-two-nodules"]
    assert warned(write, GOOD + "a,0,0,0,0.8\n") == {}


def test_nodules_without_a_size(write: Write) -> None:
    assert list(warned(write, GOOD, nodules="a,1,0,0,-1\nb,-40,-30,0,6\n")) == ["nodules-without-size"]
