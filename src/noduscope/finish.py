"""From a training run to a bundle: calibrate, measure on validation and test, write the card.

Validation chooses (the epoch, the calibration, the threshold); test is measured once and chooses nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.data.cached import is_cache
from noduscope.data.implant import PLACES
from noduscope.data.known import reviewed_findings
from noduscope.data.synthetic import opacified_volumes
from noduscope.data.validation import RATES, KnownVolume, Matched, match
from noduscope.errors import InputRefused
from noduscope.evaluate.detections import run_detections
from noduscope.evaluate.froc import FrocSettings
from noduscope.evaluate.scores import calibration_error
from noduscope.files import csv_bytes, replace_files
from noduscope.findings import NOT_A_MEDICAL_DEVICE
from noduscope.model.bundle import Calibration, write_bundle
from noduscope.model.detector import build_detector
from noduscope.model.engine import Engine, find_marks
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings, load_settings
from noduscope.train import read_history, side_volumes

NODULES_PER_SCAN = 1186 / 888
"""LUNA16's mean; implants make nodules far more frequent than they are, and a probability must not."""
ORIGIN = "origin.txt"
"""In a run folder that was not trained but made: says of what."""
VALIDATION, OPACITIES, TEST = "validation", "validation with synthetic opacities", "test"
"""The sides of the split on which a network is measured."""
_THRESHOLD_RATE = 1.0  # false positives per scan at the default threshold
_LEAST_LOGIT = -4.0  # marks below it are not kept
_MOST_OPACIFIED = 20
"""Validation volumes of which there are copies with opacities: they are held in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One side of the split: its volumes, the marks in them, and where its tables lie."""

    volumes: tuple[KnownVolume, ...]
    marks: tuple[Marks, ...]
    metrics: dict[str, Any]


def finish_detector(run: Path, data: Path, cache: Path, version: str) -> Path:
    """Make the bundle of a training run.

    Parameters
    ----------
    run : folder of `train_detector`.
    data, cache : as in training.

    Returns
    -------
    ``run/detector-<version>``.

    Raises
    ------
    InputRefused
        When the run holds no weights yet.
    """
    weights = run / "best.weights.h5"
    if not weights.exists():
        raise InputRefused(f"{run} holds no {weights.name}: train first")
    settings = load_settings(run / "settings.toml")
    model = build_detector(settings.detector)
    model.load_weights(weights)
    network = to_openvino(model)
    engine = Engine(network)
    volumes = known_sides(data, cache, settings, settings)
    marks = {side: _search(engine, held, settings) for side, held in volumes.items()}
    calibration = calibrate(volumes[VALIDATION], marks[VALIDATION])
    sides = {side: measured(run / slug(side), held, marks[side], calibration) for side, held in volumes.items()}
    matched = {side: match(held, marks[side]) for side, held in volumes.items() if side != TEST}
    threshold = default_threshold(matched[VALIDATION], calibration)
    about = luna16_lines(settings) if is_cache(data) else collection_lines(settings)
    about += [f"The weights are {_origin(run)}.", ""]
    card = write_card(version, about, sides, (calibration, threshold_line(threshold, matched, calibration)))

    def fill(folder: Path) -> None:
        ov.save_model(network, folder / "model.xml", compress_to_fp16=False)
        model.save_weights(folder / "detector.weights.h5")
        (folder / "card.md").write_text(card, encoding="utf-8")

    content = {"settings": settings, "calibration": calibration, "threshold": threshold}
    path = run / f"detector-{version}"
    write_bundle(path, ("detector", version), content, fill)
    return path


def slug(side: str) -> str:
    """A side's folder."""
    return side.replace(" ", "-")


def made_of(run: Path) -> str | None:
    """What the weights of a run folder were made of, in words; None where they were trained there."""
    file = run / ORIGIN
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def _origin(run: Path) -> str:
    """Which weights of a run these are, in words."""
    if made := made_of(run):
        return made
    history = read_history(run)
    best = max(history, key=lambda r: float(r["cpm"]), default={"epoch": "?"})
    return f"those of epoch {best['epoch']} (of {len(history)}, counted from 0), the best on validation"


