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
from noduscope.morphology import Mask, close, dilate, erode, fill_holes, regions
from noduscope.preprocess import bounding_box, box_around, in_threads, resample
from noduscope.scan import Box, Geometry, HuVolume, Scan, ScanWarning
from noduscope.settings import LungSettings

LEFT, RIGHT = 1, 2
"""Labels: the patient's left lung lies towards +x (LPS), the right towards -x."""

_AIR_HU = -400  # halfway between aerated lung and soft tissue: the edge lands where a reader draws it
_OPEN_AIR_HU = -930  # air around the patient is -1000, the blackest lung about -950 at its core
_GAS_HU = -960  # median of bowel gas and pockets in the table
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
    air = _enclosed_air(hu)
    airway = _airway(hu, air, settings.spacing_mm)
    lung = _without_gas(hu, air & (1 - airway), _LEAST_PART_ML / voxel_ml)
    if lung.sum() * voxel_ml < _LEAST_LUNG_ML:
        raise NoScanFound(
            f"no lungs in {scan.source.series_uid}: only {lung.sum() * voxel_ml:.0f} ml look like lung, at least "
            f"{_LEAST_LUNG_ML:.0f} ml are expected; choose a series that shows the chest"
        )
    sides = _sides(lung, airway, settings.spacing_mm)
    labels = _closed(sides, airway, settings.closing_mm / settings.spacing_mm)
    return Lungs(labels, geometry, _warnings(labels, voxel_ml))


def _enclosed_air(hu: HuVolume) -> Mask:
    """Air that does not reach the side of its slice, and lung that does because the scan is cropped."""
    air = (hu < _AIR_HU).view(np.uint8)
    made = np.zeros_like(air)

    def keep(k: int) -> None:
        count, labels = cv2.connectedComponents(air[k], connectivity=4, ltype=cv2.CV_32S)
        wanted = np.ones(count, np.uint8)
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        for label in np.unique(edge):
            wanted[label] = label != 0 and np.median(hu[k][labels == label]) > _OPEN_AIR_HU
        wanted[0] = 0
        made[k] = wanted[labels]

    in_threads(keep, len(air))
    return made


def _airway(hu: HuVolume, air: Mask, spacing_mm: float) -> Mask:
    """Trachea and main bronchi with their wall: followed downwards as long as they are round and on their own."""
    seed = _trachea(_round_spots(hu, air, spacing_mm**2), air, spacing_mm)
    return dilate(_followed(hu, air, seed, spacing_mm**2), 1.0) if seed.any() else seed


def _round_spots(hu: HuVolume, air: Mask, area: float) -> Mask:
    """Black, compact spots of a trachea's size in the axial slices."""
    made = np.zeros_like(air)

    def pick(k: int) -> None:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(air[k], connectivity=4)
        for i in range(1, count):
            _, _, width, height, size = stats[i]
            if not (60 <= size * area <= 900 and max(width, height) < 2.2 * min(width, height)):
                continue
            if size > 0.55 * width * height and hu[k][labels == i].min() < -880:
                made[k][labels == i] = 1

    in_threads(pick, len(air))
    return made


def _trachea(spots: Mask, air: Mask, spacing_mm: float) -> Mask:
    """The tallest stack of round spots that is near the middle and reaches into the upper half."""
    best = np.zeros_like(spots)
    if not spots.any():
        return best
    slices, columns = np.flatnonzero(air.any(axis=(1, 2))), np.flatnonzero(air.any(axis=(0, 1)))
    found = regions(spots)
    longest = 20.0 / spacing_mm
    for label in np.argsort(found.sizes)[::-1][:12]:
        own = found.chosen(np.arange(len(found.sizes)) == label)
        if not own.any():
            break
        z, _, x = np.nonzero(own)
        central = abs(x.mean() - (columns[0] + columns[-1]) / 2) * spacing_mm < 60
        if central and z.max() > (slices[0] + slices[-1]) / 2 and np.ptp(z) > longest:
            best, longest = own, float(np.ptp(z))
    return best


def _followed(hu: HuVolume, air: Mask, seed: Mask, area: float) -> Mask:
    """The tube that starts with `seed`, traced down slice by slice through its branches."""
    tube = seed.copy()
    for k in range(len(air) - 2, -1, -1):
        above = tube[k + 1]
        if not above.any():
            continue
        for source in (air[k], air[k] & (hu[k] < -880), air[k] & (hu[k] < -940)):
            _, labels, stats, _ = cv2.connectedComponentsWithStats(source.astype(np.uint8), connectivity=4)
            for i in np.unique(labels[above != 0]):
                if i != 0 and stats[i, cv2.CC_STAT_AREA] * area <= 900:
                    tube[k][labels == i] = 1
    return tube


def _without_gas(hu: HuVolume, air: Mask, least: float) -> Mask:
    """The regions that are large enough and not as black as gas."""
    found = regions(air)
    wanted = found.sizes >= least
    for label in np.flatnonzero(wanted):
        if label:
            wanted[label] = np.median(hu[found.labels == label]) > _GAS_HU
    return found.chosen(wanted)


def _sides(lung: Mask, airway: Mask, spacing_mm: float) -> NDArray[np.uint8]:
    """Lung voxels labelled left and right."""
    for steps in range(6):
        core = erode(lung, float(steps)) if steps else lung
        found = regions(core)
        by_size = np.argsort(found.sizes)[::-1][:2]
        if len(by_size) == 2 and found.sizes[by_size[1]] > 0.06 * found.sizes[by_size[0]]:
            centres = [float(np.nonzero(found.labels == i)[2].mean()) for i in by_size]
            if abs(centres[0] - centres[1]) * spacing_mm > 60:
                break
    else:
        columns = np.nonzero(airway if airway.any() else lung)[2]
        side = LEFT if np.nonzero(lung)[2].mean() > columns.mean() else RIGHT
        return lung * np.uint8(side)
    left, right = by_size[np.argsort(centres)[::-1]]
    labels = np.zeros(lung.shape, np.uint8)
    labels[found.labels == left] = LEFT
    labels[found.labels == right] = RIGHT
    return _grown(labels, lung, sum(centres) / 2)


def _grown(labels: NDArray[np.uint8], lung: Mask, middle: float) -> NDArray[np.uint8]:
    """The labels spread through the rest of the lung mask; parts on their own go by their place."""
    for _ in range(12):
        open_ones = lung & (labels == 0)
        if not open_ones.any():
            return labels
        for side in (LEFT, RIGHT):
            labels[(dilate((labels == side).view(np.uint8), 1.0) & lung & (labels == 0)) != 0] = side
    rest = lung & (labels == 0)
    columns = np.arange(lung.shape[2]) > middle
    labels[rest != 0] = np.broadcast_to(np.where(columns, LEFT, RIGHT), lung.shape)[rest != 0]
    return labels


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
