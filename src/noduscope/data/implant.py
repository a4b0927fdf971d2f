"""Real nodules set into real lungs: how a few whole scans become thousands of labelled ones.

A solid nodule's own HU replace the lung's inside its outline, feathered over about a millimetre; where
the lung already holds something denser (a vessel, the chest wall) the denser value stays, so that a
nodule merges with what it touches instead of cutting a hole into it. A ground-glass or part-solid one
fills part of the air, so the lung's own vessels and texture show through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.augment import Crop
from noduscope.boxes import Lesion
from noduscope.data.crops import NodulePatch, resize_linear

Place: TypeAlias = Literal["free", "vessel", "pleura"]
PLACES: tuple[Place, ...] = ("free", "vessel", "pleura")

_TISSUE_HU = -400.0
_VESSEL_HU = -300.0
LUNG_HU = -850.0
"""Aerated lung."""
_LEAST_SEEN_HU = 60.0
_FADED = 0.12
"""Share of the nodules that `varied` makes ground-glass of: real ones are too few to learn from."""
_FADED_TO = (0.25, 0.55)
"""What is left of such a nodule's density above the lung's."""
_RARE = {"part-solid": 3.0, "ground-glass": 3.0}
"""How many times more often than solid ones such nodules are drawn."""
_CORED, _LEAST_CORED_MM = 0.15, 5.0
"""Share of the solid implants that are made part-solid, and from what diameter on: real ones are too few."""


def draw_weights(diameters_mm: Sequence[float], types: Sequence[str]) -> NDArray[np.float64]:
    """How often each nodule is drawn, sum 1: large ones and those that are not solid more often than there are."""
    # small nodules are the most frequent and the hardest; the large ones still come often enough to be learnt
    weight = np.sqrt(np.clip(np.asarray(diameters_mm, dtype=float), 4.0, 30.0))
    weight *= [_RARE.get(t, 1.0) for t in types]
    made: NDArray[np.float64] = weight / weight.sum()
    return made


def drawn(rng: np.random.Generator, patches: Sequence[NodulePatch], weights: NDArray[np.float64]) -> NodulePatch:
    """One of the patches, `varied`; now and then a solid one as a part-solid one."""
    patch = varied(rng, patches[rng.choice(len(patches), p=weights)])
    if patch.type == "solid" and patch.diameter_mm >= _LEAST_CORED_MM and rng.random() < _CORED:
        return with_core(rng, patch)
    return patch


def varied(rng: np.random.Generator, patch: NodulePatch) -> NodulePatch:
    """The patch mirrored, turned by quarter turns in the plane and scaled by 0.8 to 1.25; now and then faded."""
    if rng.random() < _FADED:
        patch = faded(patch, rng.uniform(*_FADED_TO))
    hu, alpha = patch.hu, patch.alpha
    for axis in range(3):
        if rng.random() < 0.5:
            hu, alpha = np.flip(hu, axis), np.flip(alpha, axis)
    turns = int(rng.integers(4))
    hu, alpha = np.rot90(hu, turns, (1, 2)), np.rot90(alpha, turns, (1, 2))
    return scaled(replace(patch, hu=hu, alpha=alpha), float(np.exp(rng.uniform(-0.22, 0.22))))


def scaled(patch: NodulePatch, scale: float) -> NodulePatch:
    """The nodule so many times as large."""
    shape = tuple(max(2, round(n * scale)) for n in patch.hu.shape)
    hu, alpha = (resize_linear(np.ascontiguousarray(a), shape) for a in (patch.hu, patch.alpha))
    return replace(patch, hu=hu, alpha=alpha, centre_zyx=_centre(alpha), diameter_mm=patch.diameter_mm * scale)


def faded(patch: NodulePatch, share: float) -> NodulePatch:
    """The nodule as ground-glass: `share` of its density above aerated lung."""
    return replace(patch, hu=_thinned(patch.hu, np.float32(share)), type="ground-glass")


def with_core(rng: np.random.Generator, patch: NodulePatch) -> NodulePatch:
    """The nodule as a part-solid one: its middle as dense as it is, `_FADED_TO` of its density around that."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415  (a third of a second to import)

    depth = distance_transform_edt(patch.alpha > 0.5).astype(np.float32)
    edge = rng.uniform(0.25, 0.75) * depth.max()
    kept = np.clip(depth - np.float32(edge) + 0.5, 0, 1)
    share = np.float32(rng.uniform(*_FADED_TO))
    return replace(patch, hu=_thinned(patch.hu, share + (1 - share) * kept), type="part-solid")


