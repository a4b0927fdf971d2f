"""A folder of labelled nodule stacks as `noduscope.data.crops` reads it, with nodules of known shape and HU."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

TILE = 96
SLOPE, INTERCEPT = 4.0, -1000.0
LUNG_HU, NODULE_HU = -860, 20
COLUMNS = (
    *("nodule", "patient_id", "series_uid", "n_slices", "pixel_spacing_mm", "slice_spacing_mm", "slice_thickness_mm"),
    *("n_readers", "consensus_diameter_mm", "link_iou", "subtlety", "internalStructure", "calcification"),
    *("sphericity", "margin", "lobulation", "spiculation", "texture", "malignancy"),
)


@dataclass(frozen=True)
class Ball:
    """One nodule: a ball, as four readers outlined it on every slice that cuts it."""

    patient_id: str
    diameter_mm: float = 12.0
    pixel_mm: float = 0.75
    slice_mm: float = 2.0
    texture: str = "5|5|5|4"
    link_iou: float = 0.95

    def slices(self) -> np.ndarray:
        """Radius in voxels of the cut through each slice; slices lie evenly about the centre."""
        half = int((self.diameter_mm / 2 - 1e-6) // self.slice_mm)
        z = np.arange(-half, half + 1) * self.slice_mm
        return np.sqrt((self.diameter_mm / 2) ** 2 - z**2) / self.pixel_mm

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """8-bit values and readers' bits, ``(n * 96, 96)``: three readers agree, the fourth drew 0.5 mm less."""
        y, x = np.ogrid[:TILE, :TILE]
        away = np.hypot(y - 47.5, x - 47.5)
        values, bits = [], []
        for radius in self.slices():
            inside = away <= radius
            values.append(np.where(inside, (NODULE_HU - INTERCEPT) / SLOPE, (LUNG_HU - INTERCEPT) / SLOPE))
            bits.append(np.where(inside, 0b0111, 0) | np.where(away <= radius - 0.5 / self.pixel_mm, 0b1000, 0))
        return np.concatenate(values).astype(np.uint8), np.concatenate(bits).astype(np.uint8)


def write_stacks(folder: Path, balls: Sequence[Ball]) -> Path:
    """Write the folder; nodules are named ``<patient>_00`` and so on."""
    (folder / "stacks").mkdir(parents=True)
    rows, maps = [], []
    for number, ball in enumerate(balls):
        name = f"{ball.patient_id}_{number:02d}"
        for kind, image in zip(("image", "readers"), ball.images(), strict=True):
            # a quality above 100 is OpenCV's way to ask for lossless
            done = cv2.imwrite(str(folder / "stacks" / f"{name}_{kind}.webp"), image, [cv2.IMWRITE_WEBP_QUALITY, 101])
            if not done:
                raise OSError(f"cannot write {name}")
        n = len(ball.slices())
        single = "" if n == 1 else str(ball.slice_mm)
        ratings = ("4|4|5|4", "1|1|1|1", "6|6|6|6", "5|5|5|5", "5|5|4|5", "1|1|1|1", "1|1|2|1", ball.texture, "2|3|3|2")
        values = (name, ball.patient_id, f"1.2.{number}", n, ball.pixel_mm, single, ball.slice_mm)
        rows.append((*values, 4, ball.diameter_mm, ball.link_iou, *ratings))
        maps += [(name, k, SLOPE, INTERCEPT, "fit") for k in range(n)]
    with (folder / "nodules.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    with gzip.open(folder / "slices.csv.gz", "wt", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("nodule", "slice", "hu_slope", "hu_intercept", "hu_source"), *maps])
    return folder
