"""Splits by patient: stable, even enough, and nobody on both sides."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noduscope.data.folds import patient_fold, require_disjoint
from noduscope.errors import SettingsError
from noduscope.settings import SplitSettings


def test_a_patient_stays_where_it_is_for_ever():
    # first 8 bytes of SHA-256("0:LIDC-IDRI-0001") and "0:LIDC-IDRI-0002", modulo 10, worked out by sha256sum
    assert [patient_fold(p) for p in ("LIDC-IDRI-0001", "LIDC-IDRI-0002")] == [0, 0]


@settings(max_examples=25)
@given(st.text(max_size=20), st.integers(1, 20), st.integers(0, 5))
def test_a_fold_is_one_of_those_there_are(patient, folds, seed):
    assert 0 <= patient_fold(patient, folds, seed) < folds


def test_folds_are_about_equal_and_another_seed_deals_anew():
    patients = [f"LIDC-IDRI-{i:04d}" for i in range(1, 1011)]
    sizes = Counter(patient_fold(p) for p in patients)
    # binomial(1010, 0.1): mean 101, standard deviation 9.5
    assert len(sizes) == 10
    assert all(60 < n < 142 for n in sizes.values())
    moved = sum(patient_fold(p) != patient_fold(p, seed=1) for p in patients)
    assert moved > 800


def test_disjoint_sides_pass_and_shared_patients_are_named():
    require_disjoint(["a", "b"], {"c"}, "nodules")
    with pytest.raises(SettingsError, match=r"nodules: 2 patients are on both sides .*'b', 'c'"):
        require_disjoint(iter(["c", "a", "b"]), ["b", "c", "d"], "nodules")


def test_no_patient_of_the_real_data_is_on_two_sides(shared_data: Path):
    """The rule that training uses, followed by hand over the tables."""
    split = SplitSettings()
    named = {*split.validation_scans, *split.test_scans}
    scans = {p.name for p in (shared_data / "scans").iterdir() if p.is_dir()}
    with (shared_data / "lidc_nodules" / "nodules.csv").open(newline="", encoding="utf-8") as file:
        patients = {row["patient_id"] for row in csv.DictReader(file)} - named
    side = {p: patient_fold(p, split.folds) for p in patients}
    validation = {p for p, f in side.items() if f == split.validation_fold} | set(split.validation_scans)
    test = {p for p, f in side.items() if f == split.test_fold} | set(split.test_scans)
    train = (patients - validation - test) | (scans - named)
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert len(patients & train) > 300
    assert min(len(patients & validation), len(patients & test)) > 30
