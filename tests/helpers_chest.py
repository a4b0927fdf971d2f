"""A small chest of ellipsoids with two nodules: quick to make, read and search, and known in every voxel."""

from __future__ import annotations

import numpy as np

from noduscope.phantom import Phantom, PhantomSettings, PlantedNodule
from noduscope.scan import Geometry, Scan, ScanSource

GEOMETRY = Geometry((48, 76, 108), (2.5, 2.5, 3.0), (-133.75, -93.75, -370.5))
MIDDLE = (0.0, 0.0, -300.0)
LUNGS = {1: (50.0, 0.0, -300.0), 2: (-50.0, 0.0, -300.0)}
RADII = (36.0, 52.0, 62.0)
NODULES = (
    PlantedNodule((52.0, 8.0, -290.0), 13.0),
    PlantedNodule((-48.0, -14.0, -318.0), 10.0),
)
"""The first in the left lung, the second in the right one."""


def ellipsoid(centre, radii, geometry: Geometry = GEOMETRY) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(n) for n in geometry.shape_zyx)]
    axes = [o + s * g for o, s, g in zip(geometry.origin_xyz_mm, geometry.spacing_xyz_mm, (x, y, z), strict=True)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) < 1


def make_chest(seed: int = 0) -> Phantom:
    """Body, two lungs, a trachea, spine, the nodules, air around, a little noise."""
    hu = np.full(GEOMETRY.shape_zyx, -1000.0, np.float32)
    hu[ellipsoid(MIDDLE, (125.0, 80.0, 900.0))] = 40.0
    lungs = np.zeros(hu.shape, np.uint8)
    for label, centre in LUNGS.items():
        lungs[ellipsoid(centre, RADII)] = label
    hu[lungs > 0] = -850.0
    hu[ellipsoid((0.0, 62.0, -300.0), (14.0, 12.0, 900.0))] = 300.0
    hu[ellipsoid((0.0, 15.0, -235.0), (8.0, 8.0, 60.0))] = -990.0
    for nodule in NODULES:
        hu[ellipsoid(nodule.position_xyz_mm, (nodule.diameter_mm / 2,) * 3)] = 35.0
    hu += np.random.default_rng(seed).normal(0, 15, hu.shape).astype(np.float32)
    scan = Scan(np.rint(np.clip(hu, -1024, 3071)).astype(np.int16), GEOMETRY, ScanSource(f"1.2.826.{seed}", "phantom"))
    return Phantom(scan, NODULES, lungs, PhantomSettings(seed=seed))


def without_lungs() -> Scan:
    """A block of tissue in air."""
    hu = np.full((40, 60, 60), 40, np.int16)
    hu[:, :6] = hu[:, -6:] = hu[:, :, :6] = hu[:, :, -6:] = -1000
    return Scan(hu, Geometry(hu.shape, (2.5, 2.5, 2.5)), ScanSource("1.2.9", "phantom"))
