"""The LIDC reference on a small database made here: grouping, sizes, protocols, folds, files."""

from __future__ import annotations

import csv
import json
import sqlite3

import numpy as np
import pytest

from noduscope.data.lidc import LidcSettings, build_lidc_reference, consensus_nodules, in_luna_like_set
from noduscope.data.lidc_tables import RATINGS, find_database, read_database
from noduscope.errors import InputRefused, SettingsError


def square(x, y, edge):
    """Outline of the pixels of a square, one step apart, as the database writes it."""
    side = range(edge)
    points = [(x + i, y) for i in side] + [(x + edge, y + i) for i in side]
    points += [(x + edge - i, y + edge) for i in side] + [(x, y + edge - i) for i in side]
    return "\n".join(f"{a},{b}" for a, b in points)


class Database:
    """Writes a database of the same four tables."""

    def __init__(self, path):
        self.path = path
        self.connection = sqlite3.connect(path)
        ratings = ", ".join(f'"{name}" INTEGER' for name in RATINGS)
        self.connection.executescript(
            "CREATE TABLE scans (id INTEGER PRIMARY KEY, series_instance_uid, patient_id, "
            "slice_thickness, pixel_spacing);"
            f"CREATE TABLE annotations (id INTEGER PRIMARY KEY, scan_id, {ratings});"
            "CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id, inclusion, image_z_position, coords);"
            "CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id, val);"
        )
        self.scans = 0

    def scan(self, patient, thickness=2.0, positions=None):
        self.scans += 1
        uid = f"1.2.{self.scans}"
        self.connection.execute("INSERT INTO scans VALUES (?, ?, ?, ?, 0.5)", (self.scans, uid, patient, thickness))
        for z in positions if positions is not None else np.arange(20) * 2.0:
            self.connection.execute("INSERT INTO zvals (scan_id, val) VALUES (?, ?)", (self.scans, float(z)))
        return self.scans

    def reading(self, scan, outlines, malignancy=3, texture=5):
        ratings = [3, 1, 6, 3, 3, 3, 3, texture, malignancy]
        cursor = self.connection.execute(
            f"INSERT INTO annotations (scan_id, {', '.join(RATINGS)}) VALUES ({', '.join('?' * 10)})", (scan, *ratings)
        )
        for inclusion, z, coords in outlines:
            self.connection.execute(
                "INSERT INTO contours (annotation_id, inclusion, image_z_position, coords) VALUES (?, ?, ?, ?)",
                (cursor.lastrowid, inclusion, z, coords),
            )

    def done(self):
        self.connection.commit()
        self.connection.close()
        return self.path


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "small.sqlite")


def test_volume_counts_the_pixels_inside_the_outline(database):
    # A square of edge 10 has 9 x 9 pixels strictly inside; two slices, 0.5 mm pixels, 2 mm apart:
    # 2 · 81 · 0.25 · 2 = 81 mm3, and the ball of that volume has a diameter of (6 · 81 / pi)^(1/3) = 5.369 mm.
    database.reading(database.scan("P1"), [(1, 4.0, square(20, 30, 10)), (1, 6.0, square(20, 30, 10))])
    (reading,) = read_database(database.done())[0].readings
    assert reading.volume_mm3 == pytest.approx(81)
    assert reading.diameter_mm == pytest.approx(5.369, abs=1e-3)
    assert reading.centre_mm == pytest.approx([25 * 0.5, 35 * 0.5, 5.0])


def test_an_exclusion_takes_its_outline_out_too(database):
    # 81 inside pixels less the 5 x 5 of an excluded square of edge 4 with its outline: 56 · 0.25 · 2 = 28 mm3
    database.reading(database.scan("P1"), [(1, 4.0, square(20, 30, 10)), (0, 4.0, square(23, 33, 4))])
    assert read_database(database.done())[0].readings[0].volume_mm3 == pytest.approx(28)


def test_a_single_point_has_a_place_and_no_volume(database):
    database.reading(database.scan("P1"), [(1, 4.0, "20,30")])
    (reading,) = read_database(database.done())[0].readings
    assert (reading.volume_mm3, reading.diameter_mm) == (0, 0)
    assert reading.centre_mm == pytest.approx([10, 15, 4])


def test_the_centre_is_weighted_by_area(database):
    # areas 16 and 4 at z 4 and 6: (16 · 4 + 4 · 6) / 20 = 4.4
    database.reading(database.scan("P1"), [(1, 4.0, square(20, 30, 4)), (1, 6.0, square(21, 31, 2))])
    assert read_database(database.done())[0].readings[0].centre_mm == pytest.approx([11, 16, 4.4])


def test_outlines_one_slice_thickness_apart_are_one_nodule(database):
    scan = database.scan("P1", thickness=2.0)
    # edges at pixel 24 and 28: 4 pixels = 2.0 mm apart; the third is 2.5 mm from the second
    for x in (20, 28, 37):
        database.reading(scan, [(1, 4.0, square(x, 30, 4))])
    nodules = consensus_nodules(read_database(database.done()))
    assert sorted(len(n.readings) for n in nodules) == [1, 2]


