"""LUNA16's layout on small chests: what is missing is told, a cache is whole, folds keep patients apart."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from helpers_chest import NODULES, make_chest
from noduscope.data import cache as cache_module
from noduscope.data.cache import is_prepared, open_prepared, prepare_scan, prepared_folder
from noduscope.data.cached import cached_hosts, read_scans, split_fold, with_fold
from noduscope.data.known import read_annotations
from noduscope.data.luna16 import SUBSET_SIZES, TreeScan, survey
from noduscope.data.prepare import prepare_tree, usable_scans
from noduscope.errors import InputRefused, SettingsError
from noduscope.phantom import write_dicom, write_mhd
from noduscope.settings import PreprocessSettings, Settings, SplitSettings

SETTINGS = Settings(preprocess=PreprocessSettings(spacing_mm=3.0))
SUBSETS = {"1.2.0": 0, "1.2.1": 0, "1.2.2": 1, "1.2.3": 2}
WITHOUT_NODULES = "1.2.1"
COLUMNS = ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]


def write_tables(folder: Path, uids: list[str]) -> None:
    """The first nodule of each chest as annotated, the second as excluded, as LUNA16 gives it: without a size."""
    first, second = (n.position_xyz_mm for n in NODULES)
    tables = {
        "annotations.csv": [[u, *first, NODULES[0].diameter_mm] for u in uids if u != WITHOUT_NODULES],
        "annotations_excluded.csv": [[u, *second, -1] for u in uids],
    }
    for name, rows in tables.items():
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture(scope="module")
def luna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four chests in three subsets, one of them without a nodule that counts; read only."""
    folder = tmp_path_factory.mktemp("luna")
    for seed, (uid, subset) in enumerate(SUBSETS.items()):
        (folder / f"subset{subset}").mkdir(exist_ok=True)
        write_mhd(make_chest(seed), folder / f"subset{subset}" / f"{uid}.mhd")
    write_tables(folder, list(SUBSETS))
    return folder


