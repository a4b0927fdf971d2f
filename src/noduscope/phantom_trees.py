"""Airways, pulmonary arteries and veins of the synthetic chest, and how tubes are drawn.

Each lobe is filled with jittered points; a branch runs part of the way to the centre of its points,
which a plane then halves between two daughters, until each twig feeds one point (the volume-filling
branching of Tawhai, Pullan and Hunter, Ann Biomed Eng 2000; 28: 793-802). A branch that feeds n
twigs has a radius in proportion to n^0.36, close to Murray's n^(1/3). Arteries run beside the
airways, veins between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noduscope.phantom_anatomy import Anatomy, trachea
from noduscope.scan import Geometry

Floats: TypeAlias = NDArray[np.floating[Any]]

TWIG_RADIUS_MM = 0.42
MURRAY_POWER = 0.36
POINT_PITCH_MM = 10.5

# z of the oblique fissure's plane at y = 0 and its slope along y; z of the right horizontal fissure
_OBLIQUE_Z_MM, _OBLIQUE_SLOPE = -32.0, 0.95
_HORIZONTAL_Z_MM = -14.0

# per side (-1 right, +1 left): carina, main bronchus, hilum of the bronchi and arteries, of the veins
_CARINA = (-1.0, 15.0, 3.0)
_MAIN_BRONCHUS = {-1: ((-14, 15, -6), (-27, 13, -13)), 1: ((14, 17, -8), (34, 18, -19))}
_VEIN_ROOT = {-1: (-24.0, 9.0, -34.0), 1: (28.0, 10.0, -36.0)}
_BRONCHUS_RADIUS_MM = {-1: (7.8, 7.0), 1: (6.8, 6.0)}


@dataclass(frozen=True, slots=True, eq=False)
class Tubes:
    """Densely sampled centrelines: points ``(n, 3)`` in LPS mm with a radius in mm each."""

    points: Floats
    radii: Floats

    def joined(self, *others: Tubes) -> Tubes:
        """All of these in one."""
        parts = (self, *others)
        return Tubes(np.concatenate([t.points for t in parts]), np.concatenate([t.radii for t in parts]))


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """Nodes ``(n, 3)``, the parent of each (-1 for the root) and how many twigs it feeds."""

    nodes: Floats
    parent: NDArray[np.int64]
    twigs: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Plumbing:
    """All tubes of the lungs: blood vessels, and airways by their lumen."""

    vessels: Tubes
    airways: Tubes


def fissure_distances(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signed distances, mm, to the oblique fissure (positive above) and the horizontal one."""
    bow = 5.0 * np.sin(x / 34.0) + 3.0 * np.sin(y / 27.0)
    oblique = (z - _OBLIQUE_Z_MM - _OBLIQUE_SLOPE * y - bow) / np.float32(np.hypot(1, _OBLIQUE_SLOPE))
    horizontal = z - _HORIZONTAL_Z_MM - 0.18 * y - 0.6 * bow
    return oblique, horizontal


def build_plumbing(anatomy: Anatomy, rng: np.random.Generator) -> Plumbing:
    """Grow the three trees in each lobe."""
    vessels, airways = [], [Tubes(*trachea())]
    for side in (-1, 1):
        hilum = _MAIN_BRONCHUS[side][-1]
        path = np.array([_CARINA, *_MAIN_BRONCHUS[side]], dtype=float)
        wide, narrow = _BRONCHUS_RADIUS_MM[side]
        airways.append(_chain(path, np.array([wide, (wide + narrow) / 2, narrow])))
        for lobe in _lobes(_seed_points(anatomy, rng, side), side):
            tree = _grow(np.array(hilum, dtype=float), lobe, rng)
            radius = TWIG_RADIUS_MM * tree.twigs**MURRAY_POWER
            lumen = np.minimum(0.95 * radius, narrow)
            airways.append(_curves(tree, lumen, tree.twigs >= 20))
            beside = _beside(tree, 1.05 * (radius + 1.2 * lumen))
            vessels.append(_curves(beside, radius, tree.twigs >= 1))
        for lobe in _lobes(_seed_points(anatomy, rng, side), side):
            veins = _grow(np.array(_VEIN_ROOT[side]), lobe, rng)
            vessels.append(_curves(veins, TWIG_RADIUS_MM * veins.twigs**MURRAY_POWER, veins.twigs >= 1))
    return Plumbing(vessels[0].joined(*vessels[1:]), airways[0].joined(*airways[1:]))


