"""Outlines against those of the LIDC's radiologists."""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict

import cv2
import numpy as np

from noduscope.measure import axial_axes_mm, measure_nodule
from noduscope.scan import Geometry, Scan, ScanSource

KEPT_FOR_TESTING_THE_DETECTOR = {"LIDC-IDRI-0001", "LIDC-IDRI-0314"}
EVERY = 9


def _nodules(folder):
    """Every ninth nodule of more than one slice: row, scan of its slices, outline that half of the readers share."""
    hu_of = defaultdict(list)
    with gzip.open(folder / "slices.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            hu_of[row["nodule"]].append((float(row["hu_slope"]), float(row["hu_intercept"])))
    with (folder / "nodules.csv").open() as file:
        rows = [r for r in csv.DictReader(file) if r["slice_spacing_mm"] and float(r["consensus_diameter_mm"]) > 0]
    for row in [r for r in rows if r["patient_id"] not in KEPT_FOR_TESTING_THE_DETECTOR][::EVERY]:
        name = row["nodule"]
        tiles, readers = (
            cv2.imread(str(folder / "stacks" / f"{name}_{kind}.webp"), cv2.IMREAD_GRAYSCALE).reshape(-1, 96, 96)
            for kind in ("image", "readers")
        )
        slope, intercept = np.array(hu_of[name]).T[:, :, None, None]
        hu = np.clip(tiles * slope + intercept, -1024, 3071).astype(np.int16)
        votes = sum((readers >> j) & 1 for j in range(4))
        pixel, gap = float(row["pixel_spacing_mm"]), float(row["slice_spacing_mm"])
        yield (
            Scan(hu, Geometry(hu.shape, (pixel, pixel, gap)), ScanSource(name, "png")),
            votes * 2 >= int(row["n_readers"]),
        )


def test_outlines_agree_with_radiologists(shared_data):
    rng = np.random.default_rng(5)
    dice, error, covered = [], [], []
    for scan, truth in _nodules(shared_data / "lidc_nodules"):
        size = (6 / np.pi * truth.sum() * scan.geometry.voxel_volume_mm3) ** (1 / 3)
        off = np.append(rng.normal(0, 0.7, 2), 0.0)
        point = tuple(scan.geometry.to_world(np.argwhere(truth).mean(axis=0)) + off)
        found = measure_nodule(scan, point, size * float(np.exp(rng.normal(0, 0.2))))
        if found is None:
            dice.append(0.0)
            continue
        mask = np.zeros_like(truth)
        mask[found.mask.box] = found.mask.mask
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        reference = sum(axial_axes_mm(truth, scan.geometry.spacing_xyz_mm[0])) / 2
        error.append(abs(found.diameter_mm.mean - reference))
        covered.append(found.diameter_mm.low <= reference <= found.diameter_mm.high)
    assert len(dice) > 100
    assert np.median(dice) > 0.80
    assert np.percentile(dice, 10) > 0.60
    assert np.median(error) < 0.9
    assert np.mean(covered) > 0.90
