"""Training a grader on labelled nodules and, for telling nodules from what only looks like one, on whole scans."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from noduscope.data.grader_batches import GraderBatches, LabelledNodule, PlaceSamples
from noduscope.errors import InputRefused, SettingsError
from noduscope.files import replace_text
from noduscope.model.grader import build_grader, grade_loss, mask_loss
from noduscope.model.weights import keep_weights
from noduscope.settings import Settings, load_settings, settings_to_toml

log = logging.getLogger(__name__)

WEIGHTS = "grader.weights.h5"
OnEpoch = Callable[[int, keras.Model], None]
"""Called after each epoch with its number, from 0, and the model with its averaged weights in place."""


def train_grader(
    nodules: Sequence[LabelledNodule],
    places: Sequence[PlaceSamples],
    out: Path,
    settings: Settings,
    on_epoch: OnEpoch | None = None,
    start: Sequence[Any] | None = None,
) -> keras.Model:
    """Train a grader; its weights, history and curves are kept in a run folder.

    The schedule is fixed and the moving average of the weights is what is kept: no epoch is chosen.

    Parameters
    ----------
    nodules : of the training patients.
    places : whole scans for nodule-or-not and for outlines beyond a nodule's ends (see `GraderBatches`); without any
        the nodule head learns nothing.
    out : the run folder. Starting again on it goes on from the last finished epoch, or returns the finished model.
    start : weights to begin with, as a grader of these settings gives them.

    Raises
    ------
    InputRefused
        When there is no nodule to learn from.
    SettingsError
        When `out` holds a run with other settings.
    """
    held = out / "settings.toml"
    if held.exists() and _own(load_settings(held)) != _own(settings):
        raise SettingsError(f"{out} holds a run with other settings; give another folder or the same settings")
    if not nodules:
        raise InputRefused("there is no labelled nodule to train on")
    train = settings.train_grader
    keras.utils.set_random_seed(train.seed)
    model = build_grader(settings.grader)
    if (out / WEIGHTS).exists():
        model.load_weights(out / WEIGHTS)
        return model
    replace_text(held, settings_to_toml(settings))
    if start is not None:
        model.set_weights(start)
    batches = GraderBatches(nodules, places, settings)
    model.compile(_optimizer(settings, len(batches) * train.epochs), loss={"grade": grade_loss, "mask": mask_loss})
    told = _Epochs(batches, on_epoch)
    model.fit(
        batches,
        epochs=train.epochs,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(out / "resume"), delete_checkpoint=True),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.CSVLogger(str(out / "history.csv"), append=True),
            told,
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    # a compiled model would write its optimiser's state as well
    trained = build_grader(settings.grader)
    trained.set_weights(model.get_weights())
    keep_weights(trained, out / WEIGHTS)
    return trained


def _own(settings: Settings) -> tuple[object, ...]:
    """What a grader's training depends on."""
    return settings.grader, settings.train_grader, settings.split


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells the batches which epoch it is, so that a resumed run sees what it would have seen."""

    def __init__(self, batches: GraderBatches, on_epoch: OnEpoch | None) -> None:
        super().__init__()
        self.batches, self.on_epoch = batches, on_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        log.info("epoch %d: loss %.4f", epoch + 1, (logs or {}).get("loss", float("nan")))
        if self.on_epoch is not None:
            self.on_epoch(epoch, self.model)


def _optimizer(settings: Settings, steps: int) -> Any:
    """AdamW with warm-up, cosine decay and a moving average of the weights."""
    train = settings.train_grader
    warmup = max(1, steps // 20)
    rate = keras.optimizers.schedules.CosineDecay(
        train.learning_rate / 20, max(1, steps - warmup), alpha=0.01,
        warmup_target=train.learning_rate, warmup_steps=warmup,
    )  # fmt: skip
    return keras.optimizers.AdamW(
        rate, weight_decay=train.weight_decay, clipnorm=5.0,
        use_ema=True, ema_momentum=train.ema_momentum, ema_overwrite_frequency=None,
    )  # fmt: skip