def _seed_points(anatomy: Anatomy, rng: np.random.Generator, side: int) -> Floats:
    """Jittered points all over one lung, a few mm under the pleura."""
    z0, y0, x0 = anatomy.geometry.extent_zyx_mm
    low = np.asarray(anatomy.geometry.to_world((0, 0, 0)))
    counts = [int(e / POINT_PITCH_MM) + 1 for e in (x0, y0, z0)]
    grid = np.stack(np.meshgrid(*[np.arange(c) for c in counts], indexing="ij"), axis=-1).reshape(-1, 3)
    points = low + POINT_PITCH_MM * (grid + rng.uniform(0.0, 1.0, grid.shape))
    points = points[points[:, 0] * side > 0]
    kept: Floats = points[anatomy.lung_distance(points) < -3.5]
    return kept


def _lobes(points: Floats, side: int) -> list[Floats]:
    """Points by lobe: upper, (right) middle, lower. No vessel then crosses a fissure but at the hilum."""
    oblique, horizontal = fissure_distances(points[:, 0], points[:, 1], points[:, 2])
    clear = np.abs(oblique) > 1.5
    upper, lower = clear & (oblique > 0), clear & (oblique <= 0)
    groups = [upper & (horizontal > 1.5), upper & (horizontal < -1.5), lower]
    return [points[g] for g in groups if np.count_nonzero(g) > 8]


def _grow(root: Floats, points: Floats, rng: np.random.Generator) -> _Tree:
    """One lobe's tree from its root to its points."""
    nodes, parents, twigs = [root], [-1], [len(points)]
    stack = [(0, points, _unit(points.mean(axis=0) - root))]
    while stack:
        origin, cloud, heading = stack.pop()
        start = nodes[origin]
        target = cloud.sum(axis=0) / len(cloud)
        if len(cloud) == 1:
            end = target
        else:
            way = target - start
            length = float(np.sqrt(way @ way))
            # no sharp turns: a branch leaves its parent at 70° at most
            towards = _limited(way / max(length, 1e-6), heading, 0.34)
            end = start + towards * length * rng.uniform(0.34, 0.46)
        nodes.append(end)
        parents.append(origin)
        twigs.append(len(cloud))
        if len(cloud) > 1:
            here, direction = len(nodes) - 1, _unit(end - start)
            stack += [(here, part, direction) for part in _halved(cloud, direction, rng)]
    return _Tree(np.array(nodes), np.array(parents), np.array(twigs))


