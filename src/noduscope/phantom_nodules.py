"""Nodules of known place, size, type and shape, and where to put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import SettingsError
from noduscope.phantom_anatomy import Anatomy
from noduscope.phantom_trees import Plumbing, Tubes
from noduscope.scan import Box, Geometry, Triple

NoduleType: TypeAlias = Literal["solid", "part-solid", "ground-glass"]
NoduleShape: TypeAlias = Literal["round", "lobulated", "spiculated"]
NodulePlace: TypeAlias = Literal["free", "vessel", "pleura"]

SOLID_HU = 35.0
GROUND_GLASS_HU = -600.0
SOLID_PART = 0.55
"""Diameter of a part-solid nodule's round core over that of the whole."""
_SUB_VOXEL_MM = 0.65
"""Longest edge of the parts that a voxel is divided into to find its share."""


@dataclass(frozen=True, slots=True)
class PlantedNodule:
    """A nodule that is in the phantom on purpose.

    Parameters
    ----------
    position_xyz_mm : LPS centroid of what is visible of it.
    diameter_mm : diameter of the sphere of the same volume. Spicules are not counted.
    type : ``solid``, ``part-solid`` or ``ground-glass``.
    shape : ``round``, ``lobulated`` or ``spiculated``.
    place : ``free`` in the lung, ``vessel`` (touching one) or ``pleura`` (seated on it, cut off by it).

    Raises
    ------
    SettingsError
        For a diameter outside 1 to 60 mm, or an unknown type, shape or place.
    """

    position_xyz_mm: Triple
    diameter_mm: float
    type: NoduleType = "solid"
    shape: NoduleShape = "round"
    place: NodulePlace = "free"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if not 1.0 <= self.diameter_mm <= 60.0:
            raise SettingsError(f"a planted nodule's diameter must be 1 to 60 mm; got {self.diameter_mm}")
        for name, known in (
            ("type", ("solid", "part-solid", "ground-glass")),
            ("shape", ("round", "lobulated", "spiculated")),
            ("place", ("free", "vessel", "pleura")),
        ):
            if getattr(self, name) not in known:
                raise SettingsError(f"a planted nodule's {name} must be one of {known}; got {getattr(self, name)!r}")

    @property
    def volume_mm3(self) -> float:
        """Volume of what is visible of it, spicules not counted."""
        return pi / 6 * self.diameter_mm**3


@dataclass(frozen=True, slots=True)
class _Wish:
    """A default nodule before it has a place; side -1 is right, +1 left."""

    nodule: PlantedNodule
    side: int
    upper: bool


def _wish(
    diameter_mm: float, type_: NoduleType, shape: NoduleShape, place: NodulePlace, where: tuple[int, bool]
) -> _Wish:
    return _Wish(PlantedNodule((0.0, 0.0, 0.0), diameter_mm, type_, shape, place), *where)


_DEFAULT = (
    _wish(10.0, "solid", "round", "free", (-1, True)),
    _wish(8.0, "solid", "lobulated", "free", (1, False)),
    _wish(15.0, "solid", "spiculated", "free", (1, True)),
    _wish(9.0, "solid", "round", "pleura", (-1, False)),
    _wish(7.0, "solid", "round", "vessel", (1, False)),
    _wish(11.0, "solid", "lobulated", "vessel", (-1, False)),
    _wish(4.5, "solid", "round", "free", (1, True)),
    _wish(9.0, "part-solid", "lobulated", "free", (-1, True)),
    _wish(10.0, "ground-glass", "round", "free", (-1, False)),
)
_UPPER_Z_MM, _LOWEST_Z_MM = -20.0, -120.0
_APART_MM = 24.0
_TRIES = 6