@pytest.fixture(scope="module")
def cache(luna: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    assert not [o.error for o in prepare_tree(survey(luna), folder, SETTINGS) if o.error]
    return folder


def codes(folder: Path) -> dict[str, str]:
    return {p.code: p.text for p in survey(folder).problems}


def test_the_official_subsets_are_888_scans():
    assert sum(SUBSET_SIZES) == 888


def test_what_is_there_is_counted_and_what_is_absent_told(noduscope, luna: Path):
    status, out, _ = noduscope("data", "info", luna, "--json")
    held = json.loads(out)
    assert (status, held["kind"], held["scans"]) == (0, "LUNA16", 4)
    assert held["subsets"] == {"0": 2, "1": 1, "2": 1}
    assert held["counts"]["nodules in these scans"] == 3
    assert held["counts"]["scans without nodules"] == 1
    assert held["counts"]["slices"] == 4 * 48
    told = {p["code"] for p in held["problems"]}
    assert {"subset-missing", "subset-size", "table-missing", "masks-missing", "table-size"} == told


def test_each_defect_of_a_tree_is_told_by_name(luna: Path, tmp_path: Path):
    tree = tmp_path / "luna"
    shutil.copytree(luna, tree)
    (tree / "subset0" / "1.2.0.raw").unlink()
    shutil.copy(tree / "subset1" / "1.2.2.raw", tree / "subset1" / "9.9.raw")
    for suffix in (".mhd", ".raw"):
        shutil.copy(tree / "subset1" / f"1.2.2{suffix}", tree / "subset2" / f"1.2.2{suffix}")
    write_tables(tree, ["1.2.0", "1.2.1", "1.2.2", "7.7"])
    told = codes(tree)
    assert "1.2.0" in told["broken-scan"]
    assert "9.9.raw" in told["no-header"]
    assert "1.2.2" in told["duplicate-series"]
    assert "7.7" in told["rows-without-scan"]
    assert "1.2.3" in told["scan-without-rows"]
    # of a series that is there twice the first one stays
    assert [s.subset for s in survey(tree).scans if s.series_uid == "1.2.2"] == [1]


def test_a_cut_short_volume_is_found_without_reading_it(luna: Path, tmp_path: Path):
    shutil.copytree(luna / "subset1", tmp_path / "subset1")
    with (tmp_path / "subset1" / "1.2.2.raw").open("r+b") as file:
        file.truncate(1000)
    assert "cut short" in codes(tmp_path)["broken-scan"]


def test_lidc_dicom_is_recognised_by_its_patients(tmp_path: Path, noduscope):
    from pydicom import dcmread

    folder = write_dicom(make_chest(), tmp_path / "lidc" / "study" / "series")
    for file in folder.glob("*.dcm"):
        dataset = dcmread(file)
        dataset.PatientID = "LIDC-IDRI-0123"
        dataset.save_as(file)
    tree = survey(tmp_path / "lidc")
    assert (tree.kind, [s.patient_id for s in tree.scans]) == ("LIDC-IDRI", ["LIDC-IDRI-0123"])
    assert "1 CT series of 1 patients" in codes(tmp_path / "lidc")["incomplete"]
    # without LUNA16's tables nobody can say what is a nodule in it
    status, _, error = noduscope("data", "prepare", tmp_path / "lidc", "--cache", tmp_path / "cache")
    assert status == 3
    assert "annotations.csv" in error


@pytest.mark.parametrize("content", ["missing", "empty", "text"])
def test_what_is_no_data_set_is_status_3(noduscope, tmp_path: Path, content: str):
    folder = tmp_path / "data"
    if content != "missing":
        folder.mkdir()
    if content == "text":
        (folder / "a.dcm").write_text("no DICOM", encoding="utf-8")
    status, _, error = noduscope("data", "info", folder)
    assert status == 3
    assert "folder" in error or "neither LUNA16" in error


@pytest.mark.parametrize(
    ("text", "named"),
    [("a,b\n1,2\n", "no column"), ("seriesuid,coordX,coordY,coordZ,diameter_mm\nu,1,2,x,3\n", "row 2")],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str, named: str):
    table = tmp_path / "annotations.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(InputRefused, match=named):
        read_annotations(table, counts=True)


def test_a_prepared_scan_is_what_was_written(cache: Path, luna: Path, tmp_path: Path):
    folder = prepared_folder(cache, SETTINGS)
    region = open_prepared(folder / "1.2.0")
    assert (region.hu.dtype, region.lungs.dtype) == (np.int16, np.uint8)
    assert region.hu.shape == region.lungs.shape == region.geometry.shape_zyx
    assert not region.hu.flags.writeable
    prepare_scan(luna / "subset0" / "1.2.0.mhd", tmp_path / "again", SETTINGS)
    again = open_prepared(tmp_path / "again")
    assert np.array_equal(again.hu, region.hu)
    assert again.geometry == region.geometry


def test_a_cache_needs_its_source_no_more_and_knows_subsets_and_nodules(cache: Path):
    scans = read_scans(cache)
    assert {s.series_uid: s.subset for s in scans} == SUBSETS
    hosts = {h.name: h for h in cached_hosts(cache, scans, SETTINGS)}
    assert [k.counts for k in hosts["1.2.0"].lesions] == [True, False]
    assert [k.counts for k in hosts[WITHOUT_NODULES].lesions] == [False]
    assert hosts["1.2.0"].lesions[1].diameter_mm == 10.0  # LUNA16's rule for findings without a size
    for host in hosts.values():
        for lesion in host.lesions:
            z, y, x = np.rint(lesion.centre_zyx).astype(int)
            assert host.hu[z, y, x] > -300


def test_preparing_goes_on_where_it_stopped(luna: Path, tmp_path: Path, monkeypatch):
    steps = prepare_tree(survey(luna), tmp_path, SETTINGS)
    first = next(steps)
    steps.close()
    assert not (tmp_path / "prepared.csv").exists()
    read: list[str] = []
    real = cache_module.read_scan
    monkeypatch.setattr(cache_module, "read_scan", lambda path, **kw: read.append(path.stem) or real(path, **kw))
    outcomes = list(prepare_tree(survey(luna), tmp_path, SETTINGS))
    assert sorted(read) == sorted(set(SUBSETS) - {first.scan.series_uid})
    assert [o.seconds == 0 for o in outcomes] == [o.scan == first.scan for o in outcomes]
    assert len(read_scans(tmp_path)) == 4


def test_a_scan_that_fails_halfway_leaves_nothing(luna: Path, tmp_path: Path, monkeypatch):
    def full(folder: Path, region: object) -> None:
        (folder / "hu.npy").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "_write", full)
    with pytest.raises(InputRefused, match="No space left"):
        prepare_scan(luna / "subset0" / "1.2.0.mhd", tmp_path / "one", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_of_several_scans_a_broken_one_is_told_and_the_others_kept(noduscope, luna: Path, tmp_path: Path):
    tree = tmp_path / "luna"
    shutil.copytree(luna, tree)
    (tree / "subset0" / "1.2.0.raw").unlink()
    settings = tmp_path / "s.toml"
    settings.write_text("[preprocess]\nspacing_mm = 3.0\n", encoding="utf-8")
    arguments = ("data", "prepare", tree, "--cache", tmp_path / "cache", "--settings", settings, "--workers", "2")
    status, out, error = noduscope(*arguments, "--json")
    held = json.loads(out)
    assert (status, held["scans"], held["failed"]) == (4, 3, 1)
    assert held["megabytes"] > 0
    assert held["seconds_per_scan"] > 0
    assert "1.2.0" in next(line for line in error.splitlines() if "missing" in line)
    assert {s.series_uid for s in read_scans(tmp_path / "cache")} == set(SUBSETS) - {"1.2.0"}


def test_other_settings_are_another_preparation(cache: Path):
    other = dataclasses.replace(SETTINGS, preprocess=PreprocessSettings(spacing_mm=2.0))
    assert not is_prepared(prepared_folder(cache, other) / "1.2.0")
    with pytest.raises(InputRefused, match="not prepared with these settings"):
        cached_hosts(cache, read_scans(cache), other)


def scans(*of: tuple[str, int]) -> list[TreeScan]:
    return [TreeScan(f"{patient}/{subset}", Path(), patient, subset) for patient, subset in of]


def test_a_fold_is_the_official_subset_and_the_next_one_chooses():
    ten = scans(*((f"p{k}{i}", k) for k in range(10) for i in range(3)))
    for fold in range(10):
        split = split_fold(ten, with_fold(Settings(), fold).split)
        assert {s.subset for s in split.test} == {fold}
        assert {s.subset for s in split.validation} == {(fold + 1) % 10}
        assert len(split.train) == 24


def test_no_patient_is_on_two_sides_even_where_the_subsets_would_have_it():
    two = scans(("same", 0), ("same", 4), ("b", 1), ("c", 2), ("b", 3), ("d", 3))
    split = split_fold(two, with_fold(Settings(), 0).split)
    sides = [{s.patient_id for s in side} for side in (split.train, split.validation, split.test)]
    assert sides == [{"c", "d"}, {"b"}, {"same"}]


def test_luna16_s_one_patient_of_two_scans_is_known(shared_data: Path, tmp_path: Path):
    import sqlite3

    from noduscope.data.lidc_tables import find_database
    from noduscope.data.luna16 import _ONE_PATIENT

    listed = set((shared_data / "luna16" / "seriesuids.csv").read_text(encoding="utf-8").split())
    with sqlite3.connect(find_database()) as database:
        rows = [r for r in database.execute("SELECT series_instance_uid, patient_id FROM scans") if r[0] in listed]
    patients = [patient for _, patient in rows]
    assert {uid: patient for uid, patient in rows if patients.count(patient) > 1} == _ONE_PATIENT
    assert len(rows) == 888


def test_without_the_next_subset_a_share_of_the_patients_chooses():
    few = scans(*((f"p{i}", i % 2 * 5) for i in range(40)))
    split = split_fold(few, with_fold(Settings(), 0).split)
    assert {s.subset for s in split.validation} == {5}
    assert len(split.validation) == 20 // 9
    assert not {s.patient_id for s in split.validation} & {s.patient_id for s in split.train}


@pytest.mark.parametrize("fold", [-1, 10])
def test_a_fold_that_is_none_is_refused(fold: int):
    with pytest.raises(SettingsError, match="0 to 9"):
        with_fold(Settings(), fold)
    with pytest.raises(SettingsError, match="two of 0 to 9"):
        split_fold(scans(("a", 0)), SplitSettings(test_fold=fold))


def test_a_side_without_scans_is_refused():
    with pytest.raises(InputRefused, match="no scan for test"):
        split_fold(scans(("a", 1), ("b", 2)), with_fold(Settings(), 0).split)
    with pytest.raises(InputRefused, match="no scan for training"):
        split_fold(scans(("a", 0), ("b", 2)), with_fold(Settings(), 0).split)


def test_scans_that_no_table_names_are_not_taken_for_nodule_free(luna: Path, tmp_path: Path):
    tree = tmp_path / "luna"
    shutil.copytree(luna, tree)
    write_tables(tree, ["1.2.0", "1.2.2"])
    assert [s.series_uid for s in usable_scans(survey(tree))] == ["1.2.0", "1.2.2"]
    write_tables(tree, ["7.7"])
    with pytest.raises(InputRefused, match="no scan that LUNA16"):
        usable_scans(survey(tree))
