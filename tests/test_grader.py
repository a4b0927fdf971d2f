"""The grader end to end on made-up nodules: training, folds by patient, calibration, the bundle and what it says."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")

import h5py  # noqa: E402
import openvino as ov  # noqa: E402

from helpers_chest import NODULES, make_chest  # noqa: E402
from helpers_model import write_blob_bundle  # noqa: E402
from helpers_stacks import Ball, write_stacks  # noqa: E402
from noduscope import crossval_grader as cv  # noqa: E402
from noduscope import finish_grader as finish  # noqa: E402
from noduscope.boxes import Lesion, Marks  # noqa: E402
from noduscope.combine import Combination  # noqa: E402
from noduscope.crossval_cubes import crossval_cubes  # noqa: E402
from noduscope.data.crops import NodulePatch, NoduleStack, read_stacks  # noqa: E402
from noduscope.data.folds import patient_fold  # noqa: E402
from noduscope.data.grader_batches import (  # noqa: E402
    GraderBatches,
    PlaceSamples,
    PlaceSource,
    labelled_nodules,
    nodule_sample,
    subpixels,
    thicker,
)
from noduscope.data.hosts import HostScan  # noqa: E402
from noduscope.data.nodulemnist import read_nodulemnist  # noqa: E402
from noduscope.data.validation import KnownVolume  # noqa: E402
from noduscope.ensemble import ensemble_graders  # noqa: E402
from noduscope.errors import InputRefused, SettingsError  # noqa: E402
from noduscope.finish import ORIGIN  # noqa: E402
from noduscope.grading import Grader, MalignancyCalibration, RatingScale, dense_share, ratings  # noqa: E402
from noduscope.heads import ATTRIBUTE, ATTRIBUTES, MALIGNANCY, NODULE, TYPE, channels  # noqa: E402
from noduscope.model.bundle import Calibration, find_bundle, load_bundle, write_bundle  # noqa: E402
from noduscope.model.grader import build_grader, grade_loss, mask_loss  # noqa: E402
from noduscope.model.grader_engine import (  # noqa: E402
    _ALL_TURNS,
    _SECOND_LOOK,
    GraderEngine,
    _from_subpixels,
    middle_planes,
)
from noduscope.model.ir import to_openvino  # noqa: E402
from noduscope.phantom import Phantom, write_mhd  # noqa: E402
from noduscope.predict import load_models, predict  # noqa: E402
from noduscope.preprocess import half_size  # noqa: E402
from noduscope.refine import refine_grader  # noqa: E402
from noduscope.scan import Geometry  # noqa: E402
from noduscope.settings import (  # noqa: E402
    GraderSettings,
    Settings,
    SplitSettings,
    TrainGraderSettings,
    load_settings,
)
from noduscope.train_grader import WEIGHTS, train_grader  # noqa: E402
from test_ir import assert_same, stirred  # noqa: E402

SETTINGS = Settings(
    grader=GraderSettings(view_voxels=32, filters=(4, 6, 8), blocks=1, dense=8, dropout=0.0, opinions=4, members=2),
    train_grader=TrainGraderSettings(epochs=12, batch_size=4, learning_rate=1e-2, ema_momentum=0.5),
    split=SplitSettings(folds=3),
)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> list[NoduleStack]:
    """Small benign and large malignant balls of twelve patients, two of them in two minds."""
    balls = [Ball(f"P{i}", diameter_mm=6.0 if i % 2 else 14.0) for i in range(12)]
    folder = write_stacks(tmp_path_factory.mktemp("stacks") / "lidc_nodules", balls)
    made = []
    for i, stack in enumerate(read_stacks(folder)):
        rating = (3, 3, 3, 3) if i < 2 else (1, 2, 1, 2) if i % 2 else (5, 4, 4, 5)
        made.append(dataclasses.replace(stack, ratings={**stack.ratings, "malignancy": rating}))
    return made


def test_the_grader_is_the_same_in_both():
    assert_same(stirred(build_grader(SETTINGS.grader)), 3, 32, 32, 4)


def test_labels_are_the_readers_word(stacks: list[NoduleStack]):
    nodule = labelled_nodules(stacks, SETTINGS.grader)[2]
    labels, weights = nodule.labels
    assert labels[MALIGNANCY] == pytest.approx((1.0 + 0.85 + 0.85 + 1.0) / 4)
    assert labels[TYPE].tolist() == [1.0, 0.0, 0.0]  # textures 5, 5, 5, 4
    named = dict(zip(ATTRIBUTES, labels[ATTRIBUTE], strict=True))
    assert named["subtlety"] == pytest.approx((4.25 - 1) / 4)
    assert named["calcification"] == 1.0
    assert weights[0] == 0.0  # a stack does not teach what is no nodule


def test_hidden_neighbours_go_with_grades_and_shown_ones_do_not(stacks: list[NoduleStack]):
    """What a view of a stack's end would give away must never be learned from."""
    nodule = labelled_nodules(stacks, SETTINGS.grader)[2]
    kinds = set()
    for seed in range(60):
        sample = nodule_sample(np.random.default_rng(seed), nodule, SETTINGS.grader)
        hidden = np.array_equal(sample.view[..., 0], sample.view[..., 1])
        kinds.add(hidden)
        if not hidden:
            assert not sample.labels[1].any()
    assert True in kinds


