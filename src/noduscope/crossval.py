"""Cross-validation of the detector over LUNA16's official folds: out-of-fold candidates and the CPM of all of them.

::

    OUT/
      fold-K/            the training run of fold K, and candidates.csv of its test scans
      candidates.csv     of all folds, LUNA16 columns
      annotations.csv annotations_excluded.csv seriesuids.csv    the reference of the same scans
      metrics.json …     what `noduscope evaluate detections` writes

Each scan is searched by the network that has seen nothing of its patient. Scans without nodules are in: they
carry false positives like any other.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noduscope.data.cached import cached_hosts, read_scans, split_fold, with_fold
from noduscope.data.hosts import HostScan
from noduscope.data.known import ANNOTATIONS, EXCLUDED
from noduscope.data.luna16 import TreeScan
from noduscope.data.prepare import rows_of
from noduscope.errors import SettingsError
from noduscope.evaluate.detections import run_detections
from noduscope.evaluate.froc import FrocSettings
from noduscope.files import csv_bytes, replace_files
from noduscope.finish import calibrate
from noduscope.model.bundle import Calibration
from noduscope.model.detector import build_detector
from noduscope.model.engine import Engine, find_marks
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings
from noduscope.train import check_run, fit_detector, fold_data

log = logging.getLogger(__name__)

CANDIDATES, SERIES = "candidates.csv", "seriesuids.csv"
_COLUMNS = ("seriesuid", "coordX", "coordY", "coordZ", "probability")


def crossval_detector(
    cache: Path, folds: Sequence[int], out: Path, settings: Settings, froc: FrocSettings | None = None
) -> dict[str, Any]:
    """Train and test the folds one after another, then evaluate all their candidates together.

    A fold that was stopped goes on, one that is done is not done again.

    Parameters
    ----------
    cache : a folder that `data.prepare` has filled.
    folds : which of the ten.

    Returns
    -------
    dict
        What ``metrics.json`` holds.

    Raises
    ------
    InputRefused
        When the cache lacks what a fold needs.
    SettingsError
        For no fold, one that is none or twice, or when `out` holds folds of other settings.
    """
    if not folds or len(set(folds)) != len(folds):
        raise SettingsError(f"give each fold once; got {list(folds)}")
    plans = {fold: with_fold(settings, fold) for fold in folds}
    scans = read_scans(cache)
    splits = {}
    for fold, chosen in plans.items():  # before hours of training, not after
        splits[fold] = split_fold(scans, chosen.split)
        check_run(out / f"fold-{fold}", chosen)
    rows: list[list[str]] = []
    tested: list[TreeScan] = []
    for fold, chosen in plans.items():
        log.info("fold %d: %d scans for test", fold, len(splits[fold].test))
        rows += _fold_candidates(cache, splits[fold].test, out / f"fold-{fold}", chosen)
        tested += splits[fold].test
    return _evaluate(cache, tested, rows, out, froc or FrocSettings())


def _fold_candidates(cache: Path, test: Sequence[TreeScan], run: Path, settings: Settings) -> list[list[str]]:
    """Candidates of a fold's test scans as rows; trains and searches where that was not done before."""
    file, series = run / CANDIDATES, run / SERIES
    listed = csv_bytes([("seriesuid",), *((s.series_uid,) for s in test)])
    if not (file.exists() and series.exists() and series.read_bytes() == listed):
        data = fold_data(cache, settings)
        fit_detector(data, run, settings)
        model = build_detector(settings.detector)
        model.load_weights(run / "best.weights.h5")
        engine = Engine(to_openvino(model))
        options = settings.preprocess, settings.detect
        marks = [find_marks(engine, v.hu, v.lungs, *options) for v in data.validation]
        # each fold's scores are put on one scale, so that one threshold means the same in all of them
        calibration = calibrate(data.validation, marks)
        rows = [r for h in cached_hosts(cache, test, settings) for r in _candidates(engine, h, calibration, settings)]
        replace_files(run, {SERIES: listed, CANDIDATES: csv_bytes([_COLUMNS, *rows])})
    with file.open(newline="", encoding="utf-8") as held:
        return list(csv.reader(held))[1:]


def _candidates(engine: Engine, host: HostScan, calibration: Calibration, settings: Settings) -> list[list[str]]:
    marks = find_marks(engine, host.hu, host.lungs, settings.preprocess, settings.detect)
    places = host.geometry.to_world(marks.centre_zyx)
    return [
        [host.name, *(f"{v:.3f}" for v in place), f"{calibration.probability(float(score)):.6f}"]
        for place, score in zip(places, marks.score, strict=True)
    ]


def _evaluate(
    cache: Path, tested: Sequence[TreeScan], rows: Sequence[Sequence[str]], out: Path, froc: FrocSettings
) -> dict[str, Any]:
    """Write the joint tables and evaluate them by LUNA16's rules."""
    uids = [s.series_uid for s in tested]
    files = {CANDIDATES: csv_bytes([_COLUMNS, *rows]), SERIES: csv_bytes([("seriesuid",), *((u,) for u in uids)])}
    files |= {name: rows_of(cache / name, set(uids)) for name in (ANNOTATIONS, EXCLUDED)}
    replace_files(out, files)
    return run_detections(out / CANDIDATES, out / ANNOTATIONS, out / EXCLUDED, out / SERIES, out, froc)
