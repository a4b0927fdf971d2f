"""A synthetic chest CT with nodules of known place, size and type.

It serves where no patient's scan may or can be used: the demo, the documentation, tests of the whole
road from file to report. It is shaped like a chest, so that a detector trained on patients works on
it, but it proves nothing about patients.

Examples
--------
>>> phantom = make_phantom(PhantomSettings(seed=3, spacing_xyz_mm=(4.0, 4.0, 5.0), nodules=()))
>>> phantom.scan.geometry.shape_zyx
(56, 70, 85)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import SettingsError
from noduscope.phantom_anatomy import Anatomy, build_anatomy, field_of_view
from noduscope.phantom_fields import Field, grid_axes, share_inside
from noduscope.phantom_nodules import NodulePlace, NoduleShape, NoduleType, PlantedNodule, place_nodules, stamp_nodule
from noduscope.phantom_trees import Plumbing, Tubes, build_plumbing, fissure_distances, paint_tubes
from noduscope.phantom_write import write_dicom, write_mhd, write_nifti
from noduscope.scan import Geometry, HuVolume, Scan, ScanSource, Triple

__all__ = [
    "NodulePlace",
    "NoduleShape",
    "NoduleType",
    "Phantom",
    "PhantomSettings",
    "PlantedNodule",
    "make_phantom",
    "plan_nodules",
    "write_dicom",
    "write_mhd",
    "write_nifti",
]

AIR_HU = -1000.0
LUNG_HU = -862.0
BLOOD_HU = 40.0
SKIN_HU = 15.0


@dataclass(frozen=True, slots=True)
class PhantomSettings:
    """What chest to make.

    Raises
    ------
    SettingsError
        For a spacing outside 0.4 to 5 mm or negative noise or blur.
    """

    seed: int = 0
    """Seed of vessels, texture, noise and of the default nodules' places."""
    spacing_xyz_mm: Triple = (0.85, 0.85, 1.25)
    """Voxel spacing, mm."""
    noise_hu: float = 20.0
    """Standard deviation of the noise, HU."""
    noise_seed: int | None = None
    """Seed of the noise alone, so that one chest can be scanned twice; None follows `seed`."""
    blur_mm: float = 0.55
    """Standard deviation of the scanner's point spread, mm."""
    nodules: tuple[PlantedNodule, ...] | None = None
    """What to plant; None plants nine that cover types, shapes, places and both lungs."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        if len(self.spacing_xyz_mm) != 3 or not all(0.4 <= s <= 5.0 for s in self.spacing_xyz_mm):
            raise SettingsError(f"the phantom's spacing must be 0.4 to 5 mm on each axis; got {self.spacing_xyz_mm}")
        if self.noise_hu < 0 or self.blur_mm < 0 or self.seed < 0:
            raise SettingsError("the phantom's seed, noise and blur must not be negative")


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A synthetic scan and what is true about it.

    Parameters
    ----------
    scan : int16 HU with reader ``phantom``; axes run along LPS.
    nodules : what was planted, in planting order.
    lungs : uint8 ``(z, y, x)``: 0 outside, 1 left, 2 right lung; vessels and nodules count as lung.
    settings : what it was made with.
    """

    scan: Scan
    nodules: tuple[PlantedNodule, ...]
    lungs: NDArray[np.uint8]
    settings: PhantomSettings


_NODULE_KINDS: tuple[tuple[NoduleType, float], ...] = (("solid", 0.5), ("part-solid", 0.25), ("ground-glass", 0.25))
_CROWDED_APART_MM = 20.0


