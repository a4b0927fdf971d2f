"""What a search makes large: the validation score of a detector or a grader trained with the drawn settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from noduscope.crossval_grader import MAIN, judge_stack, label_of
from noduscope.data.crops import NoduleStack
from noduscope.data.folds import patient_fold
from noduscope.data.grader_batches import labelled_nodules
from noduscope.errors import InputRefused
from noduscope.heads import MALIGNANCY
from noduscope.model.grader_engine import GraderEngine
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings
from noduscope.train import DetectorData, fit_detector
from noduscope.train_grader import train_grader
from noduscope.tune.search import Objective, Report

_EPOCHS_PER_VALIDATION = 4  # judging all nodules takes about as long as an epoch


def detector_objective(split: DetectorData, start: Path | None = None) -> Objective:
    """Train a detector; its best CPM on the validation volumes is the score. The test side is not looked at.

    Parameters
    ----------
    start : weights that every trial begins with, for fine-tuning; the space may then not search the architecture.
    """

    def objective(settings: Settings, folder: Path, report: Report) -> float:
        try:
            return fit_detector(split, folder, settings, start, report).best_cpm
        finally:
            keras.utils.clear_session()  # else every trial's graph stays in memory

    return objective


def grader_objective(stacks: Sequence[NoduleStack], settings: Settings) -> Objective:
    """Train a grader on labelled nodules; its malignancy AUC on the validation patients is the score.

    The protocol is the main one of the cross-validation: nodules whose readers are undecided train, but are not
    scored. As there, no epoch is chosen: the last one's AUC counts. Patients of the test part are left out.

    Raises
    ------
    InputRefused
        When the validation patients do not have both benign and malignant nodules.
    """
    split = settings.split
    fold = {s.patient_id: patient_fold(s.patient_id, split.folds) for s in stacks}
    held = (split.validation_fold, split.test_fold)
    training = [s for s in stacks if fold[s.patient_id] not in held]
    validation = [s for s in stacks if fold[s.patient_id] == split.validation_fold]
    scored = [(s, label) for s in validation if (label := label_of(s, MAIN)) is not None]
    if len({label for _, label in scored}) < 2:
        raise InputRefused(
            f"part {split.validation_fold} of the patients has {len(scored)} decided nodules, not both benign and "
            "malignant ones; choose another split.validation_fold or give more nodules"
        )

    def objective(settings: Settings, folder: Path, report: Report) -> float:
        def on_epoch(epoch: int, model: keras.Model) -> None:
            if (epoch + 1) % _EPOCHS_PER_VALIDATION == 0:
                report(epoch // _EPOCHS_PER_VALIDATION, malignancy_auc(model, scored, settings))

        try:
            nodules = labelled_nodules(training, settings.grader)
            model = train_grader(nodules, (), folder, settings, on_epoch)
            return malignancy_auc(model, scored, settings)
        finally:
            keras.utils.clear_session()

    return objective


def malignancy_auc(model: keras.Model, scored: Sequence[tuple[NoduleStack, bool]], settings: Settings) -> float:
    """Area under the ROC curve of the mean opinion over stacks that are malignant or not."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415

    engine = GraderEngine(to_openvino(model), settings.grader)
    opinions = [judge_stack(engine, s, 0).logits[MALIGNANCY].mean() for s, _ in scored]
    return float(roc_auc_score([label for _, label in scored], np.array(opinions)))