def test_a_chain_of_more_than_four_is_parted(database):
    # Five readings in a row, gaps of 1.5 mm but one of 1.9 mm: at 2 mm they are a chain of five; at 1.8 mm
    # (one step of a tenth) the wider gap parts them.
    scan = database.scan("P1", thickness=2.0)
    x = 20.0
    for gap_mm in (0, 1.5, 1.5, 1.9, 1.5):
        x += 4 + gap_mm / 0.5
        outline = "\n".join(f"{a},{b}" for a, b in ((x, 30), (x + 4, 30), (x + 4, 34), (x, 34)))
        database.reading(scan, [(1, 4.0, outline)])
    nodules = consensus_nodules(read_database(database.done()))
    assert sorted(len(n.readings) for n in nodules) == [2, 3]


def test_thin_and_even_scans_are_in_the_set(database):
    database.scan("P1", thickness=2.5)
    database.scan("P2", thickness=3.0)
    database.scan("P3", thickness=1.0, positions=[0, 1, 2, 4, 5])
    scans = read_database(database.done())
    assert [in_luna_like_set(s, LidcSettings()) for s in scans] == [True, False, False]


def four_patients(database):
    for patient, ratings in (("A", (4, 5, 3)), ("B", (1, 2, 2)), ("C", (1, 3, 5)), ("D", (5, 5, 4, 2))):
        for _ in range(5):
            scan = database.scan(f"{patient}{_}")
            for rating in ratings:
                database.reading(scan, [(1, 4.0, square(20, 30, 10))], malignancy=rating)
            database.reading(scan, [(1, 30.0, square(50, 60, 6))], malignancy=1, texture=1)
    return database.done()


def test_protocols_count_medians_and_means(database, tmp_path):
    summary = build_lidc_reference(tmp_path / "out", four_patients(database), LidcSettings(folds=5, replicates=20))
    assert (summary.nodules, summary.luna_like_nodules, summary.nodules_by_readers) == (40, 20, {1: 20, 3: 15, 4: 5})
    found = {(p["together"], p["least_readers"]): p for p in summary.protocols}
    # medians 4, 2, 3, 4.5; one patient each
    assert [found["median", 3][k] for k in ("benign", "malignant", "excluded", "patients_with_both")] == [5, 10, 5, 0]
    # with the single readings (malignancy 1 in all 20 patients) patients of A and D carry both classes
    assert [found["median", 1][k] for k in ("benign", "malignant", "excluded", "patients_with_both")] == [25, 10, 5, 10]
    assert found["median", 4]["malignant"] == 5


def test_the_files_fit_together(database, tmp_path):
    out = tmp_path / "out"
    build_lidc_reference(out, four_patients(database), LidcSettings(folds=5, replicates=20))
    tables = {p.stem: list(csv.DictReader(p.read_text().splitlines())) for p in out.glob("*.csv")}
    ids = [row["id"] for row in tables["nodules"]]
    assert len(set(ids)) == 40
    assert {row["nodule_id"] for row in tables["ratings"]} == set(ids)
    assert len(tables["ratings"]) == 5 * (3 + 3 + 3 + 4) + 20
    assert {row["type"] for row in tables["nodules"]} == {"solid", "non-solid"}
    assert len(tables["labels_median_3"]) == 15
    assert {(row["id"], row["label"]) for row in tables["labels_median_3"]} >= {("A0-01", "1"), ("B0-01", "0")}
    folds = {row["patient_id"]: row["fold"] for row in tables["folds"]}
    assert len(folds) == 20
    # like shares: every fold has one patient each of A, B, C and D, but A and D rank alike
    for fold in "01234":
        letters = sorted(p[0] for p, f in folds.items() if f == fold)
        assert len(letters) == 4 and letters.count("B") == 1 and letters.count("C") == 1
    agreement = json.loads((out / "agreement.json").read_text())
    assert agreement["nodules_with_four_readings"] == 5
    # all four-reading nodules are rated alike in margin, so agreement beyond chance is not defined
    assert agreement["ratings"]["calcification"]["fleiss_kappa"]["value"] is None
    assert not list(out.glob(".*"))


def test_the_same_database_gives_the_same_bytes(database, tmp_path):
    path = four_patients(database)
    for name in ("one", "two"):
        build_lidc_reference(tmp_path / name, path, LidcSettings(folds=5, replicates=20))
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_what_is_not_the_database_is_refused(tmp_path):
    with pytest.raises(InputRefused, match="no LIDC annotation database"):
        find_database(tmp_path / "absent.sqlite")
    (tmp_path / "text.sqlite").write_text("seriesuid,coordX\n" * 100)
    sqlite3.connect(tmp_path / "empty.sqlite").close()
    for name in ("text.sqlite", "empty.sqlite"):
        with pytest.raises(InputRefused, match="not the LIDC annotation database"):
            read_database(tmp_path / name)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"replicates": 0}, {"readers": 5}, {"thickness_mm": 0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError):
        LidcSettings(**wrong)