def plan_nodules(seed: int, rounds: int) -> tuple[PlantedNodule, ...]:
    """Many nodules for one chest: the default places drawn `rounds` times, with types and sizes by chance.

    Parameters
    ----------
    seed : of the chest that `PhantomSettings` is to make with them.
    rounds : each adds up to nine; one nearer than 20 mm to an earlier one is left out.
    """
    anatomy = build_anatomy()
    plumbing = build_plumbing(anatomy, np.random.default_rng([seed, 0]))
    rng = np.random.default_rng([seed, 4])
    planned: list[PlantedNodule] = []
    for _ in range(rounds):
        for nodule in place_nodules(anatomy, plumbing, rng):
            taken = np.array([n.position_xyz_mm for n in planned]).reshape(-1, 3)
            gaps = np.linalg.norm(taken - nodule.position_xyz_mm, axis=1)
            kind = _NODULE_KINDS[int(rng.choice(len(_NODULE_KINDS), p=[share for _, share in _NODULE_KINDS]))][0]
            size = round(nodule.diameter_mm * float(rng.uniform(0.7, 1.1)), 2)
            if gaps.min(initial=np.inf) >= _CROWDED_APART_MM:
                planned.append(replace(nodule, type=kind, diameter_mm=size))
    return tuple(planned)


def make_phantom(settings: PhantomSettings | None = None) -> Phantom:
    """Make a chest; the same settings give the same bytes.

    Raises
    ------
    SettingsError
        For an explicit nodule that lies outside the lungs.
    """
    settings = settings or PhantomSettings()
    geometry = field_of_view(settings.spacing_xyz_mm)
    # separate streams: other nodules, noise or spacing leave the rest of the chest as it is
    trees, texture, places, shapes = (np.random.default_rng([settings.seed, k]) for k in range(4))
    anatomy = build_anatomy()
    plumbing = build_plumbing(anatomy, trees)
    nodules = settings.nodules
    if nodules is None:
        nodules = place_nodules(anatomy, plumbing, places)
    hu, lungs = _compose(geometry, anatomy, plumbing, texture)
    for nodule, seed in zip(nodules, shapes.integers(2**32, size=len(nodules)), strict=True):
        stamp_nodule(nodule, geometry, anatomy, np.random.default_rng(seed)).apply(hu, nodule.type)
    noise_seed = settings.seed if settings.noise_seed is None else settings.noise_seed
    made = _scanned(hu, geometry, settings, np.random.default_rng([noise_seed, 9]))
    name = hashlib.sha256(repr(settings).encode()).hexdigest()
    source = ScanSource(f"2.25.{int(name[:32], 16)}", "phantom", description=(("Kernel", "soft, simulated"),))
    return Phantom(Scan(made, geometry, source), nodules, lungs, settings)


def _compose(
    geometry: Geometry, anatomy: Anatomy, plumbing: Plumbing, rng: np.random.Generator
) -> tuple[Field, NDArray[np.uint8]]:
    """Ideal HU without blur and noise, and the lung labels."""
    width = float(np.mean(geometry.spacing_xyz_mm[:2]))
    soften = max(1.0, width)
    vessels, walls, lumens = (np.zeros(geometry.shape_zyx, np.uint8) for _ in range(3))
    paint_tubes(vessels, geometry, plumbing.vessels, soften)
    # a small bronchus that strays out of the lung would be a hole in the heart
    kept = anatomy.lung_distance(plumbing.airways.points) < 2.0 + 2.0 * plumbing.airways.radii
    airways = Tubes(plumbing.airways.points[kept], plumbing.airways.radii[kept]).joined(plumbing.trachea)
    paint_tubes(walls, geometry, Tubes(airways.points, 1.08 * airways.radii + 0.35), soften)
    paint_tubes(lumens, geometry, airways, soften)
    parenchyma = _parenchyma(anatomy, rng)
    x, y, z = grid_axes(geometry)
    left = np.where(x[0] > 0, np.uint8(1), np.uint8(2))
    hu = np.empty(geometry.shape_zyx, np.float32)
    lungs = np.zeros(geometry.shape_zyx, np.uint8)
    empty = _table(x[0], y[0], width)
    fields = (anatomy.body, anatomy.tissue_hu, anatomy.bone, anatomy.lungs, parenchyma)
    for k in range(geometry.shape_zyx[0]):
        body, tissue, bone, pleura, lung_hu = (anatomy.on_slice(f, geometry, k) for f in fields)
        slab = hu[k]
        slab[:] = empty
        slab += (tissue - slab) * share_inside(body, width)
        slab += (SKIN_HU - slab) * (share_inside(body, width) - share_inside(body + 2.0, width))
        bony = share_inside(bone, width)
        slab += (950.0 - slab) * bony
        slab += (210.0 - slab) * share_inside(bone + 1.5, 1.2)
        lung = share_inside(pleura, width)
        for gap in fissure_distances(x[0], y[0], z[k]):
            lung_hu += 75.0 * np.clip(1 - np.abs(gap) / np.float32(1.1), 0, 1)
        slab += (lung_hu - slab) * lung
        share = np.float32(1 / 255)
        slab += (BLOOD_HU - slab) * (vessels[k] * share) * (1 - bony)
        slab += np.maximum(0, 10.0 - slab) * (walls[k] * share)
        slab += (AIR_HU + 20 - slab) * (lumens[k] * share)
        lungs[k] = (pleura < 0) * left
    return hu, lungs