def _search(engine: Engine, volumes: Sequence[KnownVolume], settings: Settings) -> tuple[Marks, ...]:
    return tuple(find_marks(engine, v.hu, v.lungs, settings.preprocess, settings.detect) for v in volumes)


def calibrate(volumes: Sequence[KnownVolume], marks: Sequence[Marks]) -> Calibration:
    """Platt scaling of the logits, with nodules weighted down to `NODULES_PER_SCAN`."""
    logits, labels, weights = _weighted(match(volumes, marks))
    if labels.all() or not labels.any():
        return Calibration()
    return Calibration(*platt_scaling(logits[:, None], labels, weights))


def platt_scaling(
    logits: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[float, ...]:
    """Logistic regression on Platt's targets (Platt 1999): one slope per column of `logits`, and the intercept.

    A few hundred marks of few scans can be told apart nearly without error; labels of 0 and 1 would then make
    every probability 0 or 1. His targets fall short of them by as much as one more case of either kind could teach.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    nodules, others = float(weights[labels].sum()), float(weights[~labels].sum())
    target = np.where(labels, (nodules + 1) / (nodules + 2), 1 / (others + 2))
    both = np.concatenate([weights * target, weights * (1 - target)])
    fit = LogisticRegression().fit(np.concatenate([logits] * 2), np.repeat([True, False], len(labels)), both)
    return (*(float(v) for v in fit.coef_[0]), float(fit.intercept_[0]))


def calibration_gap(matched: Matched, calibration: Calibration) -> float:
    """Expected calibration error of the marks in ten bins, with nodules weighted as in `calibrate`."""
    logits, labels, weights = _weighted(matched)
    probability = np.array([calibration.probability(float(v)) for v in logits])
    return float(calibration_error(labels, probability, weights[None])[0])


def _weighted(matched: Matched) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Logit of each mark, whether it is a hit, and its weight: implants are more frequent than nodules are."""
    hits = matched.best[np.isfinite(matched.best)]
    logits = np.concatenate([hits, matched.false_positives])
    labels = np.arange(len(logits)) < len(hits)
    rarity = min(1.0, NODULES_PER_SCAN * matched.scans / max(len(matched.best), 1))
    return logits, labels, np.where(labels, rarity, 1.0)


def known_sides(data: Path, cache: Path, settings: Settings, training: Settings) -> dict[str, tuple[KnownVolume, ...]]:
    """What a network is measured on: `VALIDATION`, `OPACITIES` where training had some, and `TEST`.

    Validation scans may be few and healthy; how many false positives there are in lungs that are not, copies of
    them with synthetic opacities tell. They choose nothing.

    Parameters
    ----------
    training : settings with which the detector was trained.
    """
    validation, test = (side_volumes(data, cache, settings, side) for side in ("validation", "test"))
    sides = {VALIDATION: validation}
    if training.train_detector.opacities:
        sides[OPACITIES] = opacified_volumes(validation[:_MOST_OPACIFIED])
    return {**sides, TEST: test}


def default_threshold(validation: Matched, calibration: Calibration) -> float:
    """The probability from which validation has one false positive per scan at most; lower ones let more through."""
    logit = max(validation.threshold(_THRESHOLD_RATE), _LEAST_LOGIT)
    return min(round(calibration.probability(logit) + 1e-4, 4), 1.0)


def threshold_line(threshold: float, sides: dict[str, Matched], calibration: Calibration) -> str:
    """What a card says of the default threshold: which rate it stands for, and how it comes about."""
    rates = []
    for side, held in sides.items():
        above = sum(calibration.probability(float(v)) >= threshold for v in held.false_positives)
        rates.append(f"{above / held.scans:.2f} on the {held.scans} volumes of {side}")
    rate = f"{_THRESHOLD_RATE:g} false positive per scan at most on validation"
    return f"Default threshold {threshold:.3f}, from which there is {rate}: {', '.join(rates)}."


def measured(out: Path, volumes: Sequence[KnownVolume], marks: Sequence[Marks], calibration: Calibration) -> Measured:
    """Write the tables of one side into a folder and evaluate them there as ``evaluate detections`` does."""
    rows: dict[str, list[list[Any]]] = {"predictions": [], "annotations": [], "excluded": []}
    for volume, found in zip(volumes, marks, strict=True):
        for place, score in zip(volume.geometry.to_world(found.centre_zyx), found.score, strict=True):
            rows["predictions"].append([volume.name, *_mm(place), f"{calibration.probability(float(score)):.6f}"])
        for lesion in volume.lesions:
            place = volume.geometry.to_world(lesion.centre_zyx)
            table = rows["annotations" if lesion.counts else "excluded"]
            table.append([volume.name, *_mm(place), f"{lesion.diameter_mm:.3f}"])
    columns = ["seriesuid", "coordX", "coordY", "coordZ"]
    files = {
        f"{name}.csv": csv_bytes([[*columns, "probability" if name == "predictions" else "diameter_mm"], *table])
        for name, table in rows.items()
    }
    files["seriesuids.csv"] = csv_bytes(_listed([v.name for v in volumes]))
    replace_files(out, files)
    predictions, annotations, excluded, series = (
        out / f"{n}.csv" for n in ("predictions", "annotations", "excluded", "seriesuids")
    )
    metrics = run_detections(predictions, annotations, excluded, series, out, FrocSettings())
    return Measured(tuple(volumes), tuple(marks), metrics)


def _listed(names: Sequence[str]) -> list[list[str]]:
    """The list of scans; where there are copies, each with its scan's name: they are not as many patients."""
    if not any("+" in name for name in names):
        return [["seriesuid"], *([name] for name in names)]
    return [["seriesuid", "patient"], *([name, name.partition("+")[0]] for name in names)]


def _mm(place: NDArray[np.float64]) -> list[str]:
    return [f"{v:.3f}" for v in place]


def collection_lines(settings: Settings) -> list[str]:
    """Data and protocol of a training on whole scans of several collections and LIDC nodule stacks."""
    reviewed = sum(map(len, reviewed_findings().values()))
    return [
        "## Data",
        "",
        "Public data of The Cancer Imaging Archive: nodule stacks with readers' outlines of LIDC-IDRI (CC BY 3.0) and "
        "chest CTs of LIDC-IDRI, QIN LUNG CT, CPTAC, LCTSC, NSCLC-Radiogenomics, RIDER Lung CT (CC BY 3.0 or 4.0), "
        "CMB-CRC, Lung-PET-CT-Dx (CC BY 4.0). RICORD-1A (CC BY-NC 4.0) is used to evaluate only. "
        "Training crops are pieces of whole scans, mostly with real nodules of other patients set into them.",
        "",
        "## Protocol",
        "",
        f"Split by patient: nodules by a hash of the patient id into {settings.split.folds} parts (part "
        f"{settings.split.validation_fold} validation, {settings.split.test_fold} test, the others training); scans by "
        "name. Validation chose the weights, the calibration and the threshold; test chose none of them. What LUNA16 "
        "excludes on the LIDC's scans counts neither way.",
        "",
        f"**Reviewed findings.** Only the LIDC's scans were read for all nodules. {reviewed} findings on the other "
        "scans that look like nodules count neither way (`reviewed_findings.csv`, each with its reason); those on "
        "validation and test scans were listed after looking at the strongest marks there, which favours the figures.",
        "",
        "**Mostly implants.** Most of the nodules below are real nodules implanted into real scans; the scans are few, "
        "so false positive rates and the intervals (bootstrap by patient, with all copies at once) rest on few.",
        "",
    ]


def luna16_lines(settings: Settings) -> list[str]:
    """Data and protocol of a training on one fold of LUNA16."""
    split = settings.split
    return [
        "## Data",
        "",
        "LUNA16 (CC BY 4.0): chest CTs of LIDC-IDRI (CC BY 3.0) with slices of 2.5 mm at most, nodules of 3 mm and "
        "more that three of four radiologists marked. Findings that LUNA16 excludes count neither way.",
        "",
        "## Protocol",
        "",
        f"The official subset {split.test_fold} is test, subset {split.validation_fold} (a share of the others where "
        "it is absent) validation, the rest training; scans without nodules are in. Validation chose the weights, the "
        "calibration and the threshold; test chose nothing.",
        "",
    ]


def write_card(
    version: str,
    about: Sequence[str],
    sides: dict[str, Measured],
    decision: tuple[Calibration, str],
) -> str:
    """The model card, every figure computed; `about` tells of data and protocol, `decision` of the probability."""
    calibration, threshold = decision
    lines = [
        f"# detector {version}",
        "",
        NOT_A_MEDICAL_DEVICE,
        "",
        "A fully convolutional 3D network that marks lung nodules of 3 mm and more on chest CT.",
        "",
        *about,
    ]
    for title, side in sides.items():
        lines += _side_lines(title.capitalize(), side)
    gaps = [calibration_gap(match(side.volumes, side.marks), calibration) for side in (sides[VALIDATION], sides[TEST])]
    lines += [
        "## Probability",
        "",
        f"Platt scaling on validation (slope {calibration.slope:.3f}, intercept {calibration.intercept:.3f}) at "
        f"{NODULES_PER_SCAN:.2f} nodules per scan, LUNA16's mean. {threshold} "
        f"Expected calibration error {gaps[0]:.3f} on validation, {gaps[1]:.3f} on test (ten bins, weighted alike).",
        "",
        "## What it cannot do",
        "",
        "- It does not tell benign from malignant.",
        "- Nodules below 3 mm, calcified granulomas and findings in collapsed lung or effusion were not its subject.",
        "- Ground-glass nodules are rare in its training data; thick slices (5 mm) blur small nodules away.",
        "- It has seen few scanners as whole scans; expect more false positives on unlike ones.",
        "",
    ]
    return "\n".join(lines)


def _side_lines(title: str, side: Measured) -> list[str]:
    """One side's figures as Markdown."""
    metrics, matched = side.metrics, match(side.volumes, side.marks)
    scans = sorted({v.name.partition("+")[0] for v in side.volumes})
    froc = metrics["froc"]
    lines = [
        f"## {title}",
        "",
        f"{len(side.volumes)} volumes of {len(scans)} scans ({', '.join(scans)}), {len(matched.best)} nodules.",
        f"{cpm_text(metrics)}.",
        "",
        "| false positives per scan | " + " | ".join(f"{r:g}" for r in RATES) + " |",
        "|---|" + "---|" * len(RATES),
        "| sensitivity | " + " | ".join(_figure(v) for v in froc["sensitivity"]) + " |",
        "",
        *group_lines(side.volumes, matched),
    ]
    return [*lines, ""]


def cpm_text(metrics: dict[str, Any]) -> str:
    """CPM with its interval, if there is one."""
    cpm = metrics["cpm"]["interpolated"]
    low_high = f" (95 % interval {cpm['low']:.3f} to {cpm['high']:.3f})" if cpm["low"] is not None else ""
    return f"CPM {cpm['value']:.3f}{low_high}"


def group_lines(volumes: Sequence[KnownVolume], matched: Matched) -> list[str]:
    """Sensitivity at 1 and at 4 false positives per scan by size, type and place, as a Markdown table."""
    lines = ["| nodules | n | sensitivity at 1 | at 4 |", "|---|---|---|---|"]
    for name, group in _groups(volumes):
        lines.append(f"| {name} | {len(group)} | {_share(matched, group, 1.0)} | {_share(matched, group, 4.0)} |")
    return lines


def _groups(volumes: Sequence[KnownVolume]) -> list[tuple[str, NDArray[np.intp]]]:
    """Indices into the counted lesions, by size, type and place."""
    held = [row for v in volumes for row in zip(v.lesions, v.types, v.places, strict=True) if row[0].counts]
    size = np.array([lesion.diameter_mm for lesion, _, _ in held])
    kind, place = (np.array([row[i] for row in held]) for i in (1, 2))
    groups = [(f"{a}–{b} mm", np.flatnonzero((size >= a) & (size < b))) for a, b in ((3, 4), (4, 6), (6, 8), (8, 100))]
    groups += [(t, np.flatnonzero(kind == t)) for t in ("solid", "part-solid", "ground-glass", "real")]
    groups += [(f"implanted: {p}", np.flatnonzero(place == p)) for p in PLACES]
    return [(name, index) for name, index in groups if len(index)]


def _share(matched: Matched, group: NDArray[np.intp], rate: float) -> str:
    threshold = matched.threshold(rate)
    return _figure(float((matched.best[group] > threshold).mean()))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
