"""Where the lungs are: found once on a coarse grid, asked at points, boxes and any other grid.

The method, on 2.5 mm voxels: air that does not reach the side of the slices; without bowel gas (which
is blacker than any lung) and without the trachea and main bronchi (round, black and on their own
in the slice); split into left and right; closed by a ball so that vessels and nodules on the
pleura stay inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.airway import find_airway
from noduscope.errors import NoScanFound
from noduscope.morphology import Mask, close, fill_holes, regions
from noduscope.preprocess import bounding_box, box_around, in_threads, labels_on, resample
from noduscope.scan import Box, Geometry, HuVolume, Scan, ScanWarning
from noduscope.settings import LungSettings
from noduscope.thorax import LEFT, RIGHT, midline, part_lungs, solid_parts

__all__ = ["LEFT", "RIGHT", "Lungs", "find_lungs"]

_AIR_HU = -400  # halfway between aerated lung and soft tissue: the edge lands where a reader draws it
_OPEN_AIR_HU = -930  # air around the patient is -1000, the blackest lung about -950 at its core
_MATTRESS_MM = 25.0  # half the thickness of what a lung exceeds and a mattress does not
_GAS_HU = -960  # median of bowel gas and pockets in the table
_CORE_HU = -940  # 5th percentile of a small part: darker is a gas bubble
_LEAST_LUNG_ML = 150.0  # both together; a single adult lobe at end-expiration has more
_LEAST_PART_ML = 0.5
_LARGE_SHARE = 0.06  # of the largest region: a collapsed lung beside a full one has more
_GULLET_MM = 25.0  # from the midline
_CUT_SHARE = 0.05  # of the end slice


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
        return labels_on(geometry, self.labels, self.geometry)


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
    airway = find_airway(hu, air, settings.spacing_mm)
    middle = midline(hu, airway, settings.spacing_mm)
    lung = _continued(_lung_air(hu, air & (1 - airway), middle, settings.spacing_mm), doubtful)
    if lung.sum() * voxel_ml < _LEAST_LUNG_ML:
        raise NoScanFound(
            f"no lungs in {scan.source.series_uid}: only {lung.sum() * voxel_ml:.0f} ml look like lung, at least "
            f"{_LEAST_LUNG_ML:.0f} ml are expected; choose a series that shows the chest"
        )
    # all that follows happens where the lungs are, or should be by the other one's mirror image
    rows, columns = bounding_box(lung, geometry, settings.closing_mm)[:2], np.flatnonzero(lung.any(axis=(0, 1)))
    half = max(middle - columns[0], columns[-1] - middle) + settings.closing_mm / settings.spacing_mm
    box = (*rows, slice(max(0, int(middle - half)), int(middle + half) + 2))
    labels = np.zeros(hu.shape, np.uint8)
    labels[box], solid = _labelled(hu[box], lung[box], airway[box], middle - box[2].start, settings)
    return Lungs(labels, geometry, _warnings(labels, solid, voxel_ml))


def _labelled(
    hu: HuVolume, lung: Mask, airway: Mask, middle: float, settings: LungSettings
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Left and right lung, closed and with their solid parts; and those parts alone."""
    radius = settings.closing_mm / settings.spacing_mm
    labels = _closed(part_lungs(hu, lung, middle, settings.spacing_mm), airway, radius)
    solid = solid_parts(hu, labels, airway, middle, settings.spacing_mm)
    if solid.any():
        labels = _closed(np.maximum(labels, solid), airway, radius)
    return labels, solid


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


def _lung_air(hu: HuVolume, air: Mask, middle: float, spacing_mm: float) -> Mask:
    """The regions that are lung: the large ones, and small ones among them (aerated rests in a dense lobe).

    Bowel and pockets in the table are blacker than lung. The blackest voxels of a large region may be
    emphysema or a bronchus; a small region with such a core is a gas bubble.
    """
    found = regions(air)
    wanted = found.sizes >= _LEAST_PART_ML * 1000.0 / spacing_mm**3
    large = wanted & (found.sizes > _LARGE_SHARE * found.sizes.max())
    place = np.flatnonzero(air)
    labels, values = found.labels.ravel()[place], hu.ravel()[place]
    for label in np.flatnonzero(wanted):
        low, half = np.percentile(values[labels == label], [5, 50])
        wanted[label] = half > _GAS_HU and (large[label] or low > _CORE_HU)
    large &= wanted
    main = found.chosen(large)
    if large.sum() == wanted.sum():
        return main
    around = _between(main, middle, spacing_mm).ravel()[place]
    among = np.bincount(labels, weights=around, minlength=len(wanted))
    return found.chosen(large | (wanted & (among > 0.5 * found.sizes)))


def _between(main: Mask, middle: float, spacing_mm: float) -> Mask:
    """Where a small part of lung may lie: in the axial hull of the large ones.

    But not in their lowest third, where the stomach is, nor by the midline, where the gullet is.
    """
    made = np.zeros_like(main)
    slices = np.flatnonzero(main.any(axis=(1, 2)))
    for k in slices[len(slices) // 3 :]:
        cv2.fillConvexPoly(made[k], cv2.convexHull(cv2.findNonZero(main[k])), 1)
    made[..., np.abs(np.arange(main.shape[2]) - middle) * spacing_mm < _GULLET_MM] = 0
    return made


def _closed(sides: NDArray[np.uint8], airway: Mask, radius: float) -> NDArray[np.uint8]:
    """Each lung closed and its holes filled; no voxel changes sides and the airway stays out."""
    made = sides.copy()
    for side in (LEFT, RIGHT):
        own = (sides == side).view(np.uint8)
        if own.any():
            filled = fill_holes(close(own, radius))
            made[(filled & (made == 0) & (1 - airway)) != 0] = side
    return made


def _warnings(labels: NDArray[np.uint8], solid: NDArray[np.uint8], voxel_ml: float) -> tuple[ScanWarning, ...]:
    """What a reader should know about these lungs."""
    found = []
    for side, name in ((LEFT, "left"), (RIGHT, "right")):
        if not (labels == side).any():
            found.append(ScanWarning("lung-missing", f"No {name} lung was found."))
        dense = float((solid == side).sum()) * voxel_ml
        if dense:
            text = f"About {dense:.0f} ml of solid tissue were counted as {name} lung: a mass, collapse or fluid."
            found.append(ScanWarning("lung-solid", text))
    for face, name in ((labels[0], "lower"), (labels[-1], "upper")):
        if (face != 0).mean() > _CUT_SHARE:
            found.append(ScanWarning("lungs-cut", f"The {name} end of the scan cuts through the lungs."))
    return tuple(found)
