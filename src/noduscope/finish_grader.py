"""From a cross-validation and a training run to a grader bundle: calibrate, join with the detector, write the card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.combine import Combination
from noduscope.crossval_grader import calibrate_malignancy, pool, rating_scales, size_errors, vars_of
from noduscope.data.crops import NoduleStack, isotropic_patch
from noduscope.data.folds import patient_fold
from noduscope.data.grader_batches import PlaceSamples, PlaceSource, labelled_nodules
from noduscope.data.hosts import HostScan
from noduscope.data.synthetic import phantom_hosts
from noduscope.data.validation import RATES, KnownVolume, Matched, match
from noduscope.errors import InputRefused
from noduscope.findings import NOT_A_MEDICAL_DEVICE
from noduscope.finish import (
    NODULES_PER_SCAN,
    TEST,
    VALIDATION,
    calibration_gap,
    cpm_text,
    default_threshold,
    group_lines,
    known_sides,
    made_of,
    measured,
    platt_scaling,
    slug,
    threshold_line,
)
from noduscope.model.bundle import Bundle, Calibration, find_bundle, load_bundle, write_bundle
from noduscope.model.engine import Engine, find_marks
from noduscope.model.grader_engine import GraderEngine
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings, settings_to_dict
from noduscope.train import crop_hosts, usable_stacks
from noduscope.train_grader import WEIGHTS, train_grader

_DETECTION = "## False positives of the detector"
SHIPPED = "The shipped weights were trained on eight of the ten parts"
"""What a grader's card says of its weights; more of them follows in that line."""
_HARDEST = 60
"""Marks of the detector per training scan that the grader learns from."""
_OWN, _OWN_SYNTHETIC = 0.1, 0.7
"""Share of the views of nodules that are of a scan's own: patients' scans hold few, synthetic chests many."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Validation or test volumes with the detector's marks and what the grader says of each."""

    volumes: tuple[KnownVolume, ...]
    marks: tuple[Marks, ...]
    grader: tuple[NDArray[np.float64], ...]

    def combined(self, combination: Combination) -> Matched:
        """The marks scored by both networks, matched."""
        return match(self.volumes, self.rescored(combination))

    def rescored(self, combination: Combination) -> list[Marks]:
        """The marks with the combined logit as their score."""
        pairs = zip(self.marks, self.grader, strict=True)
        return [replace(m, score=combination.logits(m.score, g).astype(np.float32)) for m, g in pairs]


def place_samples(
    data: Path, cache: Path, settings: Settings, detector: Bundle, stacks: Sequence[NoduleStack]
) -> list[PlaceSamples]:
    """What the nodule head learns from: the detector's training scans, nodules to set in, and where it is wrong.

    The second, where the detector was trained with synthetic chests, is of those.
    """
    engine, spacing = Engine(detector.network), settings.grader.spacing_mm
    chests = detector.settings.train_detector.phantoms
    patches = [p for s in stacks if (p := isotropic_patch(s, spacing)) is not None]

    def samples(hosts: Sequence[HostScan], own: float) -> PlaceSamples:
        false: list[tuple[int, tuple[float, float, float], float]] = []
        for i, host in enumerate(hosts):
            marks = find_marks(engine, host.hu, host.lungs, settings.preprocess, settings.detect)
            marks = marks.take(np.argsort(marks.score)[::-1][:_HARDEST])
            sized = zip(marks.centre_zyx, marks.diameter_mm, strict=True)
            false += [(i, (float(z), float(y), float(x)), float(mm)) for (z, y, x), mm in sized]
        return PlaceSamples(PlaceSource(hosts, patches, false, spacing, own), settings)

    made = [samples(crop_hosts(data, cache, detector.settings), _OWN)]
    return [*made, samples(phantom_hosts(chests, cache, settings), _OWN_SYNTHETIC)] if chests else made