def test_subpixels_and_back():
    plane = np.arange(36, dtype=np.float32).reshape(6, 6)
    assert np.array_equal(_from_subpixels(subpixels(plane)[None])[0], plane)


def test_unknown_labels_and_pixels_cost_nothing():
    heads = channels(2)
    target = np.zeros((1, 2, heads), np.float32)
    assert float(grade_loss(target, np.full((1, heads), 9.0, np.float32))) == 0.0
    assert float(mask_loss(np.full((1, 2, 2, 4), -1, np.float32), np.full((1, 2, 2, 4), 9.0, np.float32))) == 0.0
    target[0, 0, 0], target[0, 1, 0] = 1.0, 1.0
    right, wrong = (float(grade_loss(target, np.full((1, heads), v, np.float32))) for v in (5.0, -5.0))
    assert right < 0.1 < wrong


def test_members_learn_alone_and_answer_together():
    """Two trunks of one network: losses add up, answers are the mean, whatever order their layers come in."""
    heads, rng = channels(2), np.random.default_rng(0)
    target, outline = rng.random((3, 2, heads), np.float32), rng.random((3, 2, 2, 4), np.float32)
    one, two = (rng.normal(size=(3, heads)).astype(np.float32) for _ in range(2))
    both = float(grade_loss(target, np.concatenate([one, two], axis=-1)))
    assert both == pytest.approx(float(grade_loss(target, one)) + float(grade_loss(target, two)), rel=1e-5)
    one, two = (rng.normal(size=(3, 2, 2, 4)).astype(np.float32) for _ in range(2))
    both = float(mask_loss(outline, np.concatenate([one, two], axis=-1)))
    assert both == pytest.approx(float(mask_loss(outline, one)) + float(mask_loss(outline, two)), rel=1e-5)

    model = stirred(build_grader(SETTINGS.grader))
    views = rng.random((3, 32, 32, 4), np.float32)
    grades, masks = GraderEngine(to_openvino(model), SETTINGS.grader).run(list(views))
    said = model.predict(views, verbose=0)
    a, b = np.split(said["grade"], SETTINGS.grader.members, axis=-1)
    assert np.abs(a - b).max() > 0.1  # they begin apart
    assert np.allclose(grades, (a + b) / 2, atol=0.02 * np.abs(said["grade"]).max())  # bf16 where there is such
    a, b = np.split(said["mask"], SETTINGS.grader.members, axis=-1)
    assert np.allclose(masks, (a + b) / 2, atol=0.02 * np.abs(said["mask"]).max())


def test_a_thicker_slice_is_a_mean_and_the_last_one_stays():
    stack = np.array([[[0]], [[90]], [[300]], [[0]]], np.int16)
    made = thicker(np.random.default_rng(1), stack, 1)
    share = np.random.default_rng(1).uniform(0.2, 1.0)
    assert made[1, 0, 0] == round((90 + share * 300) / (1 + 2 * share))
    assert np.array_equal(np.delete(made, 1, 0), np.delete(stack, 1, 0))
    assert np.array_equal(thicker(np.random.default_rng(1), stack, 3), stack)


def test_batches_are_a_function_of_the_seed(stacks: list[NoduleStack]):
    nodules = labelled_nodules(stacks, SETTINGS.grader)
    first, second = (GraderBatches(nodules, (), SETTINGS)[1] for _ in range(2))
    assert np.array_equal(first[0], second[0])
    other = GraderBatches(nodules, (), SETTINGS)
    other.on_epoch_end()
    assert not np.array_equal(first[0], other[1][0])


def test_a_tenth_of_the_views_of_whole_scans_are_of_synthetic_chests(stacks: list[NoduleStack]):
    settings = dataclasses.replace(SETTINGS, train_grader=TrainGraderSettings(batch_size=2, places=200))
    sources = []
    for hu in (-850, 0):
        shape = (64, 64, 64)
        lungs, volume = np.ones(shape, np.uint8), np.full(shape, hu, np.int16)
        host = HostScan("h", volume, lungs, Geometry(shape), (Lesion((32.0, 32.0, 32.0), 8.0),))
        alpha = np.ones((8, 8, 8), np.float32)
        patch = NodulePatch("b", "P", "solid", np.zeros_like(alpha), alpha, (3.5, 3.5, 3.5), 6.0)
        sources.append(PlaceSamples(PlaceSource([host], [patch], [], settings.grader.spacing_mm, own=1.0), settings))
    views, _ = GraderBatches(labelled_nodules(stacks, settings.grader), sources, settings)[0]
    ends = views[2:, 0, 0, 1]  # a corner shows what is around: lung or, in the second, what no lung looks like
    assert 0.04 < np.mean(ends > 0.5) < 0.2
    alone, _ = GraderBatches(labelled_nodules(stacks, settings.grader), sources[:1], settings)[0]
    assert (alone[2:, 0, 0, 1] < 0.5).all()