def place_nodules(anatomy: Anatomy, plumbing: Plumbing, rng: np.random.Generator) -> tuple[PlantedNodule, ...]:
    """The default nodules, each at a plausible place of its kind.

    Raises
    ------
    SettingsError
        When this seed's vessels leave no room for one of them.
    """
    placed: list[PlantedNodule] = []
    for wish in _DEFAULT:
        taken = np.array([n.position_xyz_mm for n in placed]).reshape(-1, 3)
        for _ in range(_TRIES):
            spots = _spots(anatomy, plumbing, wish, rng)
            gaps = np.linalg.norm(spots[:, None] - taken[None], axis=2).min(axis=1, initial=_APART_MM)
            if np.any(gaps >= _APART_MM):
                break
        else:
            raise SettingsError(f"no room for a {wish.nodule.shape} nodule ({wish.nodule.place}); take another seed")
        x, y, z = (round(float(v), 2) for v in spots[int(np.argmax(gaps >= _APART_MM))])
        placed.append(replace(wish.nodule, position_xyz_mm=(x, y, z)))
    return tuple(placed)


def _spots(anatomy: Anatomy, plumbing: Plumbing, wish: _Wish, rng: np.random.Generator) -> NDArray[np.float64]:
    """Places that suit a wish, in random order."""
    radius = wish.nodule.diameter_mm / 2
    vessels, tubes = plumbing.vessels, plumbing.vessels.joined(plumbing.airways)
    if wish.nodule.place == "vessel":
        thick = (vessels.radii > 0.9) & (vessels.radii < 1.6)
        points = vessels.points[thick]
        points = points[rng.permutation(len(points))[:4000]]
        sideways = rng.normal(size=points.shape)
        points = points + sideways / np.linalg.norm(sideways, axis=1)[:, None] * (radius * 0.85)
    else:
        low = np.asarray(anatomy.geometry.to_world((0, 0, 0)))
        high = np.asarray(anatomy.geometry.to_world(np.asarray(anatomy.geometry.shape_zyx) - 1))
        points = rng.uniform(low, high, (60_000, 3))
    fits = (points[:, 0] * wish.side > 0) & ((points[:, 2] > _UPPER_Z_MM) == wish.upper) & (points[:, 2] > _LOWEST_Z_MM)
    points = points[fits]
    depth = -anatomy.lung_distance(points)
    if wish.nodule.place == "pleura":
        # on the costal pleura: far from the midline, neither at the apex nor on the diaphragm
        costal = (np.abs(points[:, 0]) > 62) & (points[:, 2] > -75) & (points[:, 2] < 45)
        points = points[costal & (depth > 0.4 * radius) & (depth < 0.6 * radius)]
        return np.asarray(points[_clearance(points, tubes, 1.2) > radius])
    points = points[depth > radius + 5.0]
    # a vessel nodule may touch its own vessel, none of them a larger one
    thickest, gap = (1.7, radius) if wish.nodule.place == "vessel" else (0.75, radius + 1.0)
    points = points[:1500]
    return np.asarray(points[_clearance(points, tubes, thickest) > gap])


def _clearance(points: NDArray[np.float64], tubes: Tubes, thicker_than_mm: float) -> NDArray[np.float64]:
    """Distance of each point to the nearest tube wall of at least this radius."""
    from scipy.spatial import cKDTree  # noqa: PLC0415  (a third of a second to import)

    thick = tubes.radii > thicker_than_mm
    near, which = cKDTree(tubes.points[thick]).query(points)
    return np.asarray(near - tubes.radii[thick][which])


@dataclass(frozen=True, slots=True, eq=False)
class NoduleStamp:
    """What a nodule does to the voxels of ``box``: share of each that is nodule, core or spicule (0 to 1)."""

    box: Box
    whole: NDArray[np.float32]
    core: NDArray[np.float32] | None
    spicules: NDArray[np.float32] | None

    def apply(self, hu: NDArray[np.float32], type_: NoduleType) -> None:
        """Raise the HU of a volume in place; tissue that is denser already stays."""
        part = hu[self.box]
        dense = SOLID_HU if type_ == "solid" else GROUND_GLASS_HU
        if self.spicules is not None:
            part += self.spicules * np.maximum(min(dense, -150.0) - part, 0)
        part += self.whole * np.maximum(dense - part, 0)
        if self.core is not None:
            part += self.core * np.maximum(SOLID_HU - part, 0)


