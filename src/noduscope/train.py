"""Training a detector: data, fit with callbacks, and what is kept of it.

A run folder holds ``settings.toml``, ``history.csv``, ``curves.png``, ``best.weights.h5`` and a
``resume/`` folder; starting again on the same folder goes on from the last checkpoint.
"""

from __future__ import annotations

import csv
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# oneDNN is off by default where the CPU lacks AVX-512; for 3D convolutions it is three times as fast on AVX2
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from noduscope.data.batches import CropMaker, CropSource, DetectorBatches
from noduscope.data.cached import cached_hosts, is_cache, read_scans, split_fold
from noduscope.data.crops import CONSENSUS, NodulePatch, NoduleStack, isotropic_patch, read_stacks
from noduscope.data.folds import patient_fold, require_disjoint
from noduscope.data.hosts import HostScan, load_hosts
from noduscope.data.synthetic import opacified_hosts, phantom_hosts
from noduscope.data.validation import KnownVolume, Matched, implanted_volumes, match, plain_volumes
from noduscope.errors import InputRefused, SettingsError
from noduscope.files import replace_text
from noduscope.model.detector import build_detector, detector_loss
from noduscope.model.devices import choose_precision, use_all_devices
from noduscope.model.engine import Engine, find_marks
from noduscope.model.ir import to_openvino
from noduscope.model.weights import keep_weights
from noduscope.settings import Settings, load_settings, settings_to_toml

log = logging.getLogger(__name__)

OnValidation = Callable[[int, float], None]
"""Called after each validation with its number, from 0, and its CPM; what it raises ends the training."""

_LEAST_LINK = 0.7  # below this, image and ratings may not belong together
_LOG_EVERY = 50
_PACE = ("seconds_per_step", "crop_seconds_per_step")
_COPIES, _IMPLANTS_PER_COPY = 4, 14


