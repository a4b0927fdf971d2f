"""Searching: a known optimum is found, hopeless trials stop, studies go on and are shared, failures do not end them."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from noduscope.data.folds import patient_fold  # noqa: E402
from noduscope.errors import InputRefused, NoduscopeError, SettingsError  # noqa: E402
from noduscope.settings import (  # noqa: E402
    Settings,
    TuneDetectorSettings,
    TuneGraderSettings,
    TuneSettings,
    load_settings,
    settings_from_dict,
)
from noduscope.tune.search import tune  # noqa: E402
from noduscope.tune.space import declared_space  # noqa: E402

BEST_RATE, BEST_DROPOUT = 4e-3, 0.2
SETTINGS = Settings(
    tune=TuneSettings(startup_trials=4, warmup_validations=1),
    tune_detector=TuneDetectorSettings(weight_decay=(), crop_voxels=(), blocks=()),
)
SPACE = declared_space(SETTINGS, "detector")


def bowl(settings: Settings, folder: Path, report) -> float:
    """A bowl upside down: 0 at the best rate, dropout and filters, less anywhere else."""
    rate, dropout = settings.train_detector.learning_rate, settings.detector.dropout
    score = -abs(math.log10(rate / BEST_RATE)) - abs(dropout - BEST_DROPOUT)
    return score - 0.5 * (settings.detector.filters != (48, 80))


def search(tmp_path: Path, trials: int, objective=bowl, settings: Settings = SETTINGS, study: str = "study.log"):
    out = tmp_path / "out"
    summary = tune(objective, declared_space(settings, "detector"), settings, tmp_path / study, out, trials)
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"), object_hook=as_tuples)
    return summary


def as_tuples(found: dict) -> dict:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}


def table(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "out" / "trials.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_search_finds_a_known_optimum_and_beats_chance(tmp_path: Path):
    summary = search(tmp_path, 30)
    best = summary["best"]["settings"]
    assert best["detector.filters"] == (48, 80)
    assert best["train_detector.learning_rate"] == pytest.approx(BEST_RATE, rel=0.6)
    assert best["detector.dropout"] == pytest.approx(BEST_DROPOUT, abs=0.07)
    # the start, worked by hand: log10(4e-3 / 2e-3) + (0.2 - 0.1) + 0.5 for other filters
    assert summary["start"]["trial"] == 0
    assert summary["start"]["score"] == pytest.approx(-(math.log10(2) + 0.1 + 0.5))
    assert summary["gain"] == pytest.approx(summary["best"]["score"] - summary["start"]["score"])
    assert summary["trials"] == {"complete": 30}
    assert sum(summary["importance"].values()) == pytest.approx(1)
    for picture in ("parallel.png", "importance.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_the_best_settings_are_a_file_that_train_reads(tmp_path: Path):
    summary = search(tmp_path, 5)
    loaded = load_settings(tmp_path / "out" / "best.toml")
    best = summary["best"]["settings"]
    assert loaded == dataclasses.replace(
        SETTINGS,
        train_detector=dataclasses.replace(SETTINGS.train_detector, learning_rate=best["train_detector.learning_rate"]),
        detector=dataclasses.replace(
            SETTINGS.detector, dropout=best["detector.dropout"], filters=best["detector.filters"]
        ),
    )
    assert bowl(loaded, tmp_path, None) == summary["best"]["score"]


def test_a_trial_that_is_worse_than_the_others_were_is_stopped(tmp_path: Path):
    calls = []

    def getting_worse(settings: Settings, folder: Path, report) -> float:
        level = -float(len(calls))
        calls.append(0)
        for step in range(5):
            calls[-1] = step + 1
            report(step, level)
        return level

    summary = search(tmp_path, 8, getting_worse)
    # four to compare with, run to the end; then one validation is granted, and the second is one too many
    assert calls == [5, 5, 5, 5, 2, 2, 2, 2]
    assert summary["trials"] == {"complete": 4, "pruned": 4}
    assert summary["best"]["score"] == 0
    assert [r["validations"] for r in table(tmp_path)] == [str(n) for n in calls]


def test_a_study_goes_on_with_its_count(tmp_path: Path):
    search(tmp_path, 3)
    before = table(tmp_path)
    assert search(tmp_path, 3)["trials"] == {"complete": 3}
    assert search(tmp_path, 7)["trials"] == {"complete": 7}
    assert table(tmp_path)[:3] == before
    assert [int(r["trial"]) for r in table(tmp_path)] == list(range(7))


def test_the_same_seed_draws_the_same_trials_stopped_or_not(tmp_path: Path):
    def drawn(name: str, *counts: int, seed: int = 0) -> list[str]:
        how = dataclasses.replace(SETTINGS.tune, seed=seed)
        for n in counts:
            search(tmp_path, n, settings=dataclasses.replace(SETTINGS, tune=how), study=name)
        return [r["train_detector.learning_rate"] for r in table(tmp_path)]

    first = drawn("a.log", 7)
    assert drawn("b.log", 3, 7) == first
    assert len(set(first)) == 7
    assert drawn("c.log", 7, seed=1) != first


WORKER = """
import sys, time
from pathlib import Path
from test_tune import SETTINGS, SPACE, bowl
from noduscope.tune.search import tune

