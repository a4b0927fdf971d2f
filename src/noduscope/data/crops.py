"""Labelled nodule stacks: the slices of LIDC nodules with four readers' outlines and ratings.

The layout on disk (a folder with ``nodules.csv``, ``slices.csv.gz`` and ``stacks/``): each nodule is
two lossless images, its slices (96×96 tiles, ascending z, one under another, 8 bit) and, bit by bit,
the readers' outlines on them. A per-slice linear map brings the 8-bit values back to HU.
"""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.data.lidc_tables import RATINGS
from noduscope.errors import InputRefused

TILE = 96
MOST_READERS = 4
"""Readers of an LIDC scan, hence outlines in an image."""
CONSENSUS = 0.5
"""Share of the readers from which a voxel belongs to the nodule."""


_VOTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
"""How many readers outlined a voxel, by its byte of `NoduleStack.readers`."""


@dataclass(frozen=True, slots=True, eq=False)
class NoduleStack:
    """One LIDC nodule: the slices that readers outlined, and what they said of it.

    Parameters
    ----------
    hu : int16 (n, 96, 96), ascending z. Nothing is known above and below.
    readers : uint8 (n, 96, 96), bit j set inside reader j's outline.
    spacing_zyx_mm : voxel spacing; for a single slice z is the slice thickness.
    ratings : one tuple per attribute of `RATINGS`, one value per reader.
    diameter_mm : equivalent diameter of the ≥ 50 % consensus; 0 where the outlines do not overlap.
    link_iou : how surely image and ratings belong together, 0 to 1 (weak below about 0.7).
    """

    name: str
    patient_id: str
    series_uid: str
    hu: NDArray[np.int16]
    readers: NDArray[np.uint8]
    n_readers: int
    spacing_zyx_mm: tuple[float, float, float]
    ratings: dict[str, tuple[int, ...]]
    diameter_mm: float
    link_iou: float

    @property
    def agreement(self) -> NDArray[np.float32]:
        """Share of the readers whose outline holds each voxel, float32 (n, 96, 96)."""
        votes = _VOTES[self.readers]
        # a reader who outlined it in two parts counts twice in `n_readers`; no image holds more than four outlines
        share: NDArray[np.float32] = (votes / min(self.n_readers, MOST_READERS)).astype(np.float32)
        return share

    @property
    def type(self) -> str:
        """``solid``, ``part-solid`` or ``ground-glass`` by the readers' mean texture (5 solid … 1 non-solid)."""
        texture = float(np.mean(self.ratings["texture"]))
        if texture >= 4.0:
            return "solid"
        return "part-solid" if texture >= 2.0 else "ground-glass"


@dataclass(frozen=True, slots=True, eq=False)
class NodulePatch:
    """A nodule on an isotropic grid, ready to be set into a lung.

    Parameters
    ----------
    hu : float32 (z, y, x).
    alpha : float32 (z, y, x), 1 inside the nodule, falling to 0 over its edge.
    centre_zyx : centre of mass of alpha, in voxels.
    diameter_mm : equivalent diameter.
    """

    name: str
    patient_id: str
    type: str
    hu: NDArray[np.float32]
    alpha: NDArray[np.float32]
    centre_zyx: tuple[float, float, float]
    diameter_mm: float


def read_stacks(folder: Path) -> Iterator[NoduleStack]:
    """All nodules of a stack folder, in the table's order.

    Raises
    ------
    InputRefused
        When the folder lacks its tables, or an image is missing or of the wrong size.
    """
    table = folder / "nodules.csv"
    if not table.exists():
        raise InputRefused(f"{folder} holds no nodules.csv: give the folder of LIDC nodule stacks")
    slopes = _slice_maps(folder / "slices.csv.gz")
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield _read_stack(folder, row, slopes[row["nodule"]])


def _slice_maps(path: Path) -> dict[str, NDArray[np.float32]]:
    """Per nodule, (n, 2) slope and intercept of each slice."""
    maps: dict[str, list[tuple[float, float]]] = {}
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            maps.setdefault(row["nodule"], []).append((float(row["hu_slope"]), float(row["hu_intercept"])))
    return {name: np.asarray(rows, dtype=np.float32) for name, rows in maps.items()}


def _read_stack(folder: Path, row: dict[str, str], maps: NDArray[np.float32]) -> NoduleStack:
    name, n = row["nodule"], int(row["n_slices"])
    values = _tiles(folder / "stacks" / f"{name}_image.webp", n)
    hu = values * maps[:, 0, None, None] + maps[:, 1, None, None]
    pixel = float(row["pixel_spacing_mm"])
    z = float(row["slice_spacing_mm"] or row["slice_thickness_mm"])
    return NoduleStack(
        name=name,
        patient_id=row["patient_id"],
        series_uid=row["series_uid"],
        hu=np.clip(np.rint(hu), -1024, 3071).astype(np.int16),
        readers=_tiles(folder / "stacks" / f"{name}_readers.webp", n),
        n_readers=int(row["n_readers"]),
        spacing_zyx_mm=(z, pixel, pixel),
        ratings={a: tuple(int(v) for v in row[a].split("|")) for a in RATINGS},
        diameter_mm=float(row["consensus_diameter_mm"]),
        link_iou=float(row["link_iou"]),
    )