@dataclass(frozen=True, slots=True, eq=False)
class DetectorData:
    """Both sides of a patient-level split."""

    train: CropSource
    validation: tuple[KnownVolume, ...]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run gave."""

    weights: Path
    best_cpm: float
    steps: int


def training_hosts(data: Path, cache: Path, settings: Settings) -> list[HostScan]:
    """The scans that are for training: all that the split does not name, of a cache those of its fold.

    Raises
    ------
    InputRefused
        When there is none.
    """
    if is_cache(data):
        return cached_hosts(data, split_fold(read_scans(data), settings.split).train, settings)
    scans, split = data / "scans", settings.split
    if not scans.is_dir():
        raise InputRefused(f"{data} holds no scans/ folder")
    held_out = {*split.validation_scans, *split.test_scans}
    names = sorted(p.name for p in scans.iterdir() if p.is_dir() and p.name not in {"lungs", *held_out})
    if not names:
        raise InputRefused(f"{scans} holds no scan for training")
    return load_hosts(scans, names, cache, settings)


def crop_hosts(data: Path, cache: Path, settings: Settings) -> list[HostScan]:
    """The scans that crops are cut from: those for training, and copies of some of them with opacities."""
    hosts = training_hosts(data, cache, settings)
    return hosts + opacified_hosts(hosts, settings.train_detector.opacities, cache, settings)


def detector_data(data: Path, cache: Path, settings: Settings) -> DetectorData:
    """Read stacks and scans and split them by patient.

    Parameters
    ----------
    data : folder with ``scans/`` (see `data.hosts`) and ``lidc_nodules/`` (see `data.crops`), or a LUNA16 cache
        (then see `fold_data`).

    Raises
    ------
    InputRefused
        When either side has nothing to learn or to be scored on.
    """
    if is_cache(data):
        return fold_data(data, settings, cache)
    split = settings.split
    hosts = crop_hosts(data, cache, settings)
    stacks = usable_stacks(data, settings)
    fold = {s.patient_id: patient_fold(s.patient_id, split.folds) for s in stacks}
    held_out = {p for p, f in fold.items() if f in (split.validation_fold, split.test_fold)}
    held_out |= {*split.validation_scans, *split.test_scans}
    for_training = [s for s in stacks if s.patient_id not in held_out]
    require_disjoint((s.patient_id for s in for_training), held_out, "nodules")
    require_disjoint((h.name for h in hosts), held_out, "scans")
    patches = _patches(for_training, settings.preprocess.spacing_mm)
    if not patches:
        raise InputRefused(f"{data / 'lidc_nodules'} holds no nodule for training")
    validation = implants_of(data, cache, settings, "validation")
    # without an answer to score against no epoch would ever be the best
    if not any(k.counts for v in validation for k in v.lesions):
        names = ", ".join(split.validation_scans)
        raise InputRefused(f"{data / 'scans'} holds no validation scan with a known nodule; expected: {names}")
    phantoms = phantom_hosts(settings.train_detector.phantoms, cache, settings)
    source = CropSource(hosts, patches, for_training, load_hard_negatives(cache, hosts), phantoms)
    return DetectorData(source, validation)


def fold_data(data: Path, settings: Settings, cache: Path | None = None) -> DetectorData:
    """One fold of LUNA16: training and validation scans that `prepare_tree` has prepared in `data`.

    Which fold, `SplitSettings.test_fold` says; its scans are not opened. Scans without nodules are in.

    Parameters
    ----------
    cache : where a list of hard negatives may lie.

    Raises
    ------
    InputRefused
        When either side has no nodule.
    """
    hosts = crop_hosts(data, data, settings)
    validation = side_volumes(data, data, settings, "validation")
    for side, scans in (("training", hosts), ("validation", validation)):
        if not any(k.counts for s in scans for k in s.lesions):
            raise InputRefused(f"{data}: the {len(scans)} scans for {side} hold no nodule; prepare more subsets")
    return DetectorData(CropSource(hosts, (), (), load_hard_negatives(cache, hosts) if cache else ()), validation)


def side_volumes(data: Path, cache: Path, settings: Settings, side: str) -> tuple[KnownVolume, ...]:
    """Whole volumes of one side, ``validation`` or ``test``: of a LUNA16 cache its scans, else see `implants_of`."""
    if not is_cache(data):
        return implants_of(data, cache, settings, side)
    split = split_fold(read_scans(data), settings.split)
    hosts = cached_hosts(data, split.validation if side == "validation" else split.test, settings)
    return plain_volumes(hosts)


def usable_stacks(data: Path, settings: Settings) -> list[NoduleStack]:
    """The nodule stacks of patients whose scan is not held out, without doubtful or empty ones."""
    held_out = {*settings.split.validation_scans, *settings.split.test_scans}
    return [
        s
        for s in read_stacks(data / "lidc_nodules")
        if s.patient_id not in held_out and s.link_iou >= _LEAST_LINK and (s.agreement >= CONSENSUS).any()
    ]


def implants_of(data: Path, cache: Path, settings: Settings, side: str) -> tuple[KnownVolume, ...]:
    """Whole volumes of one side of the split: its scans, and its patients' nodules set into copies of them.

    Parameters
    ----------
    side : ``validation`` or ``test``.
    """
    split = settings.split
    names, fold = {
        "validation": (split.validation_scans, split.validation_fold),
        "test": (split.test_scans, split.test_fold),
    }[side]
    here = [n for n in names if (data / "scans" / n).is_dir()]
    stacks = [s for s in usable_stacks(data, settings) if patient_fold(s.patient_id, split.folds) == fold]
    patches = _patches(stacks, settings.preprocess.spacing_mm)
    hosts = load_hosts(data / "scans", here, cache, settings)
    return tuple(
        v for i, h in enumerate(hosts) for v in implanted_volumes(h, patches, _COPIES, _IMPLANTS_PER_COPY, seed=i)
    )


def _patches(stacks: Sequence[NoduleStack], spacing_mm: float) -> list[NodulePatch]:
    made = (isotropic_patch(s, spacing_mm) for s in stacks)
    return [p for p in made if p is not None]


def load_hard_negatives(cache: Path, hosts: Sequence[HostScan]) -> list[tuple[int, tuple[float, float, float]]]:
    """Places of ``hard_negatives.csv`` (``scan,z,y,x`` in voxels of the prepared scan), if it is there."""
    file = cache / "hard_negatives.csv"
    if not file.exists():
        return []
    index = {h.name: i for i, h in enumerate(hosts)}
    with file.open(newline="", encoding="utf-8") as rows:
        return [
            (index[r["scan"]], (float(r["z"]), float(r["y"]), float(r["x"])))
            for r in csv.DictReader(rows)
            if r["scan"] in index
        ]


class ScanValidation(keras.callbacks.Callback):  # type: ignore[misc]
    """After each epoch: CPM over whole validation volumes; keeps the best weights, writes the history."""

    def __init__(
        self, volumes: Sequence[KnownVolume], out: Path, settings: Settings, tell: OnValidation | None = None
    ) -> None:
        super().__init__()
        self.volumes, self.out, self.settings, self.tell = volumes, out, settings, tell
        self.best = max((float(r["cpm"]) for r in read_history(out)), default=-1.0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score the averaged weights, which `SwapEMAWeights` has put in place."""
        engine = Engine(to_openvino(self.model))
        options = self.settings.preprocess, self.settings.detect
        marks = [find_marks(engine, v.hu, v.lungs, *options) for v in self.volumes]
        matched = match(self.volumes, marks)
        logs = {} if logs is None else logs
        logs["val_cpm"] = matched.cpm
        row = {"epoch": epoch, "loss": logs.get("loss", float("nan")), **_scores(matched)}
        row |= {key: round(logs[key], 4) for key in _PACE if key in logs}
        _append_history(self.out, row)
        if matched.cpm > self.best:
            self.best = matched.cpm
            keep_weights(self.model, self.out / "best.weights.h5")
        log.info("epoch %d: loss %.4f, validation CPM %.4f (best %.4f)", epoch, row["loss"], matched.cpm, self.best)
        plot_history(self.out)
        if self.tell is not None:
            self.tell(epoch, matched.cpm)


