"""A detector without training: it answers to what is denser than its surroundings. Small, known, and quick to build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from noduscope.boxes import CHANNELS, HEAT, SIZE, STRIDE
from noduscope.model.bundle import Calibration, write_bundle
from noduscope.settings import Settings

INNER, OUTER = 4, 12
GAIN, LEVEL = 60.0, 0.30
"""Logit per unit of contrast, and the contrast (HU range 0…1) of probability one half."""


def blob_network(gain: float = GAIN) -> ov.Model:
    """Heat is the mean of a cell over the mean of the 12 voxels around it; size 10 mm, no offset."""
    kernel = np.zeros((CHANNELS, 1, OUTER, OUTER, OUTER), np.float32)
    edge = (OUTER - INNER) // 2
    middle = (slice(edge, edge + INNER),) * 3
    outside = np.ones((OUTER,) * 3, bool)
    outside[middle] = False
    kernel[HEAT, 0][middle] = gain / INNER**3
    kernel[HEAT, 0][outside] = -gain / outside.sum()
    bias = np.zeros((1, CHANNELS, 1, 1, 1), np.float32)
    bias[0, HEAT], bias[0, SIZE] = -abs(gain) * LEVEL, 0.0
    image = ops.parameter([-1, -1, -1, -1, 1], np.float32, name="ct")
    x = ops.transpose(image, np.array([0, 4, 1, 2, 3]))
    x = ops.convolution(x, kernel, [STRIDE] * 3, [edge] * 3, [edge] * 3, [1] * 3)
    x = ops.transpose(ops.add(x, bias), np.array([0, 2, 3, 4, 1]))
    return ov.Model([x], [image], "blobs")


def write_blob_bundle(path: Path, version: str = "0.1", threshold: float = 0.5, gain: float = GAIN) -> Path:
    """A bundle around `blob_network`, as `write_bundle` makes it."""

    def fill(folder: Path) -> None:
        ov.save_model(blob_network(gain), folder / "model.xml", compress_to_fp16=False)
        (folder / "card.md").write_text("# blobs\n\nA test's detector.\n", encoding="utf-8")

    content = {"settings": Settings(), "calibration": Calibration(1.0, 0.0), "threshold": threshold}
    write_bundle(path, (path.name.rpartition("-")[0], version), content, fill)
    return path
