"""Cross-validation of the grader by patient: out-of-fold answers for every labelled nodule, and what they are worth.

Fold k is tested, fold k + 1 is left out too, the others train; no epoch is chosen. The probability of fold k is
calibrated on the out-of-fold answers of all other folds: the few nodules of fold k + 1 would give each fold a scale
of its own. The networks that gave those answers have seen patients of fold k; so the summary also holds the figures of
the strict way, calibrated on fold k + 1 alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from noduscope.data.crops import CONSENSUS, TILE, NoduleStack
from noduscope.data.folds import patient_fold, require_disjoint
from noduscope.data.grader_batches import labelled_nodules
from noduscope.errors import InputRefused
from noduscope.evaluate.grades import run_grades
from noduscope.evaluate.nodules import (
    added_by,
    deferral,
    dice,
    interval_of_mean,
    rating_kappa,
    readers_against_the_others,
    size_matched,
)
from noduscope.files import csv_bytes, replace_files
from noduscope.findings import NOT_A_MEDICAL_DEVICE, Interval
from noduscope.grading import LEAST_MM, MalignancyCalibration, RatingScale, SizeError, dense_share, ratings
from noduscope.heads import ATTRIBUTES, MALIGNANCY, TYPE, TYPES
from noduscope.measure import axial_axes_mm
from noduscope.model.grader_engine import GraderEngine, middle_planes
from noduscope.model.ir import to_openvino
from noduscope.processes import over_processes, own_threads
from noduscope.settings import GraderSettings, Settings
from noduscope.train_grader import train_grader
from noduscope.views import axial_view, in_plane

log = logging.getLogger(__name__)

_MIDDLE = (TILE - 1) / 2
PROTOCOLS: dict[str, tuple[int, Callable[[Sequence[int]], Any]]] = {
    "median, 3 or more readers": (3, np.median),
    "median, 4 readers": (4, np.median),
    "mean, 3 or more readers": (3, np.mean),
}
"""How ratings become a label: least number of readers, and the figure that lies below or above 3."""
MAIN = "median, 3 or more readers"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a grader said of one stack, and what the readers' consensus outline measures.

    Parameters
    ----------
    logits : (heads,).
    sizes : predicted and reference diameter (mm), predicted and reference volume (mm³).
    dense : `dense_share` inside the predicted outline.
    """

    stack: NoduleStack
    fold: int
    logits: NDArray[np.float32]
    dice: float
    sizes: tuple[float, float, float, float]
    dense: float


def given_point(stack: NoduleStack) -> tuple[float, float]:
    """The ``(y, x)`` that a user would give: a tile's middle, or the outline's where no reader's reaches that.

    Tiles are cut about a nodule, about 1 mm off its centre; at a scan's edge they are shifted inwards and their middle
    is a place beside it.
    """
    low, high = int(np.floor(_MIDDLE)), int(np.ceil(_MIDDLE)) + 1
    if (stack.agreement[:, low:high, low:high] > 0).any():
        return _MIDDLE, _MIDDLE
    _, y, x = np.argwhere(stack.agreement >= CONSENSUS).mean(axis=0)
    return float(y), float(x)


def judge_stack(engine: GraderEngine, stack: NoduleStack, fold: int) -> Judged:
    """Grade a stack by planes that lie in it, from `given_point`."""
    settings, spacing, n = engine.settings, stack.spacing_zyx_mm, len(stack.hu)
    point = given_point(stack)
    places = [(float(z), *point) for z in range(n)]
    middle = [places[z] for z in middle_planes(0, n - 1)]
    logits = engine.judged([axial_view(stack.hu, spacing, p, settings, alone=True) for p in middle])
    shares = engine.shares(stack.hu, spacing, places)
    reference = np.stack([in_plane(a, spacing[1:], point, settings) for a in stack.agreement])
    sizes = (*_sizes(shares, spacing[0], settings), *_sizes(reference, spacing[0], settings))
    dense = dense_share(np.stack([in_plane(p, spacing[1:], point, settings) for p in stack.hu])[shares >= CONSENSUS])
    return Judged(stack, fold, logits, dice(shares >= 0.5, reference >= CONSENSUS), sizes[::2] + sizes[1::2], dense)


