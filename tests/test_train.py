"""Training, end to end on a few small scans: seeds, a kill and a resume, the best weights, the bundle."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")

from helpers_chest import NODULES, make_chest  # noqa: E402
from helpers_stacks import Ball, write_stacks  # noqa: E402
from noduscope import train as train_module  # noqa: E402
from noduscope.boxes import STRIDE, TARGET_CHANNELS, Lesion, Marks  # noqa: E402
from noduscope.data.batches import SHARES, CropMaker, DetectorBatches, _shares, stack_sample  # noqa: E402
from noduscope.data.crops import read_stacks  # noqa: E402
from noduscope.data.folds import patient_fold  # noqa: E402
from noduscope.data.hosts import load_hosts  # noqa: E402
from noduscope.data.implant import draw_weights  # noqa: E402
from noduscope.data.known import lesions_beside, read_lesions  # noqa: E402
from noduscope.data.validation import KnownVolume, Matched, match  # noqa: E402
from noduscope.errors import InputRefused, SettingsError  # noqa: E402
from noduscope.evaluate.froc import FrocSettings  # noqa: E402
from noduscope.finish import (  # noqa: E402
    NODULES_PER_SCAN,
    calibrate,
    calibration_gap,
    default_threshold,
    finish_detector,
    platt_scaling,
    threshold_line,
)
from noduscope.model.bundle import Calibration, load_bundle  # noqa: E402
from noduscope.phantom import write_mhd  # noqa: E402
from noduscope.predict import load_models, predict  # noqa: E402
from noduscope.scan import Geometry  # noqa: E402
from noduscope.settings import (  # noqa: E402
    DetectorSettings,
    PreprocessSettings,
    Settings,
    SplitSettings,
    TrainSettings,
    load_settings,
    settings_to_toml,
)
from noduscope.train import detector_data, read_history, train_detector  # noqa: E402

SCANS = {"Train-1": 0, "Valid-1": 1, "Test-1": 2}
SETTINGS = Settings(
    preprocess=PreprocessSettings(spacing_mm=2.0),
    detector=DetectorSettings(stem_filters=4, filters=(6, 8), blocks=(1, 1), dropout=0.0),
    split=SplitSettings(validation_scans=("Valid-1",), test_scans=("Test-1",)),
    train_detector=TrainSettings(steps=4, batch_size=2, crop_voxels=32, validate_every=2, ema_momentum=0.5),
)
OPAQUE = dataclasses.replace(SETTINGS, train_detector=dataclasses.replace(SETTINGS.train_detector, opacities=1))


def patients(fold: int, count: int) -> list[str]:
    """The first made-up patients whose hash falls into a part of the split."""
    names = (f"Patient-{i}" for i in range(1000))
    return [n for n in names if patient_fold(n, SETTINGS.split.folds) == fold][:count]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scans, each with one known lesion, and stacks of patients of each side."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for name, seed in SCANS.items():
        (folder / "scans" / name).mkdir(parents=True)
        write_mhd(make_chest(seed), folder / "scans" / name / f"{name}.mhd")
        rows.append((name, *NODULES[0].position_xyz_mm, NODULES[0].diameter_mm, "reference"))
        rows.append((name, *NODULES[1].position_xyz_mm, NODULES[1].diameter_mm, "other"))
    with (folder / "scans" / "nodules.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("scan", "coordX", "coordY", "coordZ", "diameter_mm", "kind"), *rows])
    split = SETTINGS.split
    balls = [Ball(p, d) for p, d in zip(patients(5, 3), (8.0, 12.0, 16.0), strict=True)]
    balls += [Ball(patients(split.validation_fold, 1)[0], 10.0), Ball(patients(split.test_fold, 1)[0], 10.0)]
    balls += [Ball("Valid-1"), Ball(patients(5, 4)[3], link_iou=0.3)]
    write_stacks(folder / "lidc_nodules", balls)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def both_sides(data: Path, cache: Path) -> train_module.DetectorData:
    return detector_data(data, cache, SETTINGS)


def test_the_split_keeps_patients_apart_and_leaves_doubtful_stacks_out(both_sides):
    assert [h.name for h in both_sides.train.hosts] == ["Train-1"]
    assert [p.patient_id for p in both_sides.train.patches] == patients(5, 3)
    assert {v.name.partition("+")[0] for v in both_sides.validation} == {"Valid-1"}
    implanted = [v for v in both_sides.validation if "+" in v.name]
    assert len(implanted) == 4
    assert all(len(v.lesions) > 2 for v in implanted)


def test_a_host_is_prepared_once_and_its_lesions_lie_in_it(data: Path, cache: Path, both_sides, monkeypatch):
    def no_reading(path: Path, **_) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("noduscope.data.cache.read_scan", no_reading)
    (host,) = load_hosts(data / "scans", ["Train-1"], cache, SETTINGS)
    reference, other = host.lesions
    assert (reference.counts, other.counts) == (True, False)
    for lesion in host.lesions:
        z, y, x = np.rint(lesion.centre_zyx).astype(int)
        assert host.hu[z, y, x] > -100
        assert host.lungs[z, y, x] > 0


def test_luna16s_excluded_findings_count_neither_way_where_the_table_names_the_series(tmp_path: Path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "luna16").mkdir()
    table = "scan,seriesuid,coordX,coordY,coordZ,diameter_mm,kind\nA,1.2.3,1,2,3,8,reference\nB,,4,5,6,9,reference\n"
    (tmp_path / "scans" / "nodules.csv").write_text(table, encoding="utf-8")
    assert [len(v) for v in lesions_beside(tmp_path / "scans").values() if v[0].counts] == [1, 1]
    rows = "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,7,8,9,-1\n1.2.3,1,2,3,7.5\n1.2.4,0,0,0,-1\n"
    (tmp_path / "luna16" / "annotations_excluded.csv").write_text(rows, encoding="utf-8")
    known = lesions_beside(tmp_path / "scans")
    # -1 is LUNA16's "no size", for which its script takes 10 mm
    assert [(k.position_xyz_mm, k.diameter_mm, k.counts) for k in known["A"]] == [
        ((1, 2, 3), 8.0, True),
        ((7, 8, 9), 10.0, False),
        ((1, 2, 3), 7.5, False),
    ]
    assert [k.counts for k in known["B"]] == [True]


def test_other_preparation_is_another_cache_entry(data: Path, cache: Path, both_sides):
    finer = dataclasses.replace(SETTINGS, preprocess=PreprocessSettings(spacing_mm=3.0))
    (host,) = load_hosts(data / "scans", ["Train-1"], cache, finer)
    assert host.geometry.spacing_xyz_mm == pytest.approx((3.0, 3.0, 3.0), rel=0.03)


def test_a_batch_is_a_function_of_seed_epoch_and_number(both_sides):
    def batch(seed: int, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        batches = DetectorBatches(CropMaker(both_sides.train, SETTINGS), 4, 2, seed)
        batches.epoch = epoch
        return batches[index]

    first = batch(0, 1, 2)
    assert first[0].shape == (2, 32, 32, 32, 1)
    assert first[1].shape == (2, 8, 8, 8, TARGET_CHANNELS)
    assert 0 <= first[0].min() <= first[0].max() <= 1
    assert all(np.array_equal(a, b) for a, b in zip(first, batch(0, 1, 2), strict=True))
    for other in (batch(1, 1, 2), batch(0, 2, 2), batch(0, 1, 3)):
        assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("kind", ["host", "implant", "phantom", "slab", "stack"])
def test_lesions_of_a_crop_lie_on_tissue_and_unknown_slices_carry_no_weight(both_sides, kind: str):
    # the scans stand in for synthetic chests
    source = dataclasses.replace(both_sides.train, phantoms=both_sides.train.hosts)
    maker = CropMaker(source, SETTINGS)
    seen = 0
    for seed in range(12):
        sample = getattr(maker, f"_{kind}")(np.random.default_rng(seed))
        assert sample.crop.shape == (32, 32, 32)
        low, high = sample.known_z
        weight = maker._weight(sample.known_z)
        assert weight.max() == 1.0
        assert not weight[: low // STRIDE].any()
        assert not weight[-(-high // STRIDE) :].any()
        for lesion in sample.lesions:
            place = np.rint(lesion.centre_zyx).astype(int)
            if low <= place[0] < high and place.min() >= 1 and place.max() <= 30:
                box = tuple(slice(p - 1, p + 2) for p in place)
                # an implant may have been faded to ground-glass: denser than the lung all the same
                assert sample.crop[box].max() > (-700 if kind in ("implant", "slab") else -300)
                seen += 1
    assert seen > 3


def test_the_mixture_holds_what_there_is_a_source_for(both_sides):
    train = both_sides.train
    assert _shares(dataclasses.replace(train, phantoms=train.hosts)) == pytest.approx(SHARES)
    without = _shares(train)
    assert set(without) == {"implant", "host", "stack", "slab"}
    assert sum(without.values()) == pytest.approx(1.0)
    assert without["host"] / without["stack"] == pytest.approx(SHARES["host"] / SHARES["stack"])
    assert _shares(dataclasses.replace(train, patches=(), stacks=())) == {"host": 1.0}


def test_subsolid_nodules_come_three_times_as_often_and_large_ones_more_than_small():
    solid, glass, large = draw_weights([9.0, 9.0, 25.0], ["solid", "ground-glass", "solid"])
    assert glass == pytest.approx(3 * solid)
    assert large == pytest.approx(solid * 5 / 3)  # by the root of the diameter


def test_a_stack_s_lesion_is_as_large_as_the_stack_says(data: Path):
    stack = next(s for s in read_stacks(data / "lidc_nodules") if s.diameter_mm == 16.0)
    for seed in range(6):
        sample = stack_sample(np.random.default_rng(seed), stack, 48, 1.0)
        (lesion,) = sample.lesions
        low, high = sample.known_z
        true = np.count_nonzero(sample.crop[low:high] > -400)
        assert (6 * true / np.pi) ** (1 / 3) == pytest.approx(lesion.diameter_mm, rel=0.12)


class Killed(BaseException):
    """What a kill is to the program: nothing it could handle."""


@pytest.fixture(scope="module")
def straight(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    train_detector(data, out, cache, SETTINGS)
    return out


@pytest.fixture(scope="module")
def resumed(data: Path, cache: Path, straight: Path) -> Iterator[Path]:
    """A run killed in its second epoch and started again."""
    out = straight.parent / "resumed"

    class Kill(train_module._Progress):
        def on_train_batch_end(self, batch, logs=None):
            if self.batches.epoch == 1:
                raise Killed
            super().on_train_batch_end(batch, logs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "_Progress", Kill)
        with pytest.raises(Killed):
            train_detector(data, out, cache, SETTINGS)
    assert [r["epoch"] for r in read_history(out)] == ["0"]
    train_detector(data, out, cache, SETTINGS)
    return out


@pytest.mark.slow
def test_a_run_leaves_its_history_curves_settings_and_best_weights(straight: Path):
    rows = read_history(straight)
    assert [r["epoch"] for r in rows] == ["0", "1"]
    assert all(np.isfinite(float(r["loss"])) and 0 <= float(r["cpm"]) <= 1 for r in rows)
    assert (straight / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (straight / "best.weights.h5").stat().st_size > 1000
    assert load_settings(straight / "settings.toml") == SETTINGS
    assert not list(straight.glob("*.tmp"))


@pytest.mark.slow
def test_a_resumed_run_ends_as_if_it_had_never_been_killed(straight: Path, resumed: Path):
    a, b = read_history(straight), read_history(resumed)
    assert [r["epoch"] for r in b] == ["0", "1"]
    # the order of sums over threads may differ in the last digits
    for one, other in zip(a, b, strict=True):
        assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-3)


@pytest.mark.slow
def test_another_setting_does_not_go_on_with_the_same_run(data: Path, cache: Path, straight: Path):
    other = dataclasses.replace(SETTINGS, detector=DetectorSettings(dropout=0.5))
    held = (straight / "settings.toml").read_bytes()
    with pytest.raises(SettingsError, match="holds a run with other settings"):
        train_detector(data, straight, cache, other)
    assert (straight / "settings.toml").read_bytes() == held


def test_training_scans_are_there_a_second_time_with_opacities(data: Path, tmp_path: Path, monkeypatch):
    # lungs of 5 cm are too small for patches that could not be taken for a nodule
    monkeypatch.setattr("noduscope.data.opacities._LEAST_MM3", 1000.0)
    monkeypatch.setattr("noduscope.data.opacities._LEAST_WIDTH_MM", 6.0)
    plain, opaque = detector_data(data, tmp_path, OPAQUE).train.hosts
    assert (plain.name, opaque.name) == ("Train-1", "Train-1+opacities")
    assert opaque.lesions == plain.lesions
    assert (opaque.hu > plain.hu).any()


@pytest.mark.slow
def test_a_finished_run_is_a_bundle_that_predicts(
    data: Path, cache: Path, straight: Path, chest, monkeypatch, tmp_path: Path
):
    monkeypatch.setattr("noduscope.finish.FrocSettings", lambda: FrocSettings(replicates=20))
    for name in ("history.csv", "best.weights.h5"):
        shutil.copyfile(straight / name, tmp_path / name)
    (tmp_path / "settings.toml").write_text(settings_to_toml(OPAQUE), encoding="utf-8")
    path = finish_detector(tmp_path, data, cache, "0.1")
    bundle = load_bundle(path)
    assert (bundle.name, bundle.version) == ("detector", "0.1")
    assert bundle.settings == OPAQUE
    told = re.search(r"Default threshold (\S+), from which .*: (\S+) on the (\d+) volumes of validation, (\S+) on the "
                     r"(\d+) volumes of validation with synthetic opacities\.", bundle.card)  # fmt: skip
    assert told, bundle.card
    threshold, plain, volumes, opaque, copies = map(float, told.groups())
    assert threshold == round(bundle.threshold, 3)
    assert volumes == copies
    assert plain + opaque <= 2.0
    assert 0 <= bundle.threshold <= 1
    assert {p.name for p in path.iterdir()} == {
        "manifest.json",
        "model.xml",
        "model.bin",
        "detector.weights.h5",
        "card.md",
    }
    for figure in ("## Validation", "## Validation with synthetic opacities", "## Test", "CPM", "Valid-1", "Test-1"):
        assert figure in bundle.card
    result = predict(chest.scan, load_models(str(path)))
    assert result.models == (bundle.used,)
    assert all(0 <= c.probability <= 1 for c in result.candidates)


def test_marks_that_are_told_apart_without_error_are_not_called_certain():
    """Platt's targets: as much short of 0 and 1 as one more case of either kind could teach."""
    logits, labels = np.array([-3.0, -2.0, -1.5, 2.0, 3.0])[:, None], np.array([False, False, False, True, True])
    weights = np.array([2.0, 2.0, 2.0, 1.0, 1.0])
    slope, intercept = platt_scaling(logits, labels, weights)
    p = 1 / (1 + np.exp(-(slope * logits[:, 0] + intercept)))
    assert np.all(np.diff(p) > 0)
    assert 0.02 < p.min() < 0.5 < p[3] < p.max() < 0.98
    # a logistic regression's mean is its targets' mean: (2 + 1) / (2 + 2) for nodules, 1 / (6 + 2) for others
    assert weights @ p == pytest.approx(2 * 3 / 4 + 6 / 8, rel=1e-3)


