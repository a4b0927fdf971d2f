"""The part of a scan that the detector sees: the lungs with a margin, on the networks' own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noduscope.lungs import Lungs
from noduscope.preprocess import resample
from noduscope.scan import Geometry, HuVolume, Scan

MARGIN_MM = 12.0
"""Kept around the lungs, so that a nodule on the pleura has its surroundings."""


@dataclass(frozen=True, slots=True, eq=False)
class LungRegion:
    """An isotropic block around the lungs.

    Parameters
    ----------
    hu : int16 (z, y, x), canonical orientation.
    lungs : uint8 (z, y, x): 0 outside, 1 left, 2 right.
    geometry : where it lies.
    """

    hu: HuVolume
    lungs: NDArray[np.uint8]
    geometry: Geometry


def lung_region(scan: Scan, lungs: Lungs, spacing_mm: float) -> LungRegion:
    """Crop a scan (any orientation) to its lungs and resample it to isotropic voxels."""
    canonical = scan.canonical()
    part = canonical.cropped(lungs.bounding_box(canonical.geometry, MARGIN_MM))
    hu, geometry = resample(part.hu, part.geometry, spacing_mm)
    return LungRegion(hu, lungs.on(geometry), geometry)