def finish_grader(data: Path, cache: Path, run: Path, crossval: Path, settings: Settings, version: str) -> Path:
    """Train the grader that is shipped, measure it beside the installed detector, write the bundle.

    Parameters
    ----------
    run : the run folder; a finished training there is used as it is.
    crossval : folder of `crossval_grader` with the same settings: gives calibration, size errors and the card's tables.

    Returns
    -------
    ``run/grader-<version>``.

    Raises
    ------
    InputRefused
        When the cross-validation is not finished.
    """
    if not (crossval / "summary.json").exists():
        raise InputRefused(f"{crossval} holds no finished cross-validation: run noduscope crossval grader first")
    detector = load_bundle(find_bundle("detector"))
    split = settings.split
    held = {split.validation_fold, split.test_fold}
    stacks = usable_stacks(data, settings)
    training = [s for s in stacks if patient_fold(s.patient_id, split.folds) not in held]
    places = [] if (run / WEIGHTS).exists() else place_samples(data, cache, settings, detector, training)
    model = train_grader(labelled_nodules(training, settings.grader), places, run, settings)
    network = to_openvino(model)
    joint = join(data, cache, settings, run, (detector, GraderEngine(network, settings.grader)))
    pooled = pool(stacks, crossval, split.folds)
    summary = json.loads((crossval / "summary.json").read_text(encoding="utf-8"))
    malignancy = calibrate_malignancy(pooled.judged)
    content = {
        "settings": settings,
        "malignancy": settings_to_dict(malignancy),
        "ratings": {k: settings_to_dict(v) for k, v in rating_scales(pooled.judged).items()},
        "size_error": {k: vars_of(v) for k, v in size_errors(pooled.judged).items()},
        **joint.content,
    }
    made = made_of(run)
    card = write_card(version, summary, joint.card, f" They are {made}." if made else "")

    def fill(folder: Path) -> None:
        ov.save_model(network, folder / "model.xml", compress_to_fp16=False)
        model.save_weights(folder / WEIGHTS)
        (folder / "card.md").write_text(card, encoding="utf-8")

    path = run / f"grader-{version}"
    write_bundle(path, ("grader", version), content, fill)
    return path