def test_a_run_without_weights_cannot_be_finished(tmp_path: Path):
    with pytest.raises(InputRefused, match="train first"):
        finish_detector(tmp_path, tmp_path, tmp_path, "0.1")


@pytest.mark.parametrize(
    ("missing", "named"),
    [("scans", "scans"), ("validation", "validation"), ("stacks", r"nodules\.csv")],
)
def test_data_that_cannot_train_are_refused_by_name(data: Path, cache: Path, tmp_path: Path, missing, named):
    for part in ("scans", "lidc_nodules"):
        if (missing, part) not in {("scans", "scans"), ("stacks", "lidc_nodules")}:
            (tmp_path / part).symlink_to(data / part)
    split = SplitSettings(validation_scans=("Nobody",), test_scans=("Valid-1", "Test-1"))
    settings = dataclasses.replace(SETTINGS, split=split) if missing == "validation" else SETTINGS
    with pytest.raises(InputRefused, match=named):
        detector_data(tmp_path, cache, settings)


def test_a_train_folder_without_data_is_status_3(noduscope, tmp_path: Path):
    (tmp_path / "data").mkdir()
    status, _, error = noduscope(
        "train", "detector", "--data", tmp_path / "data", "-o", tmp_path / "run", "--cache", tmp_path / "cache"
    )
    assert status == 3
    assert "scans" in error


