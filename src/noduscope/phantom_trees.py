"""Airways, pulmonary arteries and veins of the synthetic chest, and how tubes are drawn.

Each lobe is filled with jittered points that a tree from the hilum has to reach: points join one by
one, each where its own distance plus part of the way back to the hilum is shortest (the balanced
spanning tree of Cuntz et al., PLoS Comput Biol 2010; 6: e1000877). That
gives trunks which run straight to the periphery and branch on their way. A branch that feeds n points
has a radius in proportion to n^0.37, close to Murray's n^(1/3). Arteries run beside the airways,
veins between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from noduscope.phantom_anatomy import Anatomy, trachea
from noduscope.scan import Geometry

Floats: TypeAlias = NDArray[np.floating[Any]]

TWIG_RADIUS_MM = 0.4
MURRAY_POWER = 0.37
POINT_PITCH_MM = 9.0
BALANCE = 0.55
"""Weight of the way back to the hilum: 0 is the shortest tree, 1 nearly a star."""

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
    """Blood vessels, the airways inside the lungs, and the trachea with the main bronchi (by their lumen)."""

    vessels: Tubes
    airways: Tubes
    trachea: Tubes


def fissure_distances(x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Signed distances, mm, to the oblique fissure (positive above) and the horizontal one."""
    bow = 5.0 * np.sin(x / 34.0) + 3.0 * np.sin(y / 27.0)
    oblique = (z - _OBLIQUE_Z_MM - _OBLIQUE_SLOPE * y - bow) / np.float32(np.hypot(1, _OBLIQUE_SLOPE))
    horizontal = z - _HORIZONTAL_Z_MM - 0.18 * y - 0.6 * bow
    return oblique, horizontal


def build_plumbing(anatomy: Anatomy, rng: np.random.Generator) -> Plumbing:
    """Grow the three trees in each lobe."""
    vessels, airways, central = [], [], [Tubes(*trachea())]
    for side in (-1, 1):
        hilum = _MAIN_BRONCHUS[side][-1]
        path = np.array([_CARINA, *_MAIN_BRONCHUS[side]], dtype=float)
        wide, narrow = _BRONCHUS_RADIUS_MM[side]
        central.append(_chain(path, np.array([wide, (wide + narrow) / 2, narrow])))
        for lobe in _lobes(_seed_points(anatomy, rng, side), side):
            tree = _grow(np.array(hilum, dtype=float), lobe)
            radius = TWIG_RADIUS_MM * tree.twigs**MURRAY_POWER
            lumen = np.minimum(0.8 * radius, narrow)
            airways.append(_curves(tree, lumen, tree.twigs >= 30))
            beside = _beside(tree, 1.05 * (radius + 1.2 * lumen))
            vessels.append(_curves(beside, radius, tree.twigs >= 1))
        for lobe in _lobes(_seed_points(anatomy, rng, side), side):
            veins = _grow(np.array(_VEIN_ROOT[side]), lobe)
            vessels.append(_curves(veins, TWIG_RADIUS_MM * veins.twigs**MURRAY_POWER, veins.twigs >= 1))
    return Plumbing(*(t[0].joined(*t[1:]) for t in (vessels, airways, central)))


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


def _grow(root: Floats, points: Floats) -> _Tree:
    """One lobe's tree from its root to its points (Prim's algorithm with the balanced cost)."""
    nodes = np.vstack([root, points])
    n = len(nodes)
    parent = np.full(n, -1)
    reached = np.zeros(n)
    # what joining a point costs at best so far; -inf and inf once it has joined
    bar, cost = np.full(n, np.inf), np.full(n, np.inf)
    order = [0]
    while len(order) < n:
        newest = order[-1]
        bar[newest], cost[newest] = -np.inf, np.inf
        gap = nodes - nodes[newest]
        through = (1 + BALANCE) * np.sqrt(np.einsum("ij,ij->i", gap, gap)) + BALANCE * reached[newest]
        better = np.flatnonzero(through < bar)
        bar[better] = cost[better] = through[better]
        parent[better] = newest
        nearest = int(np.argmin(cost))
        step = nodes[nearest] - nodes[parent[nearest]]
        reached[nearest] = reached[parent[nearest]] + float(np.sqrt(step @ step))
        order.append(nearest)
    twigs = np.ones(n, np.int64)
    for i in reversed(order[1:]):
        twigs[parent[i]] += twigs[i]
    return _Tree(_straightened(nodes, parent, twigs), parent, twigs)


def _straightened(nodes: Floats, parent: NDArray[np.int64], twigs: NDArray[np.int64]) -> Floats:
    """Nodes drawn towards the middle of their parent and their largest daughter; root and tips stay."""
    by_size = np.argsort(twigs, kind="stable")
    by_size = by_size[parent[by_size] >= 0]
    main = np.full(len(nodes), -1)
    main[parent[by_size]] = by_size  # the largest comes last and wins
    moving = np.flatnonzero((main >= 0) & (parent >= 0))
    for _ in range(6):
        middle = 0.5 * (nodes[parent[moving]] + nodes[main[moving]])
        nodes = nodes.copy()
        nodes[moving] = 0.5 * nodes[moving] + 0.5 * middle
    return nodes


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
    end = np.where(twig, 0.6 * end, end)
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