def slow(settings, folder, report):
    time.sleep(0.3)
    return bowl(settings, folder, report)

tune(slow, SPACE, SETTINGS, Path(sys.argv[1]), Path(sys.argv[2]), 8)
"""


def test_two_processes_share_one_study(tmp_path: Path):
    study, out = tmp_path / "study.log", tmp_path / "out"
    command = [sys.executable, "-c", WORKER, str(study), str(out)]
    where = str(Path(__file__).parent)
    both = [subprocess.Popen(command, cwd=where, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        error = process.communicate()[1]
        assert process.returncode == 0, error
    search(tmp_path, 1)  # nothing to do: all that both have done is written
    rows = table(tmp_path)
    assert [int(r["trial"]) for r in rows] == list(range(len(rows)))
    assert len(rows) in (8, 9)  # the other process finishes what it was at
    assert {r["state"] for r in rows} == {"complete"}
    rates = [r["train_detector.learning_rate"] for r in rows]
    assert len(set(rates)) == len(rows)  # not the same draw twice


def test_a_failed_trial_does_not_end_the_study_and_does_not_count(tmp_path: Path):
    count = iter(range(100))

    def fails_once(settings: Settings, folder: Path, report) -> float:
        if next(count) == 1:
            raise MemoryError("too large")
        return bowl(settings, folder, report)

    assert search(tmp_path, 4, fails_once)["trials"] == {"complete": 4, "fail": 1}
    assert [r["state"] for r in table(tmp_path)] == ["complete", "fail", "complete", "complete", "complete"]


def test_three_failures_in_a_row_end_it(tmp_path: Path):
    def fails(settings: Settings, folder: Path, report) -> float:
        raise ValueError("broken")

    with pytest.raises(NoduscopeError, match="3 trials in a row failed"):
        search(tmp_path, 50, fails)
    assert [r["state"] for r in table(tmp_path)] == ["fail"] * 3
    assert not (tmp_path / "out" / "best.toml").exists()


def test_an_interrupted_trial_is_drawn_again_in_the_same_folder(tmp_path: Path):
    folders = []

    def interrupted(settings: Settings, folder: Path, report) -> float:
        folders.append(folder)
        if len(folders) == 3:
            raise KeyboardInterrupt
        return bowl(settings, folder, report)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 6, interrupted)
    assert [r["state"] for r in table(tmp_path)] == ["complete", "complete", "fail", "waiting"]
    assert load_settings(tmp_path / "out" / "best.toml").tune_detector == SETTINGS.tune_detector
    summary = search(tmp_path, 6, interrupted)
    assert folders[3] == folders[2]
    assert summary["trials"] == {"complete": 6, "fail": 1}


def test_a_study_of_other_settings_is_refused_by_the_table_that_differs(tmp_path: Path):
    search(tmp_path, 1)
    other = dataclasses.replace(SETTINGS, split=dataclasses.replace(SETTINGS.split, validation_fold=3))
    with pytest.raises(SettingsError, match=r"other settings in \[split\]"):
        search(tmp_path, 2, settings=other)


def test_a_file_that_is_no_study_is_refused_and_left_as_it_was(tmp_path: Path):
    (tmp_path / "study.log").write_text("not a journal\n", encoding="utf-8")
    with pytest.raises(InputRefused, match="not a study's journal"):
        search(tmp_path, 1)
    assert (tmp_path / "study.log").read_text(encoding="utf-8") == "not a journal\n"
    with pytest.raises(InputRefused, match="cannot write the study"):
        search(tmp_path, 1, study="study.log/below")


def test_a_start_outside_the_space_is_not_tried(tmp_path: Path):
    settings = dataclasses.replace(SETTINGS, tune_detector=TuneDetectorSettings(learning_rate=(1e-5, 1e-4)))
    summary = search(tmp_path, 2, settings=settings)
    assert (summary["start"], summary["gain"]) == (None, None)


@pytest.mark.parametrize(
    ("table", "key", "value", "told"),
    [
        ("tune_detector", "colour", [1.0, 2.0], "unknown setting tune_detector.colour"),
        ("tune_detector", "learning_rate", [0.0, 1e-2], "above 0"),
        ("tune_detector", "dropout", [0.3, 0.1], r"tune_detector\.dropout: a range"),
        ("tune_detector", "dropout", [0.1], r"tune_detector\.dropout: a range"),
        ("tune_detector", "filters", [[32, 48]], r"tune_detector\.filters: a choice"),
        ("tune_grader", "dense", [64, 64], r"tune_grader\.dense: a choice"),
        ("tune_grader", "dense", "all", "tune_grader.dense must be like"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(table: str, key: str, value, told: str):
    with pytest.raises(SettingsError, match=told):
        settings_from_dict({table: {key: value}})


def test_nothing_to_search_is_refused():
    empty = {f.name: () for f in dataclasses.fields(TuneDetectorSettings)}
    with pytest.raises(SettingsError, match="leaves nothing to search"):
        declared_space(Settings(tune_detector=TuneDetectorSettings(**empty)), "detector")


@pytest.mark.parametrize("network", ["detector", "grader"])
def test_what_is_declared_names_one_setting_each_and_holds_its_default(network: str):
    settings = Settings()
    space = declared_space(settings, network)
    declared = {"detector": TuneDetectorSettings, "grader": TuneGraderSettings}[network]
    assert [p.key for p in space.parameters] == [f.name for f in dataclasses.fields(declared)]
    tables = (getattr(settings, network), getattr(settings, f"train_{network}"))
    for parameter in space.parameters:
        assert sum(hasattr(t, parameter.key) for t in tables) == 1, parameter.name
    start = space.read_from(settings)
    assert start is not None
    assert space.apply(settings, start) == settings


def test_a_place_in_the_space_is_a_share_of_its_axis():
    rate, dropout, filters = SPACE.parameters
    assert rate.share(2e-3) == pytest.approx(0.5)  # the geometric mean of 5e-4 and 8e-3
    assert dropout.share(0.1) == pytest.approx(1 / 3)
    assert [filters.share(v) for v in filters.values] == [0, 0.5, 1]


def test_help_loads_no_optuna():
    code = "import sys; from noduscope.cli import app; assert not {'optuna', 'keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_detector_needs_a_place_for_prepared_scans(noduscope, tmp_path: Path):
    status, _, error = noduscope("tune", "detector", "--data", tmp_path, "--study", tmp_path / "s", "-o", tmp_path)
    assert status == 2
    assert "--cache" in error


def test_weights_to_begin_with_are_checked_before_anything_is_prepared(noduscope, tmp_path: Path):
    weights = tmp_path / "best.weights.h5"
    where = ["--data", tmp_path, "--cache", tmp_path, "--study", tmp_path / "s", "-o", tmp_path, "--start", weights]
    status, _, error = noduscope("tune", "detector", *where)
    assert status == 3
    assert "is no file of weights" in error
    weights.touch()
    status, _, error = noduscope("tune", "detector", *where)
    assert status == 2
    assert "tune_detector.filters and tune_detector.blocks" in error


def test_every_trial_of_a_detector_begins_with_the_given_weights(tmp_path: Path, monkeypatch):
    pytest.importorskip("keras")
    from noduscope.train import TrainResult
    from noduscope.tune import objectives

    begun = []

    def fit(split, folder, settings, start, on_validation) -> TrainResult:
        begun.append(start)
        return TrainResult(folder / "best.weights.h5", 0.5, 1)

    monkeypatch.setattr(objectives, "fit_detector", fit)
    objective = objectives.detector_objective(None, tmp_path / "good.weights.h5")
    assert objective(Settings(), tmp_path, lambda *told: None) == 0.5
    assert begun == [tmp_path / "good.weights.h5"]


@pytest.mark.slow
def test_tuning_a_detector_from_the_command_line(noduscope, tmp_path: Path):
    """Two trials of two steps on made scans: the start and one draw; the best file is one that train reads."""
    pytest.importorskip("keras")
    names = write_detector_data(tmp_path / "data")
    file = tmp_path / "my.toml"
    file.write_text(
        "[preprocess]\nspacing_mm = 2.0\n"
        "[detector]\nstem_filters = 4\nfilters = [6, 8]\nblocks = [1, 1]\n"
        f'[split]\nvalidation_scans = ["{names[1]}"]\ntest_scans = []\n'
        "[train_detector]\nbatch_size = 2\ncrop_voxels = 32\nvalidate_every = 1\nema_momentum = 0.5\n"
        "[tune_detector]\nfilters = []\nblocks = []\ncrop_voxels = []\n",
        encoding="utf-8",
    )
    arguments = ["--data", tmp_path / "data", "--cache", tmp_path / "cache", "--settings", file, "--steps", "2"]
    where = ["--study", tmp_path / "detector.study", "-o", tmp_path / "out"]
    status, out, error = noduscope("tune", "detector", *arguments, *where, "--trials", "2", "--json")
    assert status == 0, error
    summary = json.loads(out[out.index("{") :])
    assert summary["trials"] == {"complete": 2}
    assert 0 <= summary["start"]["score"] <= summary["best"]["score"] <= 1
    rows = table(tmp_path)
    assert [r["validations"] for r in rows] == ["2", "2"]
    for row in rows:
        run = tmp_path / "out" / "trials" / row["folder"]
        tried = load_settings(run / "settings.toml")
        assert json.loads(row["train_detector.learning_rate"]) == tried.train_detector.learning_rate
        history = (run / "history.csv").read_text(encoding="utf-8").splitlines()
        assert len(history) == 3  # a header and two validations
    best = load_settings(tmp_path / "out" / "best.toml")
    assert best.train_detector.steps == 2
    assert best == load_settings(tmp_path / "out" / "trials" / summary["best"]["folder"] / "settings.toml")


def write_detector_data(folder: Path) -> tuple[str, str]:
    """A scan for training and one for validation, a nodule in each, and three labelled nodules."""
    from helpers_chest import NODULES, make_chest
    from helpers_stacks import Ball, write_stacks
    from noduscope.phantom import write_mhd

    names = ("Train-1", "Valid-1")
    rows = ["scan,coordX,coordY,coordZ,diameter_mm,kind"]
    for seed, name in enumerate(names):
        (folder / "scans" / name).mkdir(parents=True)
        write_mhd(make_chest(seed), folder / "scans" / name / f"{name}.mhd")
        place = ",".join(str(v) for v in NODULES[0].position_xyz_mm)
        rows.append(f"{name},{place},{NODULES[0].diameter_mm},reference")
    (folder / "scans" / "nodules.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    everyone = (f"Patient-{i}" for i in range(1000))
    training = [p for p in everyone if patient_fold(p, Settings().split.folds) > 1][:3]
    write_stacks(folder / "lidc_nodules", [Ball(p, d) for p, d in zip(training, (8.0, 12.0, 16.0), strict=True)])
    return names


def test_the_grader_is_scored_on_validation_patients_only(tmp_path: Path, monkeypatch):
    """Who trains, who is scored, and what is reported; the training itself is left out."""
    pytest.importorskip("keras")
    from noduscope.tune import objectives

    class Stack:
        def __init__(self, patient: str, ratings: list[int]) -> None:
            self.patient_id, self.ratings = patient, {"malignancy": ratings}

    of = {k: [p for p in (f"P{i}" for i in range(200)) if patient_fold(p, 10) == k][:3] for k in range(10)}
    stacks = [Stack(p, r) for k in of for p, r in zip(of[k], ([1, 2, 2], [5, 4, 4], [3, 3, 3]), strict=True)]
    trained, reports = [], []

    def train(training, places, folder, settings, on_epoch):
        trained.extend(s.patient_id for s in training)
        for epoch in range(9):
            on_epoch(epoch, "model")
        return "model"

    def auc(model, scored, settings) -> float:
        assert [(s.patient_id, label) for s, label in scored] == [(of[0][0], False), (of[0][1], True)]
        return 0.75

    monkeypatch.setattr(objectives, "labelled_nodules", lambda stacks, settings: stacks)
    monkeypatch.setattr(objectives, "train_grader", train)
    monkeypatch.setattr(objectives, "malignancy_auc", auc)
    objective = objectives.grader_objective(stacks, Settings())
    assert objective(Settings(), tmp_path, lambda *told: reports.append(told)) == 0.75
    assert reports == [(0, 0.75), (1, 0.75)]  # every fourth of nine epochs
    assert sorted(trained) == sorted(p for k in range(2, 10) for p in of[k])
    with pytest.raises(InputRefused, match="not both benign and malignant"):
        objectives.grader_objective([s for s in stacks if s.patient_id != of[0][1]], Settings())
