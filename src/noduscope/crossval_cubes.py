"""The grader on NoduleMNIST3D by its official split: trained on train, calibrated on val, measured once on test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noduscope.data.nodulemnist import CubePart, labelled_cubes, read_nodulemnist
from noduscope.evaluate.grades import run_grades
from noduscope.files import csv_bytes, replace_files
from noduscope.finish import platt_scaling
from noduscope.heads import MALIGNANCY
from noduscope.model.grader_engine import GraderEngine
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings
from noduscope.train_grader import train_grader
from noduscope.views import axial_view

PUBLISHED = {
    "ResNet-18 + 2.5D": (0.838, 0.835),
    "ResNet-18 + 3D": (0.863, 0.844),
    "ResNet-18 + ACS": (0.873, 0.847),
    "ResNet-50 + 2.5D": (0.835, 0.848),
    "ResNet-50 + 3D": (0.875, 0.847),
    "ResNet-50 + ACS": (0.886, 0.841),
    "auto-sklearn": (0.914, 0.874),
    "AutoKeras": (0.844, 0.834),
}
"""AUC and accuracy of the MedMNIST v2 paper's table (Yang et al., Sci Data 2023). Of these rows only the AUC of
ResNet-50 + 3D has been confirmed against a second source here."""

_PLANES_MM = (-2.0, -1.0, 0.0, 1.0, 2.0)


def crossval_cubes(file: Path, out: Path, settings: Settings) -> dict[str, Any]:
    """Train on the file's own split and evaluate; what `evaluate grades` says, with the published rows beside it.

    Raises
    ------
    InputRefused
        When the file is not NoduleMNIST3D.
    """
    parts = read_nodulemnist(file)
    model = train_grader(labelled_cubes(parts["train"], settings.grader), (), out / "run", settings)
    engine = GraderEngine(to_openvino(model), settings.grader)
    logits = {name: cube_logits(engine, parts[name]) for name in ("val", "test")}
    labels_val = parts["val"].labels
    slope, intercept = platt_scaling(logits["val"][:, None], labels_val, np.ones(len(labels_val)))
    predictions: list[list[Any]] = [["id", "probability", "split"]]
    labels: list[list[Any]] = [["id", "label"]]
    for name, split in (("val", "validation"), ("test", "test")):
        probability = 1 / (1 + np.exp(-(slope * logits[name] + intercept)))
        predictions += [[f"{name}-{i}", f"{p:.6f}", split] for i, p in enumerate(probability)]
        labels += [[f"{name}-{i}", int(v)] for i, v in enumerate(parts[name].labels)]
    replace_files(out, {"predictions.csv": csv_bytes(predictions), "labels.csv": csv_bytes(labels)})
    metrics = run_grades(out / "predictions.csv", out / "labels.csv", out)
    published = {name: {"auc": auc, "accuracy": accuracy} for name, (auc, accuracy) in PUBLISHED.items()}
    metrics |= {"published": published}
    replace_files(out, {"summary.json": (json.dumps(metrics, indent=1) + "\n").encode()})
    return metrics


def cube_logits(engine: GraderEngine, part: CubePart) -> NDArray[np.float64]:
    """Mean opinion on planes about the middle of each cube, ``(n,)``."""
    middle = (part.hu.shape[1] - 1) / 2
    spacing, settings = (1.0, 1.0, 1.0), engine.settings
    made = []
    for cube in part.hu:
        places = [(middle + offset, middle, middle) for offset in _PLANES_MM]
        planes = [axial_view(cube, spacing, p, settings, alone=True) for p in places]
        made.append(float(engine.judged(planes)[MALIGNANCY].mean()))
    return np.array(made)