def join_grader(bundle: Path, data: Path, cache: Path, out: Path, version: str) -> Path:
    """Fit a grader that is there to the installed detector: the same network, another combination and threshold.

    Parameters
    ----------
    bundle : a grader's bundle.
    out : folder for the new one.

    Returns
    -------
    ``out/grader-<version>``; its card has the figures beside this detector and keeps the others.

    Raises
    ------
    InputRefused
        When `bundle` is no grader, or its card has no section on a detector to put the new one in place of.
    """
    held = load_bundle(bundle)
    if held.name != "grader":
        raise InputRefused(f"{bundle} is a {held.name}, not a grader")
    lines = held.card.splitlines()
    if _DETECTION not in lines:
        raise InputRefused(f'{bundle}: its card has no section "{_DETECTION.removeprefix("## ")}"')
    detector = load_bundle(find_bundle("detector"))
    engine = GraderEngine(held.network, held.settings.grader)
    joint = join(data, cache, held.settings, out, (detector, engine))
    begin = lines.index(_DETECTION)
    end = next((i for i in range(begin + 1, len(lines)) if lines[i].startswith("## ")), len(lines))
    lines = [f"# grader {version}", *lines[1:begin], *joint.card, *lines[end:]]

    def fill(folder: Path) -> None:
        for name in ("model.xml", "model.bin", WEIGHTS):
            if (held.path / name).exists():
                shutil.copyfile(held.path / name, folder / name)
        (folder / "card.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

    path = out / f"grader-{version}"
    write_bundle(path, ("grader", version), {**held.details, "settings": held.settings, **joint.content}, fill)
    return path


@dataclass(frozen=True, slots=True)
class Joint:
    """A grader beside a detector.

    Parameters
    ----------
    content : what the manifest holds of it.
    card : the card's section on it.
    """

    content: dict[str, Any]
    card: list[str]


def join(data: Path, cache: Path, settings: Settings, out: Path, networks: tuple[Bundle, GraderEngine]) -> Joint:
    """Fit the joint probability of detector and grader on validation and measure it there and on test.

    The tables of each side and their evaluation by LUNA16's rules go into ``out/joint-validation`` and so on.
    """
    volumes = known_sides(data, cache, settings, networks[0].settings)
    sides = {side: score(held, *networks) for side, held in volumes.items()}
    combination = combine(sides[VALIDATION])
    official = {
        side: measured(out / slug(f"joint {side}"), s.volumes, s.rescored(combination), Calibration()).metrics
        for side, s in sides.items()
    }
    matched = {side: s.combined(combination) for side, s in sides.items() if side != TEST}
    threshold = default_threshold(matched[VALIDATION], Calibration())
    content = {
        "calibration": nodule_calibration(sides[VALIDATION]),
        "threshold": threshold,
        "combination": settings_to_dict(combination),
        "detector": networks[0].sha256,
    }
    told = ", ".join(f"{side} {cpm_text(metrics)}" for side, metrics in official.items())
    about = [
        f"By LUNA16's rules, with the grader: {told}; intervals by bootstrap of the patients, who are few.",
        "",
        threshold_line(threshold, matched, Calibration()),
        "",
    ]
    return Joint(content, [*_detection_lines(sides, combination, networks[0]), *about])


def score(volumes: Sequence[KnownVolume], detector: Bundle, engine: GraderEngine) -> Scored:
    """The detector's marks on volumes, each judged by the grader."""
    search, settings = Engine(detector.network), detector.settings
    marks = tuple(find_marks(search, v.hu, v.lungs, settings.preprocess, settings.detect) for v in volumes)
    logits = tuple(
        engine.mark_logits(v.hu, v.geometry.spacing_zyx_mm, m).astype(np.float64)
        for v, m in zip(volumes, marks, strict=True)
    )
    return Scored(tuple(volumes), marks, logits)


def combine(side: Scored) -> Combination:
    """Platt scaling of both networks' logits together, nodules weighted down to their real number."""
    pairs, labels, rarity = _labelled(side)
    a, b, intercept = platt_scaling(pairs, labels, np.where(labels, rarity, 1.0))
    return Combination(a, b, intercept, float(np.median(pairs[~labels, 1])))


def nodule_calibration(side: Scored) -> Calibration:
    """Platt scaling of the grader's nodule logit alone, for places that a user gives."""
    pairs, labels, rarity = _labelled(side)
    return Calibration(*platt_scaling(pairs[:, 1:], labels, np.where(labels, rarity, 1.0)))


def _labelled(side: Scored) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Both logits of the best mark in each lesion and of each false mark; the weight of a nodule."""
    hits: list[tuple[float, float]] = []
    false: list[tuple[float, float]] = []
    lesions = 0
    for volume, marks, grader in zip(side.volumes, side.marks, side.grader, strict=True):
        free = np.ones(len(marks), dtype=bool)
        for lesion in volume.lesions:
            away = np.linalg.norm(marks.centre_zyx - np.asarray(lesion.centre_zyx), axis=1)
            inside = np.flatnonzero(away * volume.geometry.spacing_xyz_mm[0] < lesion.diameter_mm / 2)
            free[inside] = False
            lesions += lesion.counts
            if lesion.counts and len(inside):
                best = inside[np.argmax(marks.score[inside])]
                hits.append((float(marks.score[best]), float(grader[best])))
        false += [(float(marks.score[i]), float(grader[i])) for i in np.flatnonzero(free)]
    labels = np.array([True] * len(hits) + [False] * len(false))
    return np.array(hits + false), labels, min(1.0, NODULES_PER_SCAN * len(side.volumes) / max(lesions, 1))


def write_card(version: str, summary: dict[str, Any], detection: Sequence[str], origin: str = "") -> str:
    """The model card, every figure computed.

    Parameters
    ----------
    detection : the section on the detector.
    origin : a sentence on where the weights come from, where they were not trained as one.
    """
    lines = [
        f"# grader {version}",
        "",
        NOT_A_MEDICAL_DEVICE,
        "",
        "A 2D residual network on planes through a candidate: nodule or not, outline, type, the LIDC's attributes, and "
        "how malignant its radiologists would rate it. Ratings are readers' suspicion, not pathology.",
        "",
        "## Data and protocol",
        "",
        f"{summary['nodules']} nodules of {summary['patients']} patients of LIDC-IDRI (CC BY 3.0), three or more "
        "readers each, as stacks of slices. Ten folds by patient; of each fold one part is tested, one left out, the "
        "others train; no epoch is chosen. Figures are pooled out of fold, intervals by patient; each fold's "
        "probability (of opinion, diameter, and share above 200 HU) is calibrated on the out-of-fold answers of the "
        f"others. The point given is a tile's middle; for the {summary['not_in_the_middle_of_their_tile']} nodules "
        f"that do not lie there it is the outline's. {SHIPPED}, and besides on nodules set into whole scans.{origin}",
        "",
        *_malignancy_lines(summary),
        *_outline_lines(summary),
        *_attribute_lines(summary),
        *detection,
        "## What it cannot do",
        "",
        "- It knows no pathology, no history, no earlier scan and nothing beyond the views around a nodule.",
        "- A nodule larger than a view (about 34 mm) is outlined by classical image analysis instead.",
        "- It was measured on slices that readers had outlined; a point far off a nodule's centre is judged worse.",
        "- Part-solid and ground-glass nodules are few in its data; so are nodules above 30 mm.",
        "- The interval tells how much the training patients matter, not all that is uncertain.",
        "",
    ]
    return "\n".join(lines)


def _malignancy_lines(summary: dict[str, Any]) -> list[str]:
    lines = ["## Benign or malignant, by the readers", ""]
    for protocol, metrics in summary["protocols"].items():
        lines += [f"### {protocol}", "", *_protocol_lines(metrics), ""]
    matched, doubt, away = (summary[k] for k in ("size_matched_pairs", "doubt", "given_away_by_missing_slices"))
    undecided, thirds = summary["undecided"], ", ".join(f"{v:.3f}" for v in doubt["error_by_width_third"])
    ranked = f"{_number(matched.get('model'))} ranked right by the grader, {_number(matched.get('size'))} by size"
    strict = summary["strictly_calibrated"]
    return [
        *lines,
        f"- Main protocol with each fold calibrated on the next one's few nodules alone: AUC {strict['auc']:.3f}, "
        f"accuracy {strict['accuracy']:.3f}.",
        f"- Pairs of a malignant and a benign nodule within 10 % in diameter ({matched['pairs']}): {ranked}.",
        f"- Deferring the {doubt['deferred']:.0%} with the widest intervals: accuracy {doubt['accuracy_all']:.3f} to "
        f"{doubt['accuracy_kept']:.3f}; share wrong by thirds of width {thirds}.",
        f"- {undecided['n']} nodules whose readers were undecided get {_number(undecided['mean'])} on average.",
        f"- What missing slices give away: number and spacing of a stack's slices beside its size, AUC "
        f"{_number(away['size'])} to {_number(away['size_and_extra'])}. The grader is shown neither.",
        "",
    ]


def _protocol_lines(metrics: dict[str, Any]) -> list[str]:
    """The grader beside the trivial baselines."""
    rows = {"grader": metrics["metrics"], **metrics["baselines"]}
    columns = ("accuracy", "precision", "recall", "f1", "auc", "ece")
    lines = [
        f"{metrics['n']} nodules of {metrics['patients']} patients, {metrics['malignant']} malignant. The grader at "
        "0.5, the baselines at a threshold chosen on the other folds.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, values in rows.items():
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(_interval(values.get(c)) for c in columns) + " |")
    for name, test in metrics["delong"].items():
        if name in ("diameter", "size_only"):
            lines += [
                "",
                f"AUC above {name.replace('_', ' ')} by {test['difference']['value']:+.3f} "
                f"(DeLong p {test['p_value']:.2g}).",
            ]
    lines += ["", "| group | n | malignant | auc | accuracy |", "|---|---|---|---|---|"]
    for groups in metrics["subgroups"].values():
        for g in groups:
            values = g["metrics"]
            cells = " | ".join(_interval(values.get(c)) for c in ("auc", "accuracy"))
            lines.append(f"| {g['group']} | {g['n']} | {g['malignant']} | {cells} |")
    return lines


def _outline_lines(summary: dict[str, Any]) -> list[str]:
    o = summary["outlines"]
    return [
        "## Outline and size",
        "",
        "| | grader | readers against one another |",
        "|---|---|---|",
        f"| Dice with the consensus | {_interval(o['dice'])} | {_interval(o['dice_of_readers'])} |",
        f"| median volume error | {o['median_volume_error']:.1%} | {o['median_volume_error_of_readers']:.1%} |",
        f"| median diameter error, mm | {o['median_diameter_error_mm']:.2f} | |",
        "",
    ]


def _attribute_lines(summary: dict[str, Any]) -> list[str]:
    lines = [
        "## Attributes",
        "",
        "Quadratic-weighted kappa of whole ratings. The grader's answers are given the readers' mean and spread, found "
        "on the other folds; the correlation is of unrounded ones.",
        "",
        "| | grader with readers' mean | reader with reader | correlation |",
        "|---|---|---|---|",
    ]
    for name, k in summary["attributes"].items():
        lines.append(f"| {name} | {_number(k['model'])} | {_number(k['readers'])} | {_number(k['correlation'])} |")
    return [*lines, ""]


def _detection_lines(sides: dict[str, Scored], combination: Combination, detector: Bundle) -> list[str]:
    gaps = [calibration_gap(sides[side].combined(combination), Calibration()) for side in (VALIDATION, TEST)]
    lines = [
        _DETECTION,
        "",
        f"Beside {detector.path.name}; logits combined as {combination.detector:.3f} detector + "
        f"{combination.grader:.3f} grader {combination.intercept:+.3f}, fitted on validation. Expected calibration "
        f"error of the joint probability {gaps[0]:.3f} on validation, {gaps[1]:.3f} on test (ten bins, nodules "
        f"weighted down to {NODULES_PER_SCAN:.2f} a scan).",
        "",
        "| | CPM alone | CPM with grader | " + " | ".join(f"at {r:g}" for r in RATES) + " |",
        "|---|---|---|" + "---|" * len(RATES),
    ]
    for name, side in sides.items():
        alone, both = match(side.volumes, side.marks), side.combined(combination)
        row = " | ".join(f"{alone.sensitivity(r):.3f} → {both.sensitivity(r):.3f}" for r in RATES)
        lines.append(f"| {name} ({len(alone.best)} nodules) | {alone.cpm:.3f} | {both.cpm:.3f} | {row} |")
    for name, side in sides.items():
        table = group_lines(side.volumes, side.combined(combination))
        lines += ["", f"{name.capitalize()}, with the grader, at 1 and at 4 false positives per scan:", "", *table]
    return [*lines, ""]


def _interval(value: dict[str, Any] | None) -> str:
    if value is None or value["value"] is None:
        return "–"
    low, high = value.get("low"), value.get("high")
    return f"{value['value']:.3f}" + ("" if low is None or high is None else f" ({low:.3f} to {high:.3f})")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
