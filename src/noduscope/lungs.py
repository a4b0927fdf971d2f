"""Where the lungs are: found once on a coarse grid, asked at points, boxes and any other grid.

The method, on 2 mm voxels: air that does not reach the side of the slices; without bowel gas (which
is blacker than any lung) and without the trachea and main bronchi (round, black and on their own
in the slice); split into left and right; closed by a ball so that vessels and nodules on the
pleura stay inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.errors import NoScanFound
from noduscope.morphology import Mask, close, dilate, fill_holes, regions
from noduscope.preprocess import bounding_box, box_around, in_threads, resample
from noduscope.scan import Box, Geometry, HuVolume, Scan, ScanWarning
from noduscope.settings import LungSettings

LEFT, RIGHT = 1, 2
"""Labels: the patient's left lung lies towards +x (LPS), the right towards -x."""

_AIR_HU = -400  # halfway between aerated lung and soft tissue: the edge lands where a reader draws it
_OPEN_AIR_HU = -930  # air around the patient is -1000, the blackest lung about -950 at its core
_MATTRESS_MM = 25.0  # half the thickness of what a lung exceeds and a mattress does not
_GAS_HU = -960  # median of bowel gas and pockets in the table
_CORE_HU = -940  # 5th percentile of a small part: darker is a gas bubble
_SEAM_REACH_MM = 80.0  # from the midline; a collapsed lung pulls the mediastinum over this far
_DETOUR_MM = 120.0  # so far from the midline a step costs as much as one through lung
_LEAST_LUNG_ML = 150.0  # both together; a single adult lobe at end-expiration has more
_LEAST_PART_ML = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Lungs:
    """The lungs of one scan.

    Parameters
    ----------
    labels : uint8 ``(z, y, x)``: 0 outside, 1 left lung, 2 right lung; on a coarse isotropic grid.
    geometry : that grid.
    warnings : what is odd about them.
    """

    labels: NDArray[np.uint8]
    geometry: Geometry
    warnings: tuple[ScanWarning, ...] = ()

    @property
    def volume_ml(self) -> tuple[float, float]:
        """Volume of the left and the right lung."""
        counts = np.bincount(self.labels.ravel(), minlength=3) * self.geometry.voxel_volume_mm3 / 1000.0
        return float(counts[LEFT]), float(counts[RIGHT])

    def at(self, position_xyz_mm: ArrayLike) -> NDArray[np.uint8]:
        """Labels at LPS positions ``(..., 3)``, shape ``(...)``; 0 outside the grid."""
        index = np.round(self.geometry.to_index(position_xyz_mm)).astype(int)
        inside = np.all((index >= 0) & (index < self.geometry.shape_zyx), axis=-1)
        z, y, x = np.moveaxis(np.where(inside[..., None], index, 0), -1, 0)
        return np.where(inside, self.labels[z, y, x], 0).astype(np.uint8)

    def bounding_box(self, geometry: Geometry, margin_mm: float = 0.0) -> Box:
        """The box of `geometry`'s voxels that holds both lungs with a margin, clipped to its volume."""
        own = bounding_box(self.labels, self.geometry)
        edges = [(b.start - 0.5, b.stop - 0.5) for b in own]
        corners = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3)
        return box_around(geometry, self.geometry.to_world(corners), margin_mm)

    def on(self, geometry: Geometry) -> NDArray[np.uint8]:
        """The labels on another grid, with smooth edges: each lung's mask is interpolated linearly.

        Parameters
        ----------
        geometry : any grid; one whose axes run along this one's (also swapped or flipped) is quick.
        """
        index_map, shift = _index_map(self.geometry, geometry)
        order = np.abs(index_map).argmax(axis=0)
        main = np.zeros_like(index_map)
        main[order, range(3)] = index_map[order, range(3)]
        # what a slight turn moves at the far end of the volume, in coarse voxels
        stray = np.abs(index_map - main) @ np.asarray(geometry.shape_zyx)
        if len(set(order.tolist())) < 3 or stray.max() > 0.25:
            return _turned(self.labels, index_map, shift, geometry.shape_zyx)
        scale = index_map[order, range(3)]
        return _stretched(self.labels.transpose(order), scale, shift[order], geometry.shape_zyx)