def _sizes(share: NDArray[np.float32], dz_mm: float, settings: GraderSettings) -> tuple[float, float]:
    """Mean axial diameter and volume of a soft outline."""
    inside = share >= CONSENSUS
    volume = float(inside.sum()) * settings.spacing_mm**2 * dz_mm
    return sum(axial_axes_mm(share, settings.spacing_mm)) / 2, volume


def run_fold(stacks: Sequence[NoduleStack], fold: int, out: Path, settings: Settings) -> None:
    """Train one fold and keep what it says of its test and calibration nodules; done folds are left as they are."""
    file = _judged_file(out, fold)
    if file.exists():
        return
    folds = settings.split.folds
    of = {s.patient_id: patient_fold(s.patient_id, folds) for s in stacks}
    held = (fold, (fold + 1) % folds)
    training = [s for s in stacks if of[s.patient_id] not in held]
    others = [s for s in stacks if of[s.patient_id] in held]
    require_disjoint((s.patient_id for s in training), {s.patient_id for s in others}, "nodules")
    model = train_grader(labelled_nodules(training, settings.grader), (), file.parent, settings)
    engine = GraderEngine(to_openvino(model), settings.grader, own_threads())
    judged = [judge_stack(engine, s, of[s.patient_id]) for s in others]
    arrays: dict[str, Any] = {
        "names": np.array([j.stack.name for j in judged]),
        "logits": np.stack([j.logits for j in judged]),
        "dice": np.array([j.dice for j in judged]),
        "sizes": np.array([j.sizes for j in judged]),
        "dense": np.array([j.dense for j in judged]),
    }
    temporary = file.with_name("tmp.judged.npz")
    np.savez(temporary, **arrays)
    temporary.rename(file)


def _judged_file(out: Path, fold: int) -> Path:
    return out / f"fold-{fold}" / "judged.npz"


def _fold(job: tuple[Sequence[NoduleStack], int, Path, Settings]) -> int:
    run_fold(*job)
    return job[1]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Every nodule judged by the fold that has not seen its patient.

    Parameters
    ----------
    probability, low, high : calibrated on the other folds.
    strict : probability calibrated on the next fold alone.
    ratings : (n, attributes), on the readers' scale as found on the other folds.
    """

    judged: tuple[Judged, ...]
    probability: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    strict: NDArray[np.float64]
    ratings: NDArray[np.float64]

    @property
    def patients(self) -> list[str]:
        """One per nodule."""
        return [j.stack.patient_id for j in self.judged]


def pool(stacks: Sequence[NoduleStack], out: Path, folds: int) -> Pooled:
    """Gather the folds and calibrate each on the others.

    Raises
    ------
    InputRefused
        When a fold is not there yet.
    """
    answers = _all_answers(stacks, out, folds)
    own = {fold: [j for j in judged if j.fold == fold] for fold, judged in answers.items()}
    made: list[Judged] = []
    intervals: list[Interval] = []
    strict: list[float] = []
    rated: list[list[float]] = []
    for fold, tested in own.items():
        others = [j for f, judged in own.items() if f != fold for j in judged]
        calibration, scales = calibrate_malignancy(others), rating_scales(others)
        rated += [[*ratings(j.logits, scales).values()] for j in tested]
        alone = calibrate_malignancy([j for j in answers[fold] if j.fold != fold])
        made += tested
        intervals += [calibration.interval(j.logits[MALIGNANCY], j.sizes[0], j.dense) for j in tested]
        strict += [alone.interval(j.logits[MALIGNANCY], j.sizes[0], j.dense).value for j in tested]
    middle, low, high = (np.array([getattr(p, name) for p in intervals]) for name in ("value", "low", "high"))
    return Pooled(tuple(made), middle, low, high, np.array(strict), np.array(rated))


def _all_answers(stacks: Sequence[NoduleStack], out: Path, folds: int) -> dict[int, list[Judged]]:
    """Per fold, what its network said of its test nodules and of those of the next fold."""
    by_name = {s.name: s for s in stacks}
    answers = {}
    for fold in range(folds):
        file = _judged_file(out, fold)
        if not file.exists():
            raise InputRefused(f"{out} lacks fold {fold}: run it first")
        answers[fold] = _read_judged(file, by_name, folds)
    return answers


def _read_judged(file: Path, by_name: dict[str, NoduleStack], folds: int) -> list[Judged]:
    with np.load(file, allow_pickle=False) as held:
        if "dense" not in held:
            raise InputRefused(f"{file} is of an earlier version: delete it; the fold is judged anew, not trained anew")
        columns = (held[name].tolist() for name in ("names", "dice", "sizes", "dense"))
        return [
            Judged(by_name[n], patient_fold(by_name[n].patient_id, folds), logits, d, tuple(sizes), dense)
            for logits, n, d, sizes, dense in zip(held["logits"], *columns, strict=True)
        ]


def calibrate_malignancy(judged: Sequence[Judged]) -> MalignancyCalibration:
    """Logistic regression of the main protocol's labels on opinion, size and calcium, undecided nodules left out."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    pairs = [(label, j) for j in judged if (label := label_of(j.stack, MAIN)) is not None]
    labels = np.array([label for label, _ in pairs])
    if len({*labels.tolist()}) < 2:
        return MalignancyCalibration(1.0, 0.0, 0.0)
    seen = [(j.logits[MALIGNANCY].mean(), np.log(max(j.sizes[0], LEAST_MM)), j.dense) for _, j in pairs]
    fit = LogisticRegression(C=10.0).fit(np.array(seen, dtype=float), labels)
    slope, size, dense = (float(v) for v in fit.coef_[0])
    return MalignancyCalibration(slope, size, float(fit.intercept_[0]), dense)