def _thinned(hu: Crop, share: np.float32 | Crop) -> Crop:
    """`share` of the density above aerated lung, everywhere or voxel by voxel."""
    lung = np.float32(LUNG_HU)
    made: Crop = lung + (hu - lung) * share
    return made


def _centre(alpha: NDArray[np.float32]) -> tuple[float, float, float]:
    total = float(alpha.sum())
    sums = [alpha.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (float((s * np.arange(len(s))).sum()) / total for s in sums)
    return z, y, x


def implant(crop: Crop, patch: NodulePatch, place_zyx: tuple[float, float, float]) -> Lesion | None:
    """Set a nodule into a crop, in place, its centre at the voxel nearest to `place_zyx`.

    Returns the lesion as it lies there; None, and the crop untouched, where most of it would fall
    outside or onto dense tissue, or it is so faint that nothing could be seen of it.
    """
    corner = [round(p - c) for p, c in zip(place_zyx, patch.centre_zyx, strict=True)]
    low = [max(c, 0) for c in corner]
    high = [min(c + n, m) for c, n, m in zip(corner, patch.hu.shape, crop.shape, strict=True)]
    if any(h <= a for a, h in zip(low, high, strict=True)):
        return None
    target = tuple(slice(a, h) for a, h in zip(low, high, strict=True))
    source = tuple(slice(a - c, h - c) for a, h, c in zip(low, high, corner, strict=True))
    alpha, hu = patch.alpha[source], patch.hu[source]
    host = crop[target]
    inside = alpha > 0.5
    if inside.sum() < max(1.0, 0.7 * (patch.alpha > 0.5).sum()):
        return None
    if (host[inside] > _TISSUE_HU).mean() > 0.35:
        return None
    made = _blended(host, hu, alpha, additive=patch.type != "solid")
    if (made - host)[inside].mean() < _LEAST_SEEN_HU:
        return None
    crop[target] = made
    z, y, x = (c + p for c, p in zip(corner, patch.centre_zyx, strict=True))
    return Lesion((float(z), float(y), float(x)), patch.diameter_mm)


def _blended(host: Crop, hu: Crop, alpha: Crop, *, additive: bool) -> Crop:
    """The host's HU with the nodule in it, its own or (additive) filling air; nowhere less dense than the host."""
    if additive:
        return air_filled(host, alpha, np.maximum(hu - np.float32(LUNG_HU), 0))
    return np.maximum(host, alpha * hu + (1 - alpha) * host)


def air_filled(host: NDArray[Any], share: Crop, excess_hu: Crop | np.float32) -> Crop:
    """The host's HU with a share of its air filled, less where it holds less (none in a vessel).

    Parameters
    ----------
    excess_hu : what fills it has so much above aerated lung.
    """
    air = np.clip(host / np.float32(LUNG_HU), 0, 1)
    return np.asarray(host + share * air * excess_hu, np.float32)


def random_kind(rng: np.random.Generator) -> Place:
    """A third of the nodules at the pleura, a third of the others at vessels."""
    if rng.random() < 0.33:
        return "pleura"
    return "vessel" if rng.random() < 0.33 else "free"


def random_place(
    rng: np.random.Generator,
    crop: Crop,
    lung: NDArray[np.bool_],
    diameter_mm: float,
    kind: Place = "free",
    margin: int = 6,
) -> tuple[float, float, float] | None:
    """A voxel of the crop where a nodule of this size could sit; None when the crop shows no such place.

    Parameters
    ----------
    kind : ``pleura``: it will touch the edge of the lung. ``vessel``: it will touch something dense in
        the lung. ``free``: anywhere in aerated lung.
    """
    middle = slice(margin, -margin)
    crop, lung = crop[middle], lung[middle]
    spots = lung & (crop < -500)
    if kind == "pleura":
        spots &= near_in_plane(~lung, diameter_mm * 0.45)
    elif kind == "vessel":
        spots &= near_in_plane(lung & (crop > _VESSEL_HU), diameter_mm * 0.45)
    inside = spots[:, middle, middle]
    flat = np.flatnonzero(inside)
    if flat.size == 0:
        return None
    z, y, x = np.unravel_index(int(flat[rng.integers(flat.size)]), inside.shape)
    return float(z + margin), float(y + margin), float(x + margin)


def near_in_plane(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Which voxels lie within `reach` of the mask in their axial plane (a square's reach)."""
    size = 2 * round(reach) + 1
    kernel = np.ones((size, size), np.uint8)
    near = np.empty(mask.shape, np.uint8)
    for plane, reached in zip(mask.astype(np.uint8), near, strict=True):
        cv2.dilate(plane, kernel, reached)
    return near.view(np.bool_)