def stamp_nodule(nodule: PlantedNodule, geometry: Geometry, anatomy: Anatomy, rng: np.random.Generator) -> NoduleStamp:
    """Draw a nodule with partial volume, sized and placed so that its visible part is as told.

    The pleura cuts nodules off; so size and centre are found by iteration on the cut shape.

    Raises
    ------
    SettingsError
        For a nodule outside the lungs or the field of view.
    """
    outline = _Outline.make(nodule, rng)
    # spicules reach out to more than twice the radius
    reach = (1.2 if nodule.shape == "spiculated" else 0.85) * nodule.diameter_mm + 2.0
    cells = _SubVoxels.around(geometry, nodule.position_xyz_mm, reach)
    lung = np.full(len(cells.points), True)
    if anatomy.lung_distance(np.array([nodule.position_xyz_mm]))[0] > -reach:
        lung = anatomy.lung_distance(cells.points) < 0
    centre, scale = _fitted(nodule, outline, (cells.points, lung), geometry.voxel_volume_mm3 / cells.per_voxel)
    offsets = cells.points - centre
    core = spicules = None
    if nodule.type == "part-solid":
        from_centroid = cells.points - np.asarray(nodule.position_xyz_mm, np.float32)
        radius = SOLID_PART * nodule.diameter_mm / 2
        core = cells.share((np.einsum("ij,ij->i", from_centroid, from_centroid) < radius**2) & lung)
    if nodule.shape == "spiculated":
        spicules = cells.share(outline.spicules(offsets, scale) & lung)
    return NoduleStamp(cells.box, cells.share(outline.inside(offsets, scale) & lung), core, spicules)


def _fitted(
    nodule: PlantedNodule,
    outline: _Outline,
    sample: tuple[NDArray[np.float32], NDArray[np.bool_]],
    cell_mm3: float,
) -> tuple[NDArray[np.float32], float]:
    """Centre and scale of an outline whose part inside the lung has the nodule's volume and centroid."""
    points, lung = sample
    wanted = np.asarray(nodule.position_xyz_mm, np.float32)
    centre, scale = wanted.copy(), nodule.diameter_mm / 2
    # a sample first, then all; a stride that shares no factor with the subdivision keeps the sample even
    for stride in (11, 11, 5, 5, 1, 1):
        mask = outline.inside(points[::stride] - centre, scale) & lung[::stride]
        volume = float(np.count_nonzero(mask)) * cell_mm3 * stride
        if volume == 0:
            raise SettingsError(f"the nodule at {nodule.position_xyz_mm} lies outside the lungs; move it inside")
        scale *= float(np.clip((nodule.volume_mm3 / volume) ** (1 / 3), 0.8, 1.25))
        centre += wanted - points[::stride][mask].mean(axis=0)
    return centre, scale


