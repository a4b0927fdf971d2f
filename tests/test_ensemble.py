"""Several graders as one network: what it answers follows from what each of them answers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
pytest.importorskip("keras")

from noduscope.ensemble import ensemble_graders
from noduscope.errors import InputRefused, SettingsError
from noduscope.heads import NODULE
from noduscope.model.grader import VIEW_CHANNELS, build_grader
from noduscope.model.grader_engine import GraderEngine
from noduscope.model.ir import to_openvino
from noduscope.settings import GraderSettings, Settings, SplitSettings, load_settings, settings_to_toml
from noduscope.train_grader import WEIGHTS
from test_ir import stirred

SETTINGS = Settings(grader=GraderSettings(view_voxels=16, filters=(4, 6, 8), blocks=1, dense=8, opinions=4))


def make_run(folder: Path, members: int = 1, settings: Settings = SETTINGS) -> Path:
    """A finished run of a network that has learned nothing."""
    settings = dataclasses.replace(settings, grader=dataclasses.replace(settings.grader, members=members))
    folder.mkdir()
    stirred(build_grader(settings.grader)).save_weights(folder / WEIGHTS)
    (folder / "settings.toml").write_text(settings_to_toml(settings), encoding="utf-8")
    return folder


def answers(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Grades and masks of five views."""
    settings = load_settings(run / "settings.toml").grader
    model = build_grader(settings)
    model.load_weights(run / WEIGHTS)
    edge = settings.view_voxels
    views = np.random.default_rng(0).random((5, edge, edge, VIEW_CHANNELS)).astype(np.float32)
    return GraderEngine(to_openvino(model), settings).run(list(views))


def test_the_first_says_what_a_nodule_is_and_all_say_the_rest(tmp_path: Path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", members=2)
    (grade_1, mask_1), (grade_2, mask_2) = answers(one), answers(two)
    assert np.abs(grade_1[:, NODULE] - grade_2[:, NODULE]).min() > 1e-3
    made = ensemble_graders([one, two], tmp_path / "made")
    assert load_settings(made / "settings.toml").grader.members == 3
    grade, mask = answers(made)
    # on a processor that multiplies bfloat16 a network answers to three digits
    close = {"rtol": 0.05, "atol": 0.05}
    np.testing.assert_allclose(grade[:, NODULE], grade_1[:, NODULE], **close)
    np.testing.assert_allclose(grade[:, NODULE + 1 :], (grade_1 + 2 * grade_2)[:, NODULE + 1 :] / 3, **close)
    np.testing.assert_allclose(mask, (mask_1 + 2 * mask_2) / 3, **close)
    # a first one with several trunks: their mean
    np.testing.assert_allclose(
        answers(ensemble_graders([two, one], tmp_path / "turned"))[0][:, NODULE], grade_2[:, NODULE], **close
    )


def test_what_cannot_be_one_network_is_refused_and_nothing_is_written(tmp_path: Path):
    one = make_run(tmp_path / "one")
    wider = dataclasses.replace(SETTINGS, grader=dataclasses.replace(SETTINGS.grader, dense=12))
    elsewhere = dataclasses.replace(SETTINGS, split=SplitSettings(folds=5))
    for name, settings in (("wider", wider), ("elsewhere", elsewhere)):
        with pytest.raises(SettingsError, match=f"{name} has another architecture or split"):
            ensemble_graders([one, make_run(tmp_path / name, settings=settings)], tmp_path / "made")
    with pytest.raises(InputRefused, match="two or more"):
        ensemble_graders([one], tmp_path / "made")
    with pytest.raises(InputRefused, match=r"holds no grader\.weights\.h5"):
        ensemble_graders([one, tmp_path], tmp_path / "made")
    assert not (tmp_path / "made").exists()
    with pytest.raises(SettingsError, match="holds a run already"):
        ensemble_graders([one, one], one)


def test_from_the_command_line(noduscope, tmp_path: Path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    status, out, error = noduscope("train", "ensemble", one, two, "-o", tmp_path / "made")
    assert status == 0, error
    assert str(tmp_path / "made") in out
    assert "2 trunks side by side" in (tmp_path / "made" / "origin.txt").read_text(encoding="utf-8")
    assert (tmp_path / "made" / WEIGHTS).is_file()