def rating_scales(judged: Sequence[Judged]) -> dict[str, RatingScale]:
    """What gives the answers the mean and spread of the readers' mean ratings; none where all answers are alike."""
    answers = [ratings(j.logits) for j in judged]
    scales = {}
    for name in ATTRIBUTES:
        said = np.array([a[name] for a in answers])
        meant = np.array([np.mean(j.stack.ratings[name]) for j in judged])
        if said.std() > 0:
            slope = float(meant.std() / said.std())
            scales[name] = RatingScale(round(slope, 4), round(float(meant.mean() - slope * said.mean()), 4))
    return scales


def label_of(stack: NoduleStack, protocol: str) -> bool | None:
    """Malignant or not by the readers' ratings; None where they are undecided or too few."""
    readers, figure = PROTOCOLS[protocol]
    ratings = stack.ratings["malignancy"]
    value = float(figure(ratings))
    return None if len(ratings) < readers or value == 3 else value > 3


def crossval_grader(
    stacks: Sequence[NoduleStack],
    out: Path,
    settings: Settings,
    only: Collection[int] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Run the folds that are not there yet and, when all are, evaluate them.

    Parameters
    ----------
    only : folds to run here; others may be run elsewhere into the same folder.
    workers : processes that share the folds and the processor.

    Returns
    -------
    What ``summary.json`` holds; empty while folds are missing.
    """
    folds = settings.split.folds
    wanted = range(folds) if only is None else only
    jobs = [(stacks, fold, out, settings) for fold in wanted if not _judged_file(out, fold).exists()]
    for fold in over_processes(_fold, jobs, workers):
        log.info("fold %d is done", fold)
    if not all(_judged_file(out, k).exists() for k in range(folds)):
        return {}
    pooled = pool(stacks, out, folds)
    replace_files(out, {name: csv_bytes(rows) for name, rows in tables(pooled).items()})
    summary = summarise(pooled)
    for protocol in PROTOCOLS:
        folder = out / ("grades" if protocol == MAIN else f"grades {protocol}".replace(",", "").replace(" ", "-"))
        tables_of = {name: csv_bytes(rows) for name, rows in _graded(pooled, protocol).items()}
        replace_files(folder, tables_of)
        metrics = run_grades(folder / "predictions.csv", folder / "labels.csv", folder, pictures=protocol == MAIN)
        summary["protocols"][protocol] = metrics
    replace_files(out, {"summary.json": (json.dumps(summary, indent=1) + "\n").encode()})
    return summary


def _graded(pooled: Pooled, protocol: str) -> dict[str, list[list[Any]]]:
    """Predictions and labels as `evaluate grades` reads them."""
    predictions: list[list[Any]] = [["id", "fold", "probability"]]
    labels: list[list[Any]] = [["id", "patient_id", "label", "diameter_mm", "type", "spiculation"]]
    for j, p in zip(pooled.judged, pooled.probability, strict=True):
        label = label_of(j.stack, protocol)
        if label is None:
            continue
        spiculated = int(np.mean(j.stack.ratings["spiculation"]) >= 3)
        predictions.append([j.stack.name, j.fold, f"{p:.6f}"])
        labels.append([j.stack.name, j.stack.patient_id, int(label), j.stack.diameter_mm, j.stack.type, spiculated])
    return {"predictions.csv": predictions, "labels.csv": labels}


def tables(pooled: Pooled) -> dict[str, list[list[Any]]]:
    """``nodules.csv``: one row per nodule, also those whose readers were undecided."""
    header = ["id", "patient_id", "fold", "malignancy", "low", "high", "readers_median", "readers_mean", "readers"]
    header += ["diameter_mm", "reference_diameter_mm", "volume_mm3", "reference_volume_mm3", "dice", "type"]
    rows: list[list[Any]] = [[*header, "reference_type", *ATTRIBUTES]]
    for i, j in enumerate(pooled.judged):
        ratings = j.stack.ratings["malignancy"]
        values = [pooled.probability[i], pooled.low[i], pooled.high[i]]
        row: list[Any] = [j.stack.name, j.stack.patient_id, j.fold, *(f"{v:.4f}" for v in values)]
        row += [float(np.median(ratings)), f"{np.mean(ratings):.2f}", len(ratings)]
        row += [*(f"{v:.2f}" for v in j.sizes), f"{j.dice:.4f}", TYPES[int(np.argmax(j.logits[TYPE]))], j.stack.type]
        rows.append([*row, *(f"{v:.2f}" for v in pooled.ratings[i])])
    return {"nodules.csv": rows}


def summarise(pooled: Pooled) -> dict[str, Any]:
    """All figures but those of `evaluate grades`."""
    judged, patients = pooled.judged, pooled.patients
    label = [label_of(j.stack, MAIN) for j in judged]
    kept = np.array([k is not None for k in label])
    labels = np.array([bool(k) for k in label])[kept]
    who = [p for p, k in zip(patients, kept, strict=True) if k]
    sizes = np.array([j.stack.diameter_mm for j in judged])[kept]
    slices = np.array([[len(j.stack.hu), j.stack.spacing_zyx_mm[0]] for j in judged])[kept]
    usable = sizes > 0
    matched = size_matched(labels[usable], pooled.probability[kept][usable], sizes[usable])
    return {
        "not_a_medical_device": NOT_A_MEDICAL_DEVICE,
        "nodules": len(judged),
        "patients": len(set(patients)),
        "not_in_the_middle_of_their_tile": sum(given_point(j.stack) != (_MIDDLE, _MIDDLE) for j in judged),
        "protocols": {},
        "strictly_calibrated": {
            "auc": float(roc_auc_score(labels, pooled.strict[kept])),
            "accuracy": float(((pooled.strict[kept] >= 0.5) == labels).mean()),
        },
        "size_matched_pairs": matched,
        "doubt": deferral(labels, pooled.probability[kept], (pooled.high - pooled.low)[kept]),
        "undecided": _undecided(pooled, ~kept),
        "attributes": {
            name: rating_kappa(pooled.ratings[:, i], [j.stack.ratings[name] for j in judged])
            for i, name in enumerate(ATTRIBUTES)
        },
        "type_agreement": float(np.mean([TYPES[int(np.argmax(j.logits[TYPE]))] == j.stack.type for j in judged])),
        "outlines": outlines(judged),
        "size_error": {k: vars_of(v) for k, v in size_errors(judged).items()},
        "given_away_by_missing_slices": added_by(
            slices[usable], sizes[usable], labels[usable], [w for w, u in zip(who, usable, strict=True) if u]
        ),
    }


def _undecided(pooled: Pooled, cases: NDArray[np.bool_]) -> dict[str, Any]:
    p = pooled.probability[cases]
    if not len(p):
        return {"n": 0, "mean": None, "between_0.2_and_0.8": None}
    return {
        "n": int(cases.sum()),
        "mean": float(p.mean()),
        "between_0.2_and_0.8": float(((p > 0.2) & (p < 0.8)).mean()),
    }


def outlines(judged: Sequence[Judged]) -> dict[str, Any]:
    """Overlap and size of the outlines against the consensus, and of each reader against the others."""
    patients = [j.stack.patient_id for j in judged]
    readers = [
        (j.stack.patient_id, r)
        for j in judged
        for r in readers_against_the_others(j.stack.readers, j.stack.n_readers, CONSENSUS)
    ]
    d, reference_d, v, reference_v = np.array([j.sizes for j in judged]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        volume = np.abs(v / reference_v - 1)
    return {
        "dice": interval_of_mean(np.array([j.dice for j in judged]), patients),
        "dice_of_readers": interval_of_mean(np.array([r["dice"] for _, r in readers]), [p for p, _ in readers]),
        "median_volume_error": float(np.median(volume[np.isfinite(volume)])),
        "median_volume_error_of_readers": float(np.median([abs(np.expm1(r["log_volume"])) for _, r in readers])),
        "median_diameter_error_mm": float(np.median(np.abs(d - reference_d))),
        "missed": int((v == 0).sum()),
    }


def size_errors(judged: Sequence[Judged]) -> dict[str, SizeError]:
    """Bands that hold 95 % of log(reference / measured) for small and large nodules alike.

    Raises
    ------
    InputRefused
        When too few nodules were outlined to tell.
    """
    d, reference_d, v, reference_v = np.array([j.sizes for j in judged]).T
    good = (d > 0) & (reference_d > 0)
    if len({*d[good].tolist()}) < 2:
        raise InputRefused(f"of {len(judged)} nodules {good.sum()} were outlined: train longer, or on more nodules")
    pairs = {"diameter": np.log(reference_d[good] / d[good]), "volume": np.log(reference_v[good] / v[good])}
    return {name: _fit_band(error, d[good]) for name, error in pairs.items()}


def _fit_band(error: NDArray[np.float64], size_mm: NDArray[np.float64]) -> SizeError:
    """Half-width from the small and the large half of the nodules, the shift from all of them."""
    shift = float(np.median(error))
    off = np.abs(error - shift)
    small = size_mm <= np.median(size_mm)
    half_small, half_large = (float(np.quantile(off[part], 0.95)) for part in (small, ~small))
    s, t = float(np.median(size_mm[small])), float(np.median(size_mm[~small]))
    per_mm2 = max(0.0, (half_small**2 - half_large**2) / (1 / s**2 - 1 / t**2))
    base2 = max(half_large**2 - per_mm2 / t**2, 0.0025)
    band = SizeError(shift, base2**0.5, per_mm2**0.5)
    # what the two halves leave: one factor that makes 95 % of all lie inside
    half = np.sqrt(band.base**2 + (band.per_mm / size_mm) ** 2)
    factor = float(np.quantile(off / half, 0.95))
    return SizeError(shift, band.base * factor, band.per_mm * factor)


def vars_of(error: SizeError) -> dict[str, float]:
    """A size error as the manifest holds it."""
    return {"shift": round(error.shift, 4), "base": round(error.base, 4), "per_mm": round(error.per_mm, 4)}