def _parenchyma(anatomy: Anatomy, rng: np.random.Generator) -> Field:
    """Lung HU on the coarse grid: denser at the back, cloudy on two scales."""
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415

    _, y, _ = grid_axes(anatomy.geometry)
    made = np.zeros(anatomy.lungs.shape, np.float32)
    for sigma_voxels, amplitude in ((1.0, 16.0), (6.0, 12.0)):
        cloud = gaussian_filter(rng.standard_normal(made.shape, dtype=np.float32), sigma_voxels, truncate=2.5)
        made += cloud * np.float32(amplitude / max(float(cloud.std()), 1e-6))
    made += np.float32(LUNG_HU) + np.float32(0.28) * y
    return made


def _table(x: Field, y: Field, width_mm: float) -> Field:
    """HU of air and of the table: a thin curved shell over foam and a flat lower shell."""
    top = 124.0 - 0.0011 * x * x
    bottom = 146.0 - 0.0002 * x * x
    within = np.abs(x) < 165
    hu = np.full(np.broadcast_shapes(x.shape, y.shape), AIR_HU, np.float32)
    hu[(y > top) & (y < bottom) & within] = -965.0
    for surface in (top, bottom):
        hu += (-250.0 - hu) * np.clip(1.5 - np.abs(y - surface) / width_mm, 0, 1) * within
    return hu


def _scanned(hu: Field, geometry: Geometry, settings: PhantomSettings, rng: np.random.Generator) -> HuVolume:
    """Point spread, noise of a soft kernel, rounding: the int16 HU of a scanner."""
    import cv2  # noqa: PLC0415

    sx, sy, sz = geometry.spacing_xyz_mm
    made = np.empty(hu.shape, np.int16)
    blur = settings.blur_mm
    side = np.float32(np.exp(-0.5 * (sz / max(blur, 1e-3)) ** 2))
    centre = 1 / (1 + 2 * side)

    def spread(k: int) -> Field:
        slab = hu[k]
        return np.asarray(cv2.GaussianBlur(slab, (0, 0), blur / sx, sigmaY=blur / sy), np.float32) if blur else slab

    before = now = spread(0)
    for k in range(len(hu)):
        after = spread(min(k + 1, len(hu) - 1))
        slab = centre * (now + side * (before + after))
        if settings.noise_hu:
            slab += settings.noise_hu * _noise(slab.shape, (sx, sy), rng)
        made[k] = np.rint(np.clip(slab, -1024, 3071))
        before, now = now, after
    return made


def _noise(shape: tuple[int, ...], spacing_mm: tuple[float, float], rng: np.random.Generator) -> Field:
    """Unit noise whose spectrum rises from zero and falls off again, as filtered back-projection leaves it."""
    import cv2  # noqa: PLC0415

    (sx, sy), white = spacing_mm, rng.standard_normal(shape, dtype=np.float32)
    fine = cv2.GaussianBlur(white, (0, 0), 0.6 / sx, sigmaY=0.6 / sy)
    broad = cv2.GaussianBlur(fine, (0, 0), 1.6 / sx, sigmaY=1.6 / sy)
    made = fine - np.float32(0.8) * broad
    return np.asarray(made / made.std(), np.float32)
