"""A small true LUNA16 tree: real LIDC scans as .mhd and .raw under subset folders, beside rows of the official tables.

The scans are thinned and coarsened, so that the whole road over them is quick; and as there are three of them
only, each is there twice, as its even and its odd slices, so that every side of a fold has a nodule.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from noduscope.io.read import read_scan
from noduscope.scan import Scan

ODD = ".2"
"""Appended to the series uid of the odd slices."""
SUBSETS = {"LIDC-IDRI-0001": (0, 1), "LIDC-IDRI-0002": (0, 2), "LIDC-IDRI-0314": (1, 2)}
"""Subset of the even slices, and of the odd ones."""
SLICE_MM = 4.0


def write_luna16(folder: Path, shared: Path) -> Path:
    """Write the tree."""
    uids = set()
    for name, subsets in SUBSETS.items():
        scan = read_scan(shared / "scans" / name)
        uid = scan.source.series_uid
        uids.add(uid)
        for first, subset in enumerate(subsets):
            path = folder / f"subset{subset}" / f"{uid}{ODD if first else ''}.mhd"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_thinned(scan, first, path)
    for table in ("annotations.csv", "annotations_excluded.csv"):
        with (shared / "luna16" / table).open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        own = [row for row in rows if row[0] in uids]
        own += [[row[0] + ODD, *row[1:]] for row in own]
        with (folder / table).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *own])
    return folder


def write_thinned(scan: Scan, first: int, path: Path) -> None:
    """Every n-th slice from `first` on and every second pixel, as LUNA16 writes them."""
    step = max(2, round(SLICE_MM / scan.geometry.spacing_xyz_mm[2]))
    x, y, z = scan.geometry.spacing_xyz_mm
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.hu[first::step, ::2, ::2]))
    image.SetSpacing((2 * x, 2 * y, step * z))
    image.SetOrigin(tuple(scan.geometry.to_world((first, 0, 0)).tolist()))
    image.SetDirection(scan.geometry.direction)
    sitk.WriteImage(image, str(path))
