"""The whole road on a small true LUNA16 tree: look, prepare, train a fold, cross-validate two, evaluate."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("keras")

from helpers_luna16 import ODD, write_luna16
from noduscope.boxes import STRIDE, encode
from noduscope.data.cached import cached_hosts, read_scans
from noduscope.model.bundle import load_bundle
from noduscope.settings import load_settings
from noduscope.train import fold_data, read_history

pytestmark = pytest.mark.slow

# the random first weights mark something, so that there is something to evaluate after four steps
SETTINGS = """\
[preprocess]
spacing_mm = 2.5
[detector]
stem_filters = 4
filters = [6, 8]
blocks = [1, 1]
[train_detector]
steps = 4
batch_size = 2
crop_voxels = 32
validate_every = 2
ema_momentum = 0.5
"""


@pytest.fixture(scope="module")
def luna(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_luna16(tmp_path_factory.mktemp("road") / "luna", shared_data)


@pytest.fixture(scope="module")
def settings(luna: Path) -> Path:
    file = luna.parent / "settings.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def eager_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noduscope.model.detector._PRIOR_LOGIT", -2.0)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as held:
        return list(csv.DictReader(held))


def test_the_whole_road(noduscope, luna: Path, settings: Path):
    root = luna.parent
    status, out, _ = noduscope("data", "info", luna, "--json")
    assert (status, json.loads(out)["subsets"]) == (0, {"0": 2, "1": 2, "2": 2})

    cache = root / "cache"
    status, out, _ = noduscope("data", "prepare", luna, "--cache", cache, "--settings", settings, "--json")
    assert (status, json.loads(out)["scans"]) == (0, 6)
    check_prepared(cache, settings)

    cross = root / "cross"
    run = cross / "fold-1"
    status, out, _ = noduscope("train", "detector", "--data", cache, "--fold", 1, "--settings", settings, "-o", run)
    assert status == 0
    check_run(run)
    trained = (run / "best.weights.h5").read_bytes()

    # a fold that was trained by itself is taken as it is
    arguments = ("crossval", "detector", "--data", cache, "--folds", "0,1", "--settings", settings, "-o", cross)
    status, out, _ = noduscope(*arguments, "--json")
    metrics = json.loads(out)
    assert status == 0
    assert (run / "best.weights.h5").read_bytes() == trained
    assert len(read_history(run)) == 2
    check_candidates(cross, {s.series_uid: s.subset for s in read_scans(cache)})
    check_metrics(noduscope, cross, metrics)

    # a second call trains nothing and says the same
    before = {p: p.stat().st_mtime_ns for p in cross.glob("fold-*/*")}
    status, out, _ = noduscope(*arguments, "--json")
    assert (status, json.loads(out)["cpm"]) == (0, metrics["cpm"])
    assert {p: p.stat().st_mtime_ns for p in cross.glob("fold-*/*")} == before


def check_prepared(cache: Path, settings: Path) -> None:
    """LUNA16's nodules lie on tissue of the prepared scans, in a lung or at its edge."""
    chosen = load_settings(settings)
    hosts = cached_hosts(cache, read_scans(cache), chosen)
    nodules = [(h, k) for h in hosts for k in h.lesions if k.counts]
    assert sorted(round(k.diameter_mm, 1) for _, k in nodules) == [15.5, 15.5, 23.4, 23.4]
    for host, nodule in nodules:
        box = tuple(slice(max(round(c) - 2, 0), round(c) + 3) for c in nodule.centre_zyx)
        assert np.median(host.hu[box]) > -200
        wide = tuple(slice(max(round(c) - 6, 0), round(c) + 7) for c in nodule.centre_zyx)
        assert host.lungs[wide].any()
        # every reader's own outline is among the excluded findings: the nodule must be learnt all the same
        target = encode(host.lesions, host.hu.shape, None, chosen.preprocess.spacing_mm)
        cell = tuple(int((c + 0.5) / STRIDE) for c in nodule.centre_zyx)
        assert target[cell][:2].tolist() == [1.0, 1.0]
    assert sum(not any(k.counts for k in h.lesions) for h in hosts) == 2
    data = fold_data(cache, chosen)  # scans without nodules are in training
    assert {h.name.endswith(ODD) for h in data.train.hosts} == {True}
    assert [sum(k.counts for k in h.lesions) for h in data.train.hosts] == [1, 0]


def check_run(run: Path) -> None:
    """The bundle says which fold it is of, and its test side is that subset."""
    bundle = load_bundle(run / "detector-0.0")
    assert (bundle.settings.split.test_fold, bundle.settings.split.validation_fold) == (1, 2)
    assert "subset 1 is test" in bundle.card
    assert "LUNA16" in bundle.card
    assert len(rows(run / "test" / "seriesuids.csv")) == 2
    history = read_history(run)
    assert len(history) == 2
    assert all(float(r["seconds_per_step"]) >= float(r["crop_seconds_per_step"]) > 0 for r in history)


def check_candidates(cross: Path, subset: dict[str, int]) -> None:
    """Each fold marks the scans of its own subset alone; the joint table holds them all."""
    joint = rows(cross / "candidates.csv")
    assert list(joint[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "probability"]
    parts = [rows(cross / f"fold-{k}" / "candidates.csv") for k in (0, 1)]
    for k, part in enumerate(parts):
        assert part
        assert {subset[r["seriesuid"]] for r in part} == {k}
    assert joint == parts[0] + parts[1]
    assert all(0 <= float(r["probability"]) <= 1 for r in joint)


def check_metrics(noduscope, cross: Path, metrics: dict) -> None:
    """All four scans divide the false positives, and `evaluate detections` says the same of the same tables."""
    assert metrics["counts"]["scans"] == 4
    assert metrics["counts"]["nodules"] == 3
    assert metrics["cpm"]["interpolated"]["low"] is not None
    assert (cross / "froc.png").exists()
    given = {"annotations": "annotations.csv", "excluded": "annotations_excluded.csv", "seriesuids": "seriesuids.csv"}
    options = [part for name, file in given.items() for part in (f"--{name}", cross / file)]
    status, out, _ = noduscope(
        "evaluate", "detections", cross / "candidates.csv", *options, "-o", cross / "again", "--json"
    )
    assert (status, json.loads(out)["cpm"]) == (0, metrics["cpm"])


def test_folds_that_cannot_be_trained_are_refused_before_hours_of_training(noduscope, tmp_path: Path):
    status, _, error = noduscope("crossval", "detector", "--data", tmp_path, "-o", tmp_path / "out")
    assert (status, "data prepare" in error) == (3, True)
    for folds, expected in (("0,0", 2), ("ten", 2), ("12", 2)):
        status, _, _ = noduscope("crossval", "detector", "--data", tmp_path, "--folds", folds, "-o", tmp_path / "out")
        assert status == expected
    assert not (tmp_path / "out").exists()