def find_lungs(scan: Scan, settings: LungSettings) -> Lungs:
    """The lungs of a chest CT.

    Parameters
    ----------
    scan : in any orientation.

    Raises
    ------
    NoScanFound
        When nothing in the scan looks like a lung.
    """
    canonical = scan.canonical()
    hu, geometry = resample(canonical.hu, canonical.geometry, settings.spacing_mm, average=True)
    voxel_ml = geometry.voxel_volume_mm3 / 1000.0
    air, doubtful = _enclosed_air(hu, settings.spacing_mm)
    airway = _airway(hu, air, settings.spacing_mm)
    lung = _continued(_lung_air(hu, air & (1 - airway), _LEAST_PART_ML / voxel_ml), doubtful)
    if lung.sum() * voxel_ml < _LEAST_LUNG_ML:
        raise NoScanFound(
            f"no lungs in {scan.source.series_uid}: only {lung.sum() * voxel_ml:.0f} ml look like lung, at least "
            f"{_LEAST_LUNG_ML:.0f} ml are expected; choose a series that shows the chest"
        )
    labels = _closed(_sides(hu, lung, settings.spacing_mm), airway, settings.closing_mm / settings.spacing_mm)
    return Lungs(labels, geometry, _warnings(labels, voxel_ml))


def _enclosed_air(hu: HuVolume, spacing_mm: float) -> tuple[Mask, Mask]:
    """Air that does not reach the side of its slice, and spots that do but may be lung of a cropped scan.

    A spot at the side is open air when it is black or fills a corner of the slice. Else it is lung
    when it is too thick for a mattress, and in doubt when not.
    """
    air = (hu < _AIR_HU).view(np.uint8)
    inside, doubtful = np.zeros_like(air), np.zeros_like(air)
    height, width = (max(n - 1, 1) for n in air.shape[1:])

    def sort(k: int) -> None:
        count, labels = cv2.connectedComponents(air[k], connectivity=4, ltype=cv2.CV_32S)
        kind = np.ones(count, np.uint8)  # 0 outside, 1 inside, 2 doubtful
        corners = labels[::height, ::width]
        for label in np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])):
            spot = labels == label
            if label == 0 or label in corners or np.median(hu[k][spot]) < _OPEN_AIR_HU:
                kind[label] = 0
                continue
            depth = cv2.distanceTransform(spot.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3).max()
            kind[label] = 1 if depth * spacing_mm > _MATTRESS_MM else 2
        kind[0] = 0
        found = kind[labels]
        inside[k], doubtful[k] = found == 1, found == 2

    in_threads(sort, len(air))
    return inside, doubtful


def _continued(lung: Mask, doubtful: Mask) -> Mask:
    """The lung with those doubtful spots that, from slice to slice, mostly lie over what is lung."""
    made = lung.copy()
    for order in (range(1, len(made)), range(len(made) - 2, -1, -1)):
        for k in order:
            neighbour = made[k - order.step] != 0
            if not (doubtful[k].any() and neighbour.any()):
                continue
            count, labels = cv2.connectedComponents(doubtful[k], connectivity=4)
            shared = np.bincount(labels[neighbour], minlength=count)
            wanted = shared * 2 > np.bincount(labels.ravel(), minlength=count)
            wanted[0] = False
            made[k] |= wanted[labels].view(np.uint8)
    return made


def _airway(hu: HuVolume, air: Mask, spacing_mm: float) -> Mask:
    """Trachea and main bronchi with their wall."""
    seed = _trachea(hu, air, spacing_mm)
    return dilate(_followed(hu, air, seed, spacing_mm**2), 1.0) if seed.any() else seed


@dataclass(slots=True)
class _Stack:
    """Round spots over each other: slice numbers, masks, and the place (x, y) of the last one."""

    slices: list[int]
    spots: list[NDArray[np.bool_]]
    place: NDArray[np.float64]


def _trachea(hu: HuVolume, air: Mask, spacing_mm: float) -> Mask:
    """The tallest stack of round, black spots that is near the middle and reaches into the upper half."""
    made = np.zeros_like(air)
    if not air.any():
        return made
    slices, columns = np.flatnonzero(air.any(axis=(1, 2))), np.flatnonzero(air.any(axis=(0, 1)))
    middle = (columns[0] + columns[-1]) / 2
    stacks: list[_Stack] = []
    for k in range(int(slices[-1]), int(slices[0]) - 1, -1):
        for spot, place in _round_spots(hu[k], air[k], spacing_mm**2):
            near = [s for s in stacks if 0 < s.slices[-1] - k <= 2]
            near = [s for s in near if np.hypot(*(s.place - place)) * spacing_mm < 8]
            if near:
                near[0].slices.append(k)
                near[0].spots.append(spot)
                near[0].place = place
            elif k > slices.mean() and abs(place[0] - middle) * spacing_mm < 60:
                stacks.append(_Stack([k], [spot], place))
    best = max(stacks, key=lambda s: len(s.slices), default=None)
    if best is not None and len(best.slices) * spacing_mm > 20:
        for k, spot in zip(best.slices, best.spots, strict=True):
            made[k][spot] = 1
    return made