def volumes_and_marks() -> tuple[list[KnownVolume], list[Marks]]:
    """Four volumes with one lesion each: three hits, and false marks below and, once, above them."""
    hu = np.zeros((32, 32, 32), np.int16)
    volumes = [
        KnownVolume(
            f"v{i}", hu, hu.astype(np.uint8), Geometry(hu.shape), (Lesion((10, 10, 10), 8.0),), ("solid",), ("free",)
        )
        for i in range(4)
    ]
    scores = [(3.0, -1.0), (2.5, -1.5), (2.0, 2.2), (-9.0, -2.0)]
    marks = []
    for hit, false in scores:
        places = [(10, 10, 10), (25, 25, 25)] if hit > -5 else [(28, 4, 4), (25, 25, 25)]
        marks.append(Marks(np.array(places, np.float32), np.array([hit, false], np.float32), np.full(2, 8, np.float32)))
    return volumes, marks


def test_calibration_rises_with_the_logit_and_parts_hits_from_false_marks():
    calibration = calibrate(*volumes_and_marks())
    assert calibration.slope > 0
    assert calibration.probability(3.0) > 0.5 > calibration.probability(-2.0)
    assert round(NODULES_PER_SCAN, 3) == 1.336  # 1186 nodules in 888 scans


def test_without_hits_or_false_marks_nothing_is_fitted():
    volumes, _ = volumes_and_marks()
    none = Marks(np.zeros((0, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32))
    assert calibrate(volumes, [none] * 4) == Calibration()


def test_the_calibration_gap_is_that_of_marks_weighted_to_luna16_s_mean():
    matched = match(*volumes_and_marks())
    # logits of the hits 3, 2.5, 2; of the false marks 2.2, -1, -1.5, -2, -9; no weights at four in four scans
    logits, labels = np.array([3, 2.5, 2, 2.2, -1, -1.5, -2, -9]), np.arange(8) < 3
    p = 1 / (1 + np.exp(-logits))
    bins = np.floor(p * 10)
    expected = sum(abs((p - labels)[bins == b].sum()) for b in np.unique(bins)) / 8
    assert calibration_gap(matched, Calibration()) == pytest.approx(expected)


def test_the_default_threshold_leaves_one_false_positive_per_scan():
    volumes, marks = volumes_and_marks()
    threshold = default_threshold(match(volumes, marks), Calibration())
    # false marks: 2.2, -1, -1.5, -2 and the -9 far from any lesion; four scans, so the fifth is too many
    above = [s for s in (2.2, -1.0, -1.5, -2.0, -9.0) if Calibration().probability(s) >= threshold]
    assert len(above) == 4
    assert threshold <= 1.0


def side(*false: float, scans: int) -> Matched:
    return Matched(np.array([9.0]), np.array(false), scans)


def test_the_threshold_is_said_with_what_it_leaves_on_each_side():
    p = Calibration().probability
    plain, opaque = side(1.0, 0.0, -2.0, scans=2), side(4.0, 3.0, 2.0, 1.0, -1.0, scans=2)
    # two scans, so two false positives may be seen
    threshold = default_threshold(plain, Calibration())
    assert p(-2.0) < threshold < p(0.0)
    line = threshold_line(
        threshold, {"validation": plain, "validation with synthetic opacities": opaque}, Calibration()
    )
    assert "1 false positive per scan at most on validation" in line
    assert "1.00 on the 2 volumes of validation, 2.50 on the 2 volumes of validation with synthetic" in line


def test_without_false_positives_the_threshold_is_the_lowest_logit_kept():
    assert default_threshold(side(scans=2), Calibration()) == pytest.approx(Calibration().probability(-4.0), abs=2e-4)


@pytest.mark.slow
def test_no_real_patient_is_on_two_sides_of_the_split_that_training_makes(shared_data: Path, tmp_path, monkeypatch):
    """The real tables through the real rule; only pixels are left out."""
    monkeypatch.setattr(train_module, "load_hosts", lambda scans, names, cache, settings: [_Named(n) for n in names])
    monkeypatch.setattr(train_module, "_patches", lambda stacks, spacing: list(stacks))
    monkeypatch.setattr(train_module, "implanted_volumes", lambda host, stacks, *_, seed: [_Named(host.name, stacks)])
    settings = Settings()
    train = detector_data(shared_data, tmp_path, settings).train
    sides = {"train": {s.patient_id for s in train.stacks} | {h.name for h in train.hosts}}
    for side in ("validation", "test"):
        volumes = train_module.implants_of(shared_data, tmp_path, settings, side)
        sides[side] = {v.name for v in volumes} | {s.patient_id for v in volumes for s in v.stacks}
    assert not sides["train"] & sides["validation"]
    assert not sides["train"] & sides["test"]
    assert not sides["validation"] & sides["test"]
    assert {"LIDC-IDRI-0001", "LIDC-IDRI-0314"} <= sides["test"]
    assert min(map(len, sides.values())) > 30


@dataclasses.dataclass
class _Named:
    """A scan of which only the name matters."""

    name: str
    stacks: list = dataclasses.field(default_factory=list)
    lesions: tuple = (Lesion((0.0, 0.0, 0.0), 5.0),)


def test_lesions_without_a_table_are_refused(tmp_path: Path):
    with pytest.raises(InputRefused, match=r"no nodules\.csv"):
        read_lesions(tmp_path / "nodules.csv")