def _scores(matched: Matched) -> dict[str, float]:
    return {
        "cpm": matched.cpm,
        "sensitivity_at_1": matched.sensitivity(1.0),
        "sensitivity_at_4": matched.sensitivity(4.0),
    }


def _append_history(out: Path, row: dict[str, Any]) -> None:
    rows = [r for r in read_history(out) if int(r["epoch"]) < int(row["epoch"])] + [row]
    temporary = out / "history.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(rows)
    temporary.rename(out / "history.csv")


def read_history(out: Path) -> list[dict[str, str]]:
    """Rows of a run's ``history.csv``, empty when there is none yet."""
    file = out / "history.csv"
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def plot_history(out: Path) -> None:
    """``curves.png``: loss and validation scores over the epochs."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (only training draws; keep it off the import path)

    rows = read_history(out)
    epoch = [int(r["epoch"]) for r in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(epoch, [float(r["loss"]) for r in rows], marker="o", ms=3)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    for key in ("cpm", "sensitivity_at_1", "sensitivity_at_4"):
        right.plot(epoch, [float(r[key]) for r in rows], marker="o", ms=3, label=key.replace("_", " "))
    right.set(xlabel="epoch", ylabel="validation", ylim=(0, 1))
    right.legend()
    right.grid(alpha=0.3)
    figure.savefig(out / "curves.png", dpi=110)


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the batches which epoch it is, so that a resumed run sees the crops it would have seen; logs the pace."""

    def __init__(self, batches: DetectorBatches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.epoch = epoch
        self.batches.seconds = 0.0
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._pace = tuple(s / (batch + 1) for s in (time.perf_counter() - self._start, self.batches.seconds))
        if (batch + 1) % _LOG_EVERY == 0:
            loss = (logs or {}).get("loss", float("nan"))
            log.info("step %d: loss %.4f, %.2f s/step, of crop making %.2f", batch + 1, loss, *self._pace)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs.update(zip(_PACE, self._pace, strict=True))


def train_detector(data: Path, out: Path, cache: Path, settings: Settings, start: Path | None = None) -> TrainResult:
    """Train a detector and keep the epoch that is best on the validation volumes.

    Parameters
    ----------
    data : see `detector_data`.
    out : the run folder.
    start : weights to begin with, for fine-tuning (a run's ``best.weights.h5`` or a bundle's).

    Raises
    ------
    InputRefused
        When the data folder lacks what is needed.
    SettingsError
        When `out` holds a run with other settings.
    """
    check_run(out, settings)
    return fit_detector(detector_data(data, cache, settings), out, settings, start)


def check_run(out: Path, settings: Settings) -> None:
    """Refuse a run folder that other settings have begun."""
    held = out / "settings.toml"
    # what a later version has added has its default in an older run
    if held.exists() and load_settings(held) != settings:
        raise SettingsError(f"{out} holds a run with other settings; give another folder or the same settings")


def fit_detector(
    split: DetectorData,
    out: Path,
    settings: Settings,
    start: Path | None = None,
    on_validation: OnValidation | None = None,
) -> TrainResult:
    """The training itself; see `train_detector`. Begun before, it goes on; finished before, it is done at once."""
    check_run(out, settings)
    replace_text(out / "settings.toml", settings_to_toml(settings))
    train = settings.train_detector
    keras.utils.set_random_seed(train.seed)
    devices = use_all_devices(train.batch_size)
    precision, model = compiled_detector(settings, start)
    log.info("%s, %d device(s), %s", keras.config.backend(), devices, precision)
    epochs = -(-train.steps // train.validate_every)
    batches = DetectorBatches(CropMaker(split.train, settings), train.validate_every, train.batch_size, train.seed)
    validation = ScanValidation(split.validation, out, settings, on_validation)
    model.fit(
        batches,
        epochs=epochs,
        verbose=0,  # what there is to tell goes to the log: standard output is for results
        callbacks=[
            keras.callbacks.BackupAndRestore(str(out / "resume"), delete_checkpoint=False),
            _Progress(batches),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            validation,
            keras.callbacks.EarlyStopping("val_cpm", mode="max", patience=train.patience),
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    return TrainResult(out / "best.weights.h5", validation.best, epochs * train.validate_every)


def compiled_detector(settings: Settings, start: Path | None = None) -> tuple[str, keras.Model]:
    """A detector ready for training, and the number format that it computes in.

    Parameters
    ----------
    start : weights to begin with.
    """
    precision = choose_precision(settings.train_detector.precision)
    keras.config.set_dtype_policy(precision)
    try:
        model = build_detector(settings.detector)
    finally:
        keras.config.set_dtype_policy("float32")
    if start is not None:
        model.load_weights(start)
    # XLA gains nothing here in TensorFlow; JAX is nothing without it
    model.compile(_optimizer(settings), loss=detector_loss, jit_compile=keras.config.backend() == "jax")
    return precision, model


def _optimizer(settings: Settings) -> Any:
    """AdamW with warm-up, cosine decay and a moving average of the weights."""
    train = settings.train_detector
    warmup = max(1, train.steps // 20)
    rate = keras.optimizers.schedules.CosineDecay(
        train.learning_rate / 20,
        train.steps - warmup,
        alpha=0.01,
        warmup_target=train.learning_rate,
        warmup_steps=warmup,
    )
    return keras.optimizers.AdamW(
        rate,
        weight_decay=train.weight_decay,
        clipnorm=5.0,
        use_ema=True,
        ema_momentum=train.ema_momentum,
        ema_overwrite_frequency=None,
    )