def _round_spots(
    hu: NDArray[np.int16], air: NDArray[np.uint8], area: float
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Black, compact spots of a trachea's size in one slice, each with its centre (x, y)."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(air, connectivity=4)
    width, height, size = stats[:, 2], stats[:, 3], stats[:, 4]
    round_ones = (size * area >= 60) & (size * area <= 900) & (size > 0.55 * width * height)
    round_ones &= np.maximum(width, height) < 2.2 * np.minimum(width, height)
    round_ones[0] = False
    found = [(labels == i, centres[i]) for i in np.flatnonzero(round_ones)]
    return [(spot, centre) for spot, centre in found if hu[spot].min() < -880]


def _followed(hu: HuVolume, air: Mask, seed: Mask, area: float) -> Mask:
    """The tube that starts with `seed`, traced down slice by slice through its branches."""
    tube = seed.copy()
    for k in range(len(air) - 2, -1, -1):
        above = tube[k + 1] != 0
        if not above.any():
            continue
        # where the bronchus opens into the lung a darker threshold still tells its lumen
        for limit in (_AIR_HU, -880, -940):
            source = air[k] & (hu[k] < limit).view(np.uint8)
            _, labels, stats, _ = cv2.connectedComponentsWithStats(source, connectivity=4)
            for i in np.unique(labels[above]):
                if i != 0 and stats[i, cv2.CC_STAT_AREA] * area <= 900:
                    tube[k][labels == i] = 1
    return tube


def _lung_air(hu: HuVolume, air: Mask, least: float) -> Mask:
    """The regions that are lung: the large ones, and small ones among them.

    Bowel and pockets in the table are blacker than lung. The blackest voxels of a large region may be
    emphysema or a bronchus; a small region with such a core is a gas bubble. Small regions must lie
    in the axial convex hull of the large ones.
    """
    found = regions(air)
    wanted = found.sizes >= least
    large = wanted & (found.sizes > 0.06 * found.sizes.max())
    place = np.flatnonzero(air)
    labels, values = found.labels.ravel()[place], hu.ravel()[place]
    for label in np.flatnonzero(wanted):
        low, half = np.percentile(values[labels == label], [5, 50])
        wanted[label] = half > _GAS_HU and (large[label] or low > _CORE_HU)
    large &= wanted
    main = found.chosen(large)
    if large.sum() == wanted.sum():
        return main
    around = _hulls(main).ravel()[place]
    among = np.bincount(labels, weights=around, minlength=len(wanted))
    return found.chosen(large | (wanted & (among > 0.5 * found.sizes)))


def _hulls(mask: Mask) -> Mask:
    """Each axial slice's convex hull."""
    made = np.zeros_like(mask)
    for k, plane in enumerate(mask):
        points = cv2.findNonZero(plane)
        if points is not None:
            cv2.fillConvexPoly(made[k], cv2.convexHull(points), 1)
    return made


def _sides(hu: HuVolume, lung: Mask, spacing_mm: float) -> NDArray[np.uint8]:
    """Lung voxels labelled left and right.

    In each slice a seam runs from front to back where it crosses the least lung: through the
    mediastinum, and where the lungs touch through the thin membrane between them, which is a little
    denser than they are.
    """
    width = lung.shape[2]
    dense = np.maximum(hu, 0).sum(axis=(0, 1), dtype=np.float64)  # bones and organs lie about the midline
    columns = np.arange(width)
    middle = float((dense * columns).sum() / dense.sum()) if dense.any() else (width - 1) / 2
    first = max(0, round(middle - _SEAM_REACH_MM / spacing_mm))
    last = min(width, first + round(2 * _SEAM_REACH_MM / spacing_mm) + 1)
    strip = slice(first, last)
    cost = np.where(lung[..., strip] != 0, 1.0 - np.clip(hu[..., strip], -1000, 0) / np.float32(1000.0), np.float32(0))
    # going round a lung through the chest wall must cost more than crossing where the lungs touch
    cost += (((columns[strip] - middle) * spacing_mm / _DETOUR_MM) ** 2).astype(np.float32)
    seam = first + _cheapest_seams(cost)
    side = np.where(columns > seam[..., None], np.uint8(LEFT), np.uint8(RIGHT))
    return lung * side


def _cheapest_seams(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """Per slice the column in each row of the cheapest path through all rows, at most two columns a row.

    All slices advance together, row by row (dynamic programming). Shape ``(z, y)`` of ``(z, y, x)``.
    """
    depth, height, width = cost.shape
    moves = np.asarray([0, -1, 1, -2, 2], np.int8)
    best = cost[:, 0].copy()
    came = np.zeros((height, depth, width), np.int8)
    for y in range(1, height):
        padded = np.pad(best, ((0, 0), (2, 2)), constant_values=np.inf)
        ways = np.stack([padded[:, 2 + m : 2 + m + width] for m in moves.tolist()])
        choice = ways.argmin(axis=0)
        came[y] = moves[choice]
        best = ways.min(axis=0) + cost[:, y]
    seam = np.empty((depth, height), np.int64)
    seam[:, -1] = best.argmin(axis=1)
    for y in range(height - 1, 0, -1):
        seam[:, y - 1] = seam[:, y] + came[y, np.arange(depth), seam[:, y]]
    return seam


def _closed(sides: NDArray[np.uint8], airway: Mask, radius: float) -> NDArray[np.uint8]:
    """Each lung closed and its holes filled; no voxel changes sides and the airway stays out."""
    made = sides.copy()
    for side in (LEFT, RIGHT):
        own = (sides == side).view(np.uint8)
        if own.any():
            filled = fill_holes(close(own, radius))
            made[(filled & (made == 0) & (1 - airway)) != 0] = side
    return made


def _warnings(labels: NDArray[np.uint8], voxel_ml: float) -> tuple[ScanWarning, ...]:
    """What a reader should know about these lungs."""
    left, right = (float((labels == side).sum()) * voxel_ml for side in (LEFT, RIGHT))
    found = []
    if min(left, right) == 0:
        found.append(ScanWarning("lungs-not-separated", "Only one lung was found, or the two could not be told apart."))
    for face, name in ((labels[0], "lower"), (labels[-1], "upper")):
        if face.mean() > 0.1:
            found.append(ScanWarning("lungs-cut", f"The {name} end of the scan cuts through the lungs."))
    return tuple(found)


def _index_map(source: Geometry, target: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and shift that take `target`'s index to `source`'s, both (z, y, x)."""
    points = source.to_index(target.to_world(np.vstack([np.zeros(3), np.eye(3)])))
    return (points[1:] - points[0]).T, points[0]


def _stretched(
    labels: NDArray[np.uint8], scale: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Labels at ``scale * index + shift`` of a grid whose axes run along theirs."""
    padded = np.pad(labels, 1, mode="edge")
    shares = [(padded == side).view(np.uint8) * np.uint8(255) for side in (LEFT, RIGHT)]
    z_shift, y_shift, x_shift = shift + 1
    affine = np.array([[scale[2], 0.0, x_shift], [0.0, scale[1], y_shift]])
    made = np.zeros(shape, np.uint8)

    def fill(k: int) -> None:
        place = scale[0] * k + z_shift
        if not 0.5 - 1e-6 <= place <= len(padded) - 1.5 + 1e-6:
            return
        low = int(place)
        for side, share in zip((LEFT, RIGHT), shares, strict=True):
            plane = cv2.addWeighted(share[low], 1 - (place - low), share[low + 1], place - low, 0.0)
            if plane.any():
                flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                fine = cv2.warpAffine(plane, affine, (shape[2], shape[1]), flags=flags)
                made[k][fine > 127] = side

    in_threads(fill, shape[0])
    return made


def _turned(
    labels: NDArray[np.uint8], index_map: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The nearest labels on a grid that is turned against theirs."""
    made = np.zeros(shape, np.uint8)
    rows, columns = np.indices(shape[1:])

    def fill(k: int) -> None:
        index = [
            np.round(a * k + b * rows + c * columns + d).astype(int)
            for (a, b, c), d in zip(index_map, shift, strict=True)
        ]
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)])
        z, y, x = (i[inside] for i in index)
        made[k][inside] = labels[z, y, x]

    in_threads(fill, shape[0])
    return made