def _halved(cloud: Floats, direction: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Split a cloud across its longest extent at right angles to the branch (roughly)."""
    centred = cloud - cloud.sum(axis=0) / len(cloud)
    # the branch's own direction counts less, so that daughters part sideways
    flattened = centred - 0.5 * np.outer(centred @ direction, direction)
    axis = np.linalg.eigh(flattened.T @ flattened)[1][:, -1] if len(cloud) > 2 else centred[0]
    order = np.argsort(centred @ axis, kind="stable")
    cut = min(max(1, round(len(cloud) * rng.uniform(0.3, 0.7))), len(cloud) - 1)
    return cloud[order[:cut]], cloud[order[cut:]]


def _beside(tree: _Tree, offset_mm: Floats) -> _Tree:
    """The same tree shifted sideways, node by node: the artery that goes with a bronchus."""
    headings = _headings(tree)
    outward = np.cross(headings, [0.25, 1.0, 0.15])
    outward /= np.maximum(np.linalg.norm(outward, axis=1), 0.3)[:, None]
    return _Tree(tree.nodes + outward * offset_mm[:, None], tree.parent, tree.twigs)


def _headings(tree: _Tree) -> Floats:
    """The direction of the curve at each node: between its branch and the larger way on."""
    chords = tree.nodes - tree.nodes[np.maximum(tree.parent, 0)]
    lengths = np.maximum(np.linalg.norm(chords, axis=1), 1e-6)[:, None]
    units = chords / lengths
    onward = np.zeros_like(units)
    np.add.at(onward, tree.parent[1:], units[1:] * tree.twigs[1:, None])
    mixed = units + 0.8 * onward / tree.twigs[:, None]
    return np.asarray(mixed / np.maximum(np.linalg.norm(mixed, axis=1), 1e-6)[:, None])


def _curves(tree: _Tree, radius: Floats, shown: NDArray[np.bool_]) -> Tubes:
    """Smooth tubes (cubic Hermite) along the shown branches, each tapering from its parent to itself."""
    child = np.flatnonzero(shown & (tree.parent >= 0))
    parent = tree.parent[child]
    a, b = tree.nodes[parent], tree.nodes[child]
    length = np.linalg.norm(b - a, axis=1)
    headings = _headings(tree)
    chord = (b - a) / np.maximum(length, 1e-6)[:, None]
    leave = 0.55 * headings[parent] + 0.45 * chord
    m0, m1 = leave * length[:, None], headings[child] * length[:, None]
    end = radius[child]
    begin = np.minimum(radius[parent], 1.18 * end)
    twig = ~np.isin(child, tree.parent)
    end = np.where(twig, 0.5 * end, end)
    # as many points per branch as its thinner end needs to look smooth
    count = np.ceil(length / np.clip(0.5 * end, 0.4, 1.5)).astype(int) + 1
    branch = np.repeat(np.arange(len(child)), count)
    t = (np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)) / (np.repeat(count, count))
    t1 = t[:, None]
    points = (2 * t1**3 - 3 * t1**2 + 1) * a[branch] + (t1**3 - 2 * t1**2 + t1) * m0[branch]
    points += (3 * t1**2 - 2 * t1**3) * b[branch] + (t1**3 - t1**2) * m1[branch]
    return Tubes(points, begin[branch] + (end - begin)[branch] * t)


def _chain(path: Floats, radii: Floats) -> Tubes:
    """A single unbranched tube."""
    n = len(path)
    tree = _Tree(path, np.arange(-1, n - 1), np.full(n, 1))
    return _curves(tree, np.concatenate([radii[:-1], 2 * radii[-1:]]), np.full(n, True))


def paint_tubes(volume: NDArray[np.uint8], geometry: Geometry, tubes: Tubes, soften_mm: float = 1.0) -> None:
    """Raise `volume` to each tube's share of a voxel (255 is all), in place.

    Work goes by classes of like radius, so that all points of a class share one stencil of voxels.
    """
    spacing = np.asarray(geometry.spacing_zyx_mm)
    index = geometry.to_index(tubes.points)
    edges = np.array([0.45, 0.7, 1.0, 1.5, 2.2, 3.2, 4.8, 7.0, 10.0, 20.0])
    kind = np.searchsorted(edges, tubes.radii)
    for k in np.unique(kind):
        chosen = np.flatnonzero(kind == k)
        half = np.ceil((tubes.radii[chosen].max() + soften_mm / 2) / spacing).astype(int)
        offsets = np.stack(np.meshgrid(*[np.arange(-h, h + 1) for h in half], indexing="ij"), axis=-1).reshape(-1, 3)
        near = np.sum((np.maximum(np.abs(offsets) - 0.5, 0) * spacing) ** 2, axis=1)
        offsets = offsets[near <= (edges[min(k, len(edges) - 1)] + soften_mm / 2) ** 2]
        for part in np.array_split(chosen, max(1, len(chosen) * len(offsets) // 1_000_000)):
            _stamp(volume, offsets, (index[part], tubes.radii[part]), (spacing, soften_mm))


def _stamp(
    volume: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    points: tuple[Floats, Floats],
    scale: tuple[Floats, float],
) -> None:
    """Raise the voxels at `offsets` round each point (fractional index, radius)."""
    (index, radii), (spacing, soften) = points, scale
    base = np.rint(index).astype(np.int64)
    inside = np.all((base >= -8) & (base < np.asarray(volume.shape) + 8), axis=1)
    base, index, radii = base[inside], index[inside], radii[inside]
    rest = ((base - index) * spacing).astype(np.float32)
    steps = (offsets * spacing).astype(np.float32)
    squared = np.zeros((len(base), len(offsets)), np.float32)
    for axis in range(3):
        squared += (rest[:, axis, None] + steps[None, :, axis]) ** 2
    r = radii.astype(np.float32)[:, None]
    # a tube thinner than the softening never fills a voxel
    full = np.minimum(1.0, (2 * r / np.float32(soften)) ** 2)
    share = np.clip(0.5 + (r - np.sqrt(squared)) / np.float32(soften), 0, 1) * full
    who, where = np.nonzero(share > 0.02)
    voxel = base[who] + offsets[where]
    ok = np.all((voxel >= 0) & (voxel < np.asarray(volume.shape)), axis=1)
    flat = np.ravel_multi_index(tuple(voxel[ok].T), volume.shape)
    np.maximum.at(volume.reshape(-1), flat, (share[who, where][ok] * 255).astype(np.uint8))


def _unit(vector: Floats) -> Floats:
    """The vector with length 1."""
    return vector / max(float(np.sqrt(vector @ vector)), 1e-9)


def _limited(towards: Floats, heading: Floats, cosine: float) -> Floats:
    """The direction nearest `towards` whose angle with `heading` has at least this cosine."""
    along = float(towards @ heading)
    if along >= cosine:
        return towards
    across = _unit(towards - along * heading)
    return cosine * heading + float(np.sqrt(1 - cosine**2)) * across