def test_planes_come_from_the_middle_of_a_nodule():
    assert middle_planes(4, 4) == (4,)
    assert middle_planes(0, 10) == (2, 4, 5, 7, 8)
    assert all(2 <= z <= 8 for z in middle_planes(0, 10))


@pytest.fixture(scope="module")
def folds(stacks: list[NoduleStack], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cv")
    assert cv.crossval_grader(stacks, out, SETTINGS, only=[0]) == {}
    with pytest.raises(InputRefused, match="lacks fold 1"):
        cv.pool(stacks, out, 3)
    assert cv.crossval_grader(stacks, out, SETTINGS, workers=2) != {}  # fold 0 is there; two processes do the others
    return out


def test_every_nodule_is_judged_once_by_a_fold_without_its_patient(stacks: list[NoduleStack], folds: Path):
    pooled = cv.pool(stacks, folds, 3)
    assert sorted(j.stack.name for j in pooled.judged) == sorted(s.name for s in stacks)
    assert all(j.fold == patient_fold(j.stack.patient_id, 3) for j in pooled.judged)
    assert ((pooled.low <= pooled.probability) & (pooled.probability <= pooled.high)).all()


def test_a_fold_judged_by_an_earlier_version_is_refused(stacks: list[NoduleStack], folds: Path, tmp_path: Path):
    shutil.copytree(folds, tmp_path / "cv")
    file = tmp_path / "cv" / "fold-1" / "judged.npz"
    with np.load(file) as held:
        earlier = {name: held[name] for name in held.files if name != "dense"}
    np.savez(file, **earlier)
    with pytest.raises(InputRefused, match=r"judged\.npz is of an earlier version"):
        cv.pool(stacks, tmp_path / "cv", 3)


def test_the_summary_holds_every_table(stacks: list[NoduleStack], folds: Path):
    pooled = cv.pool(stacks, folds, 3)
    summary = cv.summarise(pooled)
    assert summary["nodules"] == 12
    assert summary["undecided"]["n"] == 2
    assert set(summary["attributes"]) == set(ATTRIBUTES)
    assert summary["outlines"]["dice_of_readers"]["value"] > 0.8
    rows = cv.tables(pooled)["nodules.csv"]
    assert len(rows) == 13
    assert len({len(r) for r in rows}) == 1


def test_without_outlines_no_size_error_is_made_up(stacks: list[NoduleStack]):
    judged = [cv.Judged(s, 0, np.zeros(channels(2), np.float32), 0.0, (0.0, 8.0, 0.0, 200.0), 0.0) for s in stacks]
    with pytest.raises(InputRefused, match="of 12 nodules 0 were outlined"):
        cv.size_errors(judged)


def test_a_finished_run_is_used_and_another_one_refused(stacks: list[NoduleStack], tmp_path: Path):
    nodules = labelled_nodules(stacks[:4], SETTINGS.grader)
    first = train_grader(nodules, (), tmp_path, SETTINGS)
    again = train_grader(nodules, (), tmp_path, SETTINGS)
    with h5py.File(tmp_path / WEIGHTS) as file:
        assert "optimizer" not in file  # its state is three times the weights
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        assert np.allclose(a, b)
    other = dataclasses.replace(SETTINGS, train_grader=TrainGraderSettings(epochs=3))
    with pytest.raises(SettingsError, match="other settings"):
        train_grader(nodules, (), tmp_path, other)
    with pytest.raises(InputRefused, match="no labelled nodule"):
        train_grader([], (), tmp_path / "none", SETTINGS)


def test_malignancy_grows_with_opinion_and_size_and_its_interval_with_disagreement():
    calibration = MalignancyCalibration(1.0, 2.0, -4.0)
    agreed = calibration.interval(np.zeros(4), 8.0)
    assert agreed.low == agreed.value == agreed.high == pytest.approx(1 / (1 + np.exp(4 - 2 * np.log(8))))
    assert calibration.interval(np.zeros(4), 12.0).value > agreed.value
    split = calibration.interval(np.array([-1.0, 1.0]), 8.0)
    assert split.low < agreed.value < split.high
    assert split.value == pytest.approx(agreed.value)
    calcified = dataclasses.replace(calibration, dense=-6.0).interval(np.zeros(4), 8.0, dense=0.5)
    assert calcified.value == pytest.approx(1 / (1 + np.exp(4 - 2 * np.log(8) + 3)))


def test_the_dense_share_counts_what_no_soft_tissue_reaches():
    assert dense_share(np.array([[150, 200], [201, 900]], np.int16)) == 0.5
    assert dense_share(np.zeros(0, np.int16)) == 0.0


def test_calcium_speaks_for_benign_where_the_readers_say_so(stacks: list[NoduleStack]):
    """Every second nodule holds calcium and is called benign, all else being equal."""
    logits = np.zeros(channels(2), np.float32)
    sizes = (9.0, 9.0, 300.0, 300.0)
    held = [s for s in stacks if cv.label_of(s, cv.MAIN) is not None]
    judged = [cv.Judged(s, 0, logits, 0.8, sizes, 0.0 if cv.label_of(s, cv.MAIN) else 0.4) for s in held]
    calibration = cv.calibrate_malignancy(judged)
    assert calibration.dense < 0
    dense, plain = (calibration.interval(logits[MALIGNANCY], 9.0, share).value for share in (0.4, 0.0))
    assert dense < 0.5 < plain


def test_ratings_are_on_the_readers_scale(stacks: list[NoduleStack]):
    """Answers that keep near the middle get the readers' mean and spread; nothing leaves the scale."""
    middle = np.zeros(channels(2), np.float32)
    assert ratings(middle)["margin"] == pytest.approx(3.0)
    assert ratings(middle, {"margin": RatingScale(1.0, 9.0)})["margin"] == 5.0
    judged = []
    for i, stack in enumerate(stacks):
        given = 1 + i % 5
        logits = middle.copy()
        logits[ATTRIBUTE] = 0.1 * (given - 3)
        rated = dataclasses.replace(stack, ratings={**stack.ratings, "margin": (given,) * 3})
        judged.append(cv.Judged(rated, 0, logits, 1.0, (8.0, 8.0, 200.0, 200.0), 0.0))
    scales = cv.rating_scales(judged)
    said = [ratings(j.logits, scales)["margin"] for j in judged]
    meant = [j.stack.ratings["margin"][0] for j in judged]
    assert np.allclose(said, meant, atol=0.05)
    alike = [dataclasses.replace(j, logits=middle) for j in judged]
    assert cv.rating_scales(alike) == {}


def test_protocols_of_the_main_table(stacks: list[NoduleStack]):
    def of(*ratings: int) -> NoduleStack:
        return dataclasses.replace(stacks[0], ratings={**stacks[0].ratings, "malignancy": ratings})

    assert cv.label_of(of(1, 2, 5), cv.MAIN) is False
    assert cv.label_of(of(3, 3, 5), cv.MAIN) is None
    assert cv.label_of(of(3, 4, 4), cv.MAIN) is True
    assert cv.label_of(of(3, 4), cv.MAIN) is None
    assert cv.label_of(of(3, 3, 5), "mean, 3 or more readers") is True
    assert cv.label_of(of(4, 4, 4), "median, 4 readers") is None


def test_a_mirrored_scan_has_the_mirrored_outline():
    """Also of a network that has not learned so: its answers to a plane's turns are averaged."""
    engine = GraderEngine(to_openvino(build_grader(SETTINGS.grader)), SETTINGS.grader)
    hu = np.random.default_rng(0).integers(-900, 100, (3, 41, 41)).astype(np.int16)
    spacing, places = (1.25, 0.7, 0.7), [(0.0, 20.0, 20.0), (1.0, 20.0, 20.0)]
    shares = engine.shares(hu, spacing, places)
    assert np.ptp(shares) > 0.01
    for axis in (1, 2):
        assert np.allclose(engine.shares(np.flip(hu, axis), spacing, places), np.flip(shares, axis), atol=1e-5)


def test_the_likeliest_marks_are_looked_at_in_all_turns_and_the_others_once():
    """A stand-in for the network that sees one corner: it answers each turn of a plane differently."""

    class Corner(GraderEngine):
        def run(self, views):
            grades = np.zeros((len(views), channels(4)), np.float32)
            grades[:, NODULE] = [v[0, 0, 1] for v in views]
            return grades, np.zeros((len(views), 16, 16, 4), np.float32)

    engine = Corner(to_openvino(build_grader(SETTINGS.grader)), SETTINGS.grader)
    rng = np.random.default_rng(0)
    hu, spacing = rng.integers(-900, 100, (41, 41, 41)).astype(np.int16), (0.7, 0.7, 0.7)
    centres = rng.uniform(10, 30, (30, 3)).astype(np.float32)
    always = engine.nodule_logits(hu, spacing, centres)
    each = [engine.nodule_logits(hu, spacing, centres, [t]) for t in _ALL_TURNS]
    assert np.allclose(always, np.mean(each, axis=0), atol=1e-6)
    assert np.abs(always - each[0]).min() > 1e-3
    score = np.linspace(40, -40, len(centres), dtype=np.float32)  # outweighs what the grader says
    said = engine.mark_logits(hu, spacing, Marks(centres, score, np.full(len(centres), 5, np.float32)))
    assert np.array_equal(said[:_SECOND_LOOK], always[:_SECOND_LOOK])
    assert np.array_equal(said[_SECOND_LOOK:], each[0][_SECOND_LOOK:])


def test_what_fills_half_a_view_is_looked_at_in_half_size():
    engine = GraderEngine(to_openvino(build_grader(SETTINGS.grader)), SETTINGS.grader)
    rng = np.random.default_rng(0)
    hu, spacing = rng.integers(-900, 100, (60, 60, 60)).astype(np.int16), (0.7, 0.7, 0.7)
    centres = np.array([(20, 22, 30), (30, 30, 30)], np.float32)
    marks = Marks(centres, np.zeros(2, np.float32), np.array([17.9, 18.0], np.float32))
    said = engine.mark_logits(hu, spacing, marks)
    assert said[0] == engine.nodule_logits(hu, spacing, centres[:1])[0]
    # there voxels 0 and 1 are voxel 0, whose centre lies at 0.5 of the full grid; so 30 lies at 14.75
    assert said[1] == engine.nodule_logits(half_size(hu), spacing, np.array([(14.75, 14.75, 14.75)]))[0]
    assert abs(said[1] - engine.nodule_logits(hu, spacing, centres[1:])[0]) > 1e-4


@pytest.mark.parametrize(("diameter_mm", "shown_mm"), [(12.0, 12.0), (24.0, 12.0)])
def test_training_views_show_what_is_large_at_half_size_too(diameter_mm: float, shown_mm: float):
    settings, edge = Settings(), 100
    grid, middle = np.ogrid[(slice(edge),) * 3], (edge - 1) / 2

    def ball(spacing_mm: float) -> np.ndarray:
        return sum((g - middle) ** 2 for g in grid) <= (diameter_mm / 2 / spacing_mm) ** 2

    def shown(hu: np.ndarray, kind: str) -> np.ndarray:
        host = HostScan("h", hu.astype(np.int16), np.ones(hu.shape, np.uint8), Geometry(hu.shape), ())
        wrong = [(0, (middle,) * 3, diameter_mm)]
        source = PlaceSource([host], [patch], wrong, settings.grader.spacing_mm, own=0.0)
        samples = PlaceSamples(source, settings)
        views = [getattr(samples, kind)(np.random.default_rng(seed)) for seed in range(60)]
        dense = np.array([(s.view[..., 1] > 0.4).sum() for s in views if s is not None])
        return 2 * np.sqrt(dense / np.pi) * settings.grader.spacing_mm

    alpha = ball(settings.grader.spacing_mm).astype(np.float32)
    patch = NodulePatch("b", "P", "solid", np.zeros_like(alpha), alpha, (middle,) * 3, diameter_mm)
    filled = np.where(ball(settings.preprocess.spacing_mm), 0, -850)
    assert np.median(shown(filled, "false")) == pytest.approx(shown_mm, rel=0.15)
    assert np.median(shown(np.full_like(filled, -850), "found")) == pytest.approx(shown_mm, rel=0.15)


def test_an_outline_is_found_on_every_slice_it_reaches():
    """A stand-in for the network that outlines what is dense: the walk from slice to slice is what is tested."""

    class Dense(GraderEngine):
        def run(self, views):
            stack = np.stack(views)
            logits = np.stack([subpixels((v[..., 1] > 0.43).astype(np.float32) * 20 - 10) for v in stack])
            return np.zeros((len(stack), channels(4)), np.float32), logits

    engine = Dense(to_openvino(build_grader(SETTINGS.grader)), SETTINGS.grader)
    z, y, x = np.ogrid[:30, :60, :60]
    spacing = (1.25, 0.7, 0.7)
    hu = np.full((30, 60, 60), -900, np.int16)
    ball = ((z - 15) * 1.25) ** 2 + ((y - 31) * 0.7) ** 2 + ((x - 29) * 0.7) ** 2 <= 5.0**2
    hu[ball] = 100
    hu[:, 5:8, 5:8] = 100  # a vessel that it must not take in
    found = engine.outline(hu, spacing, (14.6, 30.0, 30.0))
    assert found is not None
    volume = float((found.share >= 0.5).sum()) * 0.7 * 0.7 * 1.25
    # the end slices, smaller than a tenth of the largest, are not the nodule's
    assert volume == pytest.approx(4 / 3 * np.pi * 5.0**3, rel=0.15)
    assert engine.outline(np.full((30, 60, 60), -900, np.int16), spacing, (15.0, 30.0, 30.0)) is None
    assert (
        engine.outline(np.full((30, 60, 60), 100, np.int16), spacing, (15.0, 30.0, 30.0)) is None
    )  # larger than a view


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A data folder with three scans of a known lesion each."""
    rows = []
    for seed, name in enumerate(("Train-1", "Valid-1", "Test-1")):
        (tmp_path / "data" / "scans" / name).mkdir(parents=True)
        write_mhd(make_chest(seed), tmp_path / "data" / "scans" / name / f"{name}.mhd")
        rows.append((name, *NODULES[0].position_xyz_mm, NODULES[0].diameter_mm, "reference"))
    with (tmp_path / "data" / "scans" / "nodules.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("scan", "coordX", "coordY", "coordZ", "diameter_mm", "kind"), *rows])
    return tmp_path / "data"


def test_a_tile_that_was_shifted_is_judged_at_its_nodule(stacks: list[NoduleStack]):
    """At a scan's edge a tile does not have its nodule in its middle; the others are judged from the middle."""
    stack = stacks[0]
    middle = (stack.hu.shape[1] - 1) / 2
    assert cv.given_point(stack) == (middle, middle)
    _, y, x = np.argwhere(stack.agreement >= 0.5).mean(axis=0)
    shifted = dataclasses.replace(stack, readers=np.roll(stack.readers, (20, -24), (1, 2)))
    assert cv.given_point(shifted) == pytest.approx((y + 20, x - 24))


def test_the_joint_threshold_lets_one_false_mark_per_scan_through():
    """Worked by hand: 2 scans with false marks of joint logits 3, 2, 1 and 0; two may be seen, so the third may not."""
    combination = Combination(detector=1.0, grader=2.0, intercept=-1.0, ungraded=0.0)
    scan = make_chest(1).scan
    lungs = np.ones(scan.geometry.shape_zyx, np.uint8)
    lesion = Lesion((10.0, 10.0, 10.0), 8.0)
    volume = KnownVolume("a", scan.hu, lungs, scan.geometry, (lesion,), ("solid",), ("free",))

    def marks(*scores: float) -> Marks:
        centres = np.array([(10, 10, 10), *((40, 40, 10 * i) for i in range(len(scores) - 1))], np.float32)
        return Marks(centres, np.array(scores, np.float32), np.full(len(scores), 6, np.float32))

    # the first of each scan lies in the lesion and is no false mark, however sure
    first = (marks(9, 2, 1), np.array([9.0, 1.0, 1.0]))
    second = (marks(9, 1, -1), np.array([9.0, 0.5, 1.0]))
    found = finish.Scored((volume, volume), (first[0], second[0]), (first[1], second[1]))
    threshold = finish.default_threshold(found.combined(combination), Calibration())
    assert 1 / (1 + math.exp(-1)) < threshold < 1 / (1 + math.exp(-2))


@pytest.fixture
def small_chests(scans: Path, monkeypatch: pytest.MonkeyPatch):
    """Small scans stand in for the synthetic chests, which take minutes to make and to search."""
    monkeypatch.setattr(finish, "phantom_hosts", lambda _, *given: finish.crop_hosts(scans, *given))


@pytest.mark.usefixtures("small_chests")
def test_a_shipped_grader_is_trained_beside_the_detector_and_can_be_fitted_to_another(
    scans: Path, stacks: list[NoduleStack], folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("finish_grader", "train"):
        monkeypatch.setattr(f"noduscope.{module}.usable_stacks", lambda *_: stacks)
    split = dataclasses.replace(SETTINGS.split, validation_scans=("Valid-1",), test_scans=("Test-1",))
    settings = dataclasses.replace(
        SETTINGS, split=split, train_grader=dataclasses.replace(SETTINGS.train_grader, epochs=2)
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ORIGIN).write_text("two trunks side by side\n", encoding="utf-8")
    path = finish.finish_grader(scans, tmp_path / "cache", tmp_path / "run", folds, settings, "0.1")
    bundle = load_bundle(path)
    assert (bundle.name, bundle.version, bundle.settings) == ("grader", "0.1", settings)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["detector"] == load_bundle(find_bundle("detector")).sha256
    told = (
        "## Benign or malignant",
        "They are two trunks side by side.",
        "size only",
        "## False positives of the detector",
        "CPM with grader",
    )
    official = json.loads((tmp_path / "run" / "joint-validation" / "metrics.json").read_text(encoding="utf-8"))
    told += (f"validation CPM {official['cpm']['interpolated']['value']:.3f}",)
    for figure in (*told, "Validation, with the grader", f"Default threshold {bundle.threshold:.3f}"):
        assert figure in bundle.card
    again = load_bundle(finish.join_grader(path, scans, tmp_path / "cache", tmp_path / "joined", "0.2"))
    assert (again.version, again.threshold, again.calibration) == ("0.2", bundle.threshold, bundle.calibration)
    assert again.details == bundle.details  # the same network beside the same detector
    assert again.card == bundle.card.replace("# grader 0.1", "# grader 0.2")
    graded = Grader(bundle).grade(make_chest(1).scan, NODULES[0].position_xyz_mm, explain=False)
    assert 0 <= graded.grade.malignancy.low <= graded.grade.malignancy.high <= 1


@pytest.mark.usefixtures("small_chests")
def test_what_says_nodule_is_trained_further_and_nothing_else_of_a_grader_changes(
    scans: Path, stacks: list[NoduleStack], folds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in ("finish_grader", "train", "refine"):
        monkeypatch.setattr(f"noduscope.{module}.usable_stacks", lambda *_: stacks)
    split = dataclasses.replace(SETTINGS.split, validation_scans=("Valid-1",), test_scans=("Test-1",))
    settings = dataclasses.replace(
        SETTINGS, split=split, train_grader=dataclasses.replace(SETTINGS.train_grader, epochs=1)
    )
    cache = tmp_path / "cache"
    single = dataclasses.replace(settings, grader=dataclasses.replace(settings.grader, members=1))
    for name in ("one", "two"):
        train_grader(labelled_nodules(stacks, single.grader), (), tmp_path / name, single)
    ensemble_graders([tmp_path / "one", tmp_path / "two"], tmp_path / "run")
    both = load_settings(tmp_path / "run" / "settings.toml")
    # fitting to the detector has its own test and takes minutes
    unfitted = finish.Joint({"calibration": Calibration(), "threshold": 0.5}, ["## False positives of the detector"])
    monkeypatch.setattr(finish, "join", lambda *_: unfitted)
    monkeypatch.setattr(
        "noduscope.refine.join_grader",
        lambda bundle, data, cache, out, version: Path(shutil.copytree(bundle, out / f"grader-{version}")),
    )
    made = finish.finish_grader(scans, cache, tmp_path / "run", folds, both, "0.1")
    further = dataclasses.replace(settings, train_grader=dataclasses.replace(settings.train_grader, places=4, seed=5))
    path = refine_grader(made, scans, cache, tmp_path / "out", further, "0.2")
    old, new = load_bundle(made), load_bundle(path)
    assert (path.name, new.settings) == ("grader-0.2", old.settings)
    for kept in ("malignancy", "ratings", "size_error"):
        assert new.details[kept] == old.details[kept]
    weights = {}
    for name, bundle in (("old", old), ("new", new)):
        model = build_grader(bundle.settings.grader)
        model.load_weights(bundle.path / "grader.weights.h5")
        weights[name] = {v.path: v.numpy() for v in model.trainable_variables}
    changed = {name for name, value in weights["old"].items() if not np.array_equal(value, weights["new"][name])}
    assert changed
    assert all(name.startswith("member0") for name in changed)
    # the answers lie in the bundle: Keras's weights and OpenVINO's network are of one model
    views = np.random.default_rng(0).random((3, 32, 32, 4), np.float32)
    said, _ = GraderEngine(new.network, new.settings.grader).run(list(views))
    meant = model.predict(views, verbose=0)["grade"].reshape(3, 2, -1).mean(axis=1)
    assert np.allclose(said, meant, atol=0.02 * np.abs(meant).max())
    assert f"trained further beside {find_bundle('detector').name}: 1 epoch with 4 views" in new.card
    assert "Malignancy on the validation part" in new.card
    assert new.card.count("## False positives of the detector") == 1
    with pytest.raises(SettingsError, match="began with another grader"):
        refine_grader(path, scans, cache, tmp_path / "out", further, "0.3")


def test_a_detector_cannot_be_refined(tmp_path: Path):
    with pytest.raises(InputRefused, match=r"is no grader with its grader\.weights\.h5"):
        refine_grader(find_bundle("detector"), tmp_path, tmp_path, tmp_path, SETTINGS, "0.1")


def test_only_a_grader_can_be_joined(tmp_path: Path):
    with pytest.raises(InputRefused, match="is a detector, not a grader"):
        finish.join_grader(find_bundle("detector"), tmp_path, tmp_path, tmp_path, "0.1")


def test_a_card_without_the_section_that_is_replaced_is_refused(grader_bundle: Path, tmp_path: Path):
    with pytest.raises(InputRefused, match="its card has no section"):
        finish.join_grader(grader_bundle, tmp_path, tmp_path, tmp_path, "0.1")


def test_an_unfinished_cross_validation_is_no_ground_for_a_bundle(tmp_path: Path):
    with pytest.raises(InputRefused, match="no finished cross-validation"):
        finish.finish_grader(tmp_path, tmp_path, tmp_path / "run", tmp_path, SETTINGS, "0.1")


@pytest.fixture
def cubes(tmp_path: Path) -> Path:
    """A small file of NoduleMNIST3D's layout; malignant ones are larger."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    z, y, x = np.ogrid[:28, :28, :28]
    r = np.sqrt((z - 13.5) ** 2 + (y - 13.5) ** 2 + (x - 13.5) ** 2)
    for part, n in (("train", 12), ("val", 8), ("test", 10)):
        labels = np.arange(n) % 2
        images = np.stack([np.where(r < (9 if v else 4), 190, 30) + rng.integers(0, 9, r.shape) for v in labels])
        arrays |= {f"{part}_images": images.astype(np.uint8), f"{part}_labels": labels[:, None].astype(np.uint8)}
    np.savez(tmp_path / "nodulemnist3d.npz", **arrays)
    return tmp_path / "nodulemnist3d.npz"


def test_nodulemnist_by_its_official_split(cubes: Path, tmp_path: Path):
    made = crossval_cubes(cubes, tmp_path / "out", SETTINGS)
    assert made["n"] == 10
    assert made["published"]["ResNet-50 + 3D"]["auc"] == 0.875
    assert (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_another_archive_is_refused(tmp_path: Path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputRefused, match="not nodulemnist3d"):
        read_nodulemnist(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputRefused, match="not nodulemnist3d"):
        read_nodulemnist(tmp_path / "text.npz")


@pytest.fixture(scope="module")
def grader_bundle(tmp_path_factory: pytest.TempPathFactory, blob_bundle: Path) -> Path:
    """An untrained grader beside the detector of blobs."""
    network = to_openvino(stirred(build_grader(SETTINGS.grader)))

    def fill(folder: Path) -> None:
        ov.save_model(network, folder / "model.xml", compress_to_fp16=False)
        (folder / "card.md").write_text("# grader\n", encoding="utf-8")

    content = {
        "settings": SETTINGS,
        "calibration": Calibration(),
        "threshold": 0.4,
        "malignancy": {"slope": 1.0, "size": 1.0, "intercept": -3.0},
        "size_error": {k: {"shift": 0.0, "base": 0.2, "per_mm": 0.5} for k in ("diameter", "volume")},
        "combination": {"detector": 1.0, "grader": 0.0, "intercept": 0.0, "ungraded": -3.0},
        "detector": load_bundle(blob_bundle).sha256,
    }
    path = tmp_path_factory.mktemp("graders") / "grader-9.9"
    write_bundle(path, ("grader", "9.9"), content, fill)
    return path


def test_detect_grades_what_it_finds(
    chest: Phantom, blob_bundle: Path, grader_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    alone = predict(chest.scan, load_models(str(blob_bundle)))
    assert all(n.grade is None for n in alone.nodules)
    monkeypatch.setenv("NODUSCOPE_MODELS", str(grader_bundle.parent))
    models = load_models(str(blob_bundle))
    assert models.threshold == 0.4
    result = predict(chest.scan, models)
    assert [m.name for m in result.models] == ["blobs", "grader"]
    assert "grade" in result.timing_s
    assert result.nodules
    for nodule in result.nodules:
        assert nodule.grade is not None
        assert 0 < nodule.grade.malignancy.low <= nodule.grade.malignancy.value <= nodule.grade.malignancy.high < 1
        assert set(nodule.grade.attributes) == set(ATTRIBUTES)
        assert nodule.diameter_mm is not None
    written = result.to_dict()["nodules"][0]
    assert set(written["malignancy"]) == {"probability", "low", "high"}
    found = [c.probability for c in result.candidates]
    assert found == sorted(found, reverse=True)


def test_a_grader_of_another_detector_stays_silent(
    grader_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("NODUSCOPE_MODELS", str(grader_bundle.parent))
    other = write_blob_bundle(tmp_path / "blobs-0.2", "0.2", gain=50.0)
    assert load_models(str(other)).grader is None


def test_an_explanation_changes_with_the_weights(grader_bundle: Path):
    """A map that stays the same when the network is another one explains the picture, not the network."""
    grader = Grader(load_bundle(grader_bundle))
    plane = np.random.default_rng(0).uniform(-900, 100, (32, 32)).astype(np.float32)
    planes = np.repeat(plane[None], 3, axis=0)
    first = grader.explain(planes)
    assert first.map.shape == first.image.shape == (32, 32)
    assert np.ptp(first.map) > 0
    other = stirred(build_grader(dataclasses.replace(SETTINGS.grader)))
    other.set_weights([w[::-1].copy() for w in other.get_weights()])
    grader.engine = GraderEngine(to_openvino(other), SETTINGS.grader)
    second = grader.explain(planes)
    assert np.corrcoef(first.map.ravel(), second.map.ravel())[0, 1] < 0.9
