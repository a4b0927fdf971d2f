"""Hard negatives: the places in the training scans where a trained detector is wrong.

A second round of training samples them more often (`data.batches`, kind ``host``). Marks in or near a
known lesion are left out. Scans that were not read for all nodules may hold unlabelled ones: look at the
list before training on it, and strike those out (delete the row).
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from noduscope.errors import InputRefused
from noduscope.files import replace_text
from noduscope.model.detector import build_detector
from noduscope.model.engine import Engine, find_marks
from noduscope.model.ir import to_openvino
from noduscope.settings import load_settings
from noduscope.train import crop_hosts

COLUMNS = ("scan", "z", "y", "x", "logit", "diameter_mm", "coordX", "coordY", "coordZ")


def mine_hard_negatives(run: Path, data: Path, cache: Path, per_scan: int = 40) -> Path:
    """Write ``hard_negatives.csv`` into the cache: a run's strongest false marks in each training scan.

    Returns the file.

    Raises
    ------
    InputRefused
        When the run holds no weights.
    """
    weights = run / "best.weights.h5"
    if not weights.exists():
        raise InputRefused(f"{run} holds no {weights.name}: train first")
    settings = load_settings(run / "settings.toml")
    model = build_detector(settings.detector)
    model.load_weights(weights)
    engine = Engine(to_openvino(model))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for host in crop_hosts(data, cache, settings):
        marks = find_marks(engine, host.hu, host.lungs, settings.preprocess, settings.detect)
        places = host.geometry.to_world(marks.centre_zyx)
        kept = 0
        for centre, logit, size, place in zip(marks.centre_zyx, marks.score, marks.diameter_mm, places, strict=True):
            near = any(np.linalg.norm(centre - k.centre_zyx) < k.diameter_mm / 2 + 8 for k in host.lesions)
            if near or kept == per_scan:
                continue
            kept += 1
            row = [*(f"{v:.1f}" for v in centre), f"{logit:.3f}", f"{size:.1f}", *(f"{v:.1f}" for v in place)]
            writer.writerow([host.name, *row])
    file = cache / "hard_negatives.csv"
    replace_text(file, text.getvalue())
    return file