def _tiles(path: Path, n: int) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None or image.shape != (n * TILE, TILE):
        raise InputRefused(f"{path.name} is missing or not {n} tiles of {TILE}×{TILE}")
    tiles: NDArray[np.uint8] = image.reshape(n, TILE, TILE)
    return tiles


def signed_distance_mm(inside: NDArray[np.bool_], spacing_yx_mm: float) -> NDArray[np.float32]:
    """In-plane distance to the outline of a 2D mask, mm, positive inside."""
    mask = inside.astype(np.uint8)
    if not mask.any():
        return np.full(mask.shape, -float(max(mask.shape)) * spacing_yx_mm, dtype=np.float32)
    to_outside = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    to_inside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    distance: NDArray[np.float32] = ((to_outside - to_inside) * spacing_yx_mm).astype(np.float32)
    return distance


def isotropic_patch(stack: NoduleStack, spacing_mm: float, feather_mm: float = 0.7) -> NodulePatch | None:
    """The nodule alone on an isotropic grid, its shape interpolated between slices; None if it has no consensus.

    Between slices the signed distance to the outline is interpolated (shape-based interpolation:
    Raya & Udupa, IEEE TMI 1990), which keeps a 3 mm nodule round on 2.5 mm slices; beyond the first and
    last slice the surface closes in a dome.
    """
    inside = stack.agreement >= CONSENSUS
    held = np.flatnonzero(inside.any(axis=(1, 2)))
    if held.size == 0:
        return None
    part = slice(held[0], held[-1] + 1)
    inside, (dz, dy, _) = inside[part], stack.spacing_zyx_mm
    rows, columns = (np.flatnonzero(inside.any(axis=(0, other))) for other in (2, 1))
    pad = math.ceil(3.0 / dy)
    box = tuple(slice(max(r[0] - pad, 0), min(r[-1] + pad + 1, TILE)) for r in (rows, columns))
    size = (len(inside), *(round((b.stop - b.start) * dy / spacing_mm) for b in box))
    distance = resize_linear(np.stack([signed_distance_mm(s, dy) for s in inside])[:, box[0], box[1]], size)
    hu = resize_linear(stack.hu[part, box[0], box[1]].astype(np.float32), size)
    place, fall = _domed(distance, dz, spacing_mm)
    distance, hu = _at(distance, place) - fall[:, None, None], _at(hu, place)
    alpha = 1.0 / (1.0 + np.exp(-np.clip(distance / (0.5 * feather_mm), -30, 30)))
    weights = alpha / max(float(alpha.sum()), 1e-6)
    z, y, x = (float((weights.sum(axis=tuple(a for a in range(3) if a != axis)) * np.arange(n)).sum())
               for axis, n in enumerate(alpha.shape))  # fmt: skip
    volume = float((distance > 0).sum()) * spacing_mm**3
    if volume <= 0:
        return None
    diameter = (6 * volume / math.pi) ** (1 / 3)
    return NodulePatch(stack.name, stack.patient_id, stack.type, hu, alpha.astype(np.float32), (z, y, x), diameter)


_DOME = 15 / 16
"""Height over slice spacing at which a parabolic dome on a disc holds what the outer half of the end slice does."""
_BEYOND_MM = 1.5


def _domed(
    distance: NDArray[np.float32], dz_mm: float, spacing_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Where on the slices each plane of the isotropic grid lies, in slices, and how far the surface has fallen there.

    A dome is no higher than the inner radius of the end slice's outline, or half a slice where that is more:
    a small nodule that one thick slice shows is no rod.
    """
    radii = [max(float(distance[end].max()), 0.5 * spacing_mm) for end in (0, -1)]
    heights = [min(_DOME * dz_mm, max(r, 0.5 * dz_mm)) for r in radii]
    last = (len(distance) - 1) * dz_mm
    low, high = -heights[0] - _BEYOND_MM, last + heights[1] + _BEYOND_MM
    planes = math.ceil((high - low) / spacing_mm) + 1
    z = (low + high) / 2 + (np.arange(planes) - (planes - 1) / 2) * spacing_mm
    fall = radii[0] * (np.maximum(-z, 0) / heights[0]) ** 2 + radii[1] * (np.maximum(z - last, 0) / heights[1]) ** 2
    return np.clip(z / dz_mm, 0, len(distance) - 1), fall.astype(np.float32)


def _at(slices: NDArray[np.float32], place: NDArray[np.float64]) -> NDArray[np.float32]:
    """Slices ``(n, y, x)`` interpolated linearly at fractional numbers between 0 and n - 1."""
    first = np.floor(place).astype(int)
    share = (place - first).astype(np.float32)[:, None, None]
    made: NDArray[np.float32] = slices[first] * (1 - share) + slices[np.minimum(first + 1, len(slices) - 1)] * share
    return made


def resize_linear(volume: NDArray[np.float32], shape_zyx: tuple[int, ...]) -> NDArray[np.float32]:
    """Separable linear resize of a small float volume, outer edges kept."""
    n, (z, y, x) = volume.shape[0], shape_zyx
    planes = np.stack([cv2.resize(s, (x, y), interpolation=cv2.INTER_LINEAR) for s in volume])
    flat = cv2.resize(planes.reshape(n, y * x), (y * x, z), interpolation=cv2.INTER_LINEAR) if n != z else planes
    return np.ascontiguousarray(flat, dtype=np.float32).reshape(z, y, x)