@dataclass(frozen=True, slots=True, eq=False)
class _Outline:
    """A shape of unit size: bumps (direction, height, sharpness) on a sphere, or a union of balls."""

    bumps: NDArray[np.float64]
    heights: NDArray[np.float64]
    sharpness: float
    balls: NDArray[np.float64]

    @staticmethod
    def make(nodule: PlantedNodule, rng: np.random.Generator) -> _Outline:
        """A random outline of the nodule's shape."""
        count = {"round": 3, "lobulated": 3, "spiculated": 24}[nodule.shape]
        bumps = rng.normal(size=(count, 3))
        bumps /= np.linalg.norm(bumps, axis=1)[:, None]
        if nodule.shape == "spiculated":
            return _Outline(bumps, rng.uniform(0.15, 0.4, count), 20.0, np.array([[0.0, 0.0, 0.0, 1.0]]))
        balls = np.array([[0.0, 0.0, 0.0, 1.0]])
        if nodule.shape == "lobulated":
            corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
            turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            lobes = (corners @ turn) * rng.uniform(0.4, 0.62, (4, 1))
            balls = np.vstack([[0, 0, 0, 0.72], np.column_stack([lobes, rng.uniform(0.5, 0.66, 4)])])
        return _Outline(bumps, rng.uniform(-0.1, 0.12, count), 3.0, balls)

    def inside(self, offsets: NDArray[Any], scale: float) -> NDArray[np.bool_]:
        """Which offsets ``(n, 3)`` from the centre, mm, are inside at this scale, mm."""
        made = np.zeros(len(offsets), bool)
        distance = np.sqrt(np.einsum("ij,ij->i", offsets, offsets)) / scale
        near = np.flatnonzero(distance < 1.6)
        p = (offsets[near] / scale).astype(np.float32)
        unit = p / np.maximum(distance[near], 1e-4).astype(np.float32)[:, None]
        cosines = unit @ self.bumps.T.astype(np.float32)
        stretch = 1 + np.exp(np.float32(self.sharpness) * (cosines - 1)) @ self.heights.astype(np.float32)
        p /= stretch[:, None]
        hit = np.zeros(len(p), bool)
        for ball in self.balls.astype(np.float32):
            away = p - ball[:3]
            hit |= np.einsum("ij,ij->i", away, away) < ball[3] ** 2
        made[near] = hit
        return made

    def spicules(self, offsets: NDArray[Any], scale: float) -> NDArray[np.bool_]:
        """Thin strands that run out from the bumps and taper to nothing."""
        squared = np.einsum("ij,ij->i", offsets, offsets)
        near = np.flatnonzero((squared > (0.6 * scale) ** 2) & (squared < (2.8 * scale) ** 2))
        made = np.zeros(len(near), bool)
        alongs = offsets[near] @ self.bumps.T.astype(np.float32)
        for along, height in zip(alongs.T, self.heights, strict=True):
            taper = 1 - along / np.float32(scale * (2.0 + 1.6 * height))
            made |= (along > 0) & (squared[near] - along**2 < 1.5 * taper) & (taper > 0)
        all_made = np.zeros(len(offsets), bool)
        all_made[near] = made
        return all_made


@dataclass(frozen=True, slots=True, eq=False)
class _SubVoxels:
    """World points ``(n, 3)`` of the sub-voxels of a box; those of one voxel follow each other."""

    box: Box
    points: NDArray[np.float32]
    per_voxel: int

    @staticmethod
    def around(geometry: Geometry, centre_xyz_mm: Sequence[float], reach_mm: float) -> _SubVoxels:
        """The part of a cube of half edge `reach_mm` that is in the field of view."""
        index = geometry.to_index(centre_xyz_mm)
        half = reach_mm / np.asarray(geometry.spacing_zyx_mm)
        low = np.maximum(np.floor(index - half).astype(int), 0)
        high = np.minimum(np.ceil(index + half).astype(int) + 1, geometry.shape_zyx)
        if np.any(high <= low):
            raise SettingsError(f"the nodule at {tuple(centre_xyz_mm)} lies outside the field of view; move it inside")
        s = max(2, int(np.ceil(max(geometry.spacing_xyz_mm) / _SUB_VOXEL_MM)))
        sub = (np.arange(s) + 0.5) / s - 0.5
        corner = geometry.to_world(low)[::-1]
        # (voxel, sub-voxel) world coordinates along z, y, x; float32 is good to 0.01 mm here
        z, y, x = (
            (c + step * (np.arange(h - lo)[:, None] + sub)).astype(np.float32)
            for c, step, lo, h in zip(corner, geometry.spacing_zyx_mm, low, high, strict=True)
        )
        points = np.empty((len(z), len(y), len(x), s, s, s, 3), np.float32)
        points[..., 0] = x[None, None, :, None, None, :]
        points[..., 1] = y[None, :, None, None, :, None]
        points[..., 2] = z[:, None, None, :, None, None]
        box = tuple(slice(int(lo), int(h)) for lo, h in zip(low, high, strict=True))
        return _SubVoxels((box[0], box[1], box[2]), points.reshape(-1, 3), s**3)

    def share(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Share of each voxel of the box that the mask ``(n,)`` fills."""
        shape = tuple(b.stop - b.start for b in self.box)
        made: NDArray[np.float32] = mask.reshape(*shape, -1).mean(axis=-1, dtype=np.float32)
        return made
