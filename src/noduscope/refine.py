"""Training a grader further in one thing: nodule or not, on where the installed detector is wrong.

That answer hangs on the detector whose marks are judged; what readers say of a nodule does not. So the trunk that gives
it goes on from where it is, with many more views of whole scans, and the other trunks and all calibrations stay.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import openvino as ov
from sklearn.metrics import accuracy_score, roc_auc_score

from noduscope.crossval_grader import MAIN, judge_stack, label_of
from noduscope.data.crops import NoduleStack
from noduscope.data.folds import patient_fold
from noduscope.data.grader_batches import PlaceSamples, labelled_nodules
from noduscope.ensemble import copy_trunk, scale_nodule
from noduscope.errors import InputRefused, SettingsError
from noduscope.files import replace_text
from noduscope.finish_grader import SHIPPED, join_grader, place_samples
from noduscope.grading import MalignancyCalibration
from noduscope.heads import MALIGNANCY, NODULE
from noduscope.model.bundle import Bundle, find_bundle, load_bundle, write_bundle
from noduscope.model.grader import build_grader
from noduscope.model.grader_engine import GraderEngine
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings
from noduscope.train import usable_stacks
from noduscope.train_grader import WEIGHTS, train_grader
from noduscope.words import counted

_START = "start.sha256"
"""In a run's folder: the checksum of the bundle that it began with."""


def refine_grader(bundle: Path, data: Path, cache: Path, out: Path, settings: Settings, version: str) -> Path:
    """Train a grader's answer to nodule or not further beside the installed detector, and fit it to that.

    Every other answer of the trunk goes on being trained as well, so that it does not get lost; what that does to the
    malignancy of the validation part's nodules stands in the card.

    Parameters
    ----------
    bundle : a grader's bundle.
    out : folder for the training run and the new bundle.
    settings : only ``train_grader`` counts; all else is the bundle's.

    Returns
    -------
    ``out/grader-<version>``; its card keeps the figures that do not hang on the detector.

    Raises
    ------
    InputRefused
        When `bundle` is no grader, or lacks its weights or what its card should say of them.
    SettingsError
        When `out` holds a run with other settings, or one from another grader.
    """
    held = load_bundle(bundle)
    if held.name != "grader" or not (held.path / WEIGHTS).exists():
        raise InputRefused(f"{bundle} is no grader with its {WEIGHTS}")
    if SHIPPED not in held.card:
        raise InputRefused(f'{bundle}: its card does not say "{SHIPPED}"')
    begun = out / _START
    if begun.exists() and begun.read_text(encoding="utf-8") != held.sha256:
        raise SettingsError(f"{out} holds a run that began with another grader; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    replace_text(begun, held.sha256)
    split, own = held.settings.split, replace(held.settings, train_grader=settings.train_grader)
    stacks = [(patient_fold(s.patient_id, split.folds), s) for s in usable_stacks(data, own)]
    training = [s for part, s in stacks if part not in (split.validation_fold, split.test_fold)]
    asked = [s for part, s in stacks if part == split.validation_fold]
    whole = build_grader(own.grader)
    whole.load_weights(held.path / WEIGHTS)
    _train_further(whole, own, out / "trunk", (training, data, cache))
    network, train = to_openvino(whole), own.train_grader
    before, after = (_malignancy(n, held, asked) for n in (held.network, network))
    seen = f"{counted(train.epochs, 'epoch')} with {train.places} views of whole scans to {train.batch_size} of nodules"
    told = (
        f" What says whether there is a nodule was then trained further beside {find_bundle('detector').name}: {seen}. "
        f"Malignancy on the validation part, as the main protocol has it: {before} before, {after} since."
    )
    lines = [line + told if SHIPPED in line else line for line in held.card.splitlines()]

    def fill(folder: Path) -> None:
        ov.save_model(network, folder / "model.xml", compress_to_fp16=False)
        whole.save_weights(folder / WEIGHTS)
        (folder / "card.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    content = {"settings": held.settings, "calibration": held.calibration, "threshold": held.threshold, **held.details}
    with tempfile.TemporaryDirectory() as folder:
        unfitted = Path(folder) / held.path.name
        write_bundle(unfitted, (held.name, held.version), content, fill)
        return join_grader(unfitted, data, cache, out, version)


def _train_further(
    whole: keras.Model, settings: Settings, run: Path, held: tuple[Sequence[NoduleStack], Path, Path]
) -> None:
    """Train the trunks of `whole` that answer nodule or not, in place."""
    training, data, cache = held
    members = settings.grader.members
    # an ensemble silences that answer in the others
    answering = [i for i in range(members) if whole.get_layer(f"member{i}_grade").get_weights()[0][:, NODULE].any()]
    own = replace(settings, grader=replace(settings.grader, members=len(answering)))
    part, share = build_grader(own.grader), members / len(answering)
    for place, i in enumerate(answering):
        copy_trunk(whole, f"member{i}_", part, f"member{place}_")
        scale_nodule(part.get_layer(f"member{place}_grade"), 1 / share)
    places: list[PlaceSamples] = []
    if not (run / WEIGHTS).exists():
        places = place_samples(data, cache, own, load_bundle(find_bundle("detector")), training)
    trained = train_grader(labelled_nodules(training, own.grader), places, run, own, start=part.get_weights())
    for place, i in enumerate(answering):
        copy_trunk(trained, f"member{place}_", whole, f"member{i}_")
        scale_nodule(whole.get_layer(f"member{i}_grade"), share)


def _malignancy(network: ov.Model | Path, held: Bundle, stacks: Sequence[NoduleStack]) -> str:
    """How well a network tells these nodules apart with the bundle's calibration."""
    engine = GraderEngine(network, held.settings.grader)
    calibration = MalignancyCalibration(**held.details["malignancy"])
    labels, said = [], []
    for stack in stacks:
        label = label_of(stack, MAIN)
        if label is not None:
            judged = judge_stack(engine, stack, held.settings.split.validation_fold)
            labels.append(label)
            said.append(calibration.interval(judged.logits[MALIGNANCY], judged.sizes[0], judged.dense).value)
    if len({*labels}) < 2:
        return "not measured"
    probability = np.array(said)
    right = accuracy_score(labels, probability > 0.5)
    return f"AUC {roc_auc_score(labels, probability):.3f} and accuracy {right:.3f} (n = {len(labels)})"
