"""HU to what networks and people look at: normalise, resample, crop, window, clear up.

Everything works on plain arrays ``(z, y, x)`` with a `Geometry` beside them, on NumPy and OpenCV
alone. OpenCV releases the interpreter lock, so slices are shared between threads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from noduscope.errors import InputRefused
from noduscope.scan import Box, Geometry, HuVolume
from noduscope.settings import PreprocessSettings, ViewSettings

_MOST_THREADS = 4  # memory bandwidth, not arithmetic, bounds these loops


def clip_normalise(hu: NDArray[np.generic], settings: PreprocessSettings) -> NDArray[np.float32]:
    """HU clipped to ``[hu_low, hu_high]`` and scaled to 0…1.

    Parameters
    ----------
    hu : any shape, integer or float.

    Returns
    -------
    float32 of the same shape.

    Examples
    --------
    >>> clip_normalise(np.array([-2000, -1000, -300, 400, 3000]), PreprocessSettings()).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    made = np.empty(hu.shape, np.float32)
    scale = np.float32(1.0 / (settings.hu_high - settings.hu_low))
    # the outermost axis in turns: each slice stays in the cache for the three passes over it
    for source, target in zip(np.atleast_2d(hu), np.atleast_2d(made), strict=True):
        np.subtract(source, np.float32(settings.hu_low), out=target, dtype=np.float32, casting="same_kind")
        np.multiply(target, scale, out=target)
        np.clip(target, 0.0, 1.0, out=target)
    return made


def resample(
    volume: HuVolume, geometry: Geometry, spacing_mm: float, *, average: bool = False
) -> tuple[HuVolume, Geometry]:
    """The volume on an isotropic grid that covers the same block of tissue.

    The voxel count along each axis is the nearest whole number, so that the outer edges stay where
    they are; the spacing of the answer is therefore `spacing_mm` to within half a voxel in the
    whole length and is told exactly by the returned geometry.

    Parameters
    ----------
    volume : int16 HU ``(z, y, x)`` of `geometry`.
    spacing_mm : wanted voxel edge.
    average : False interpolates linearly between the nearest voxels, as SimpleITK's
        ``sitkLinear`` does, also where it shrinks (0.7 to 1 mm needs no smoothing, and small nodules
        keep their contrast). True averages neighbours first where it shrinks by two or more: for coarse overviews,
        where skipped voxels would be noise.

    Returns
    -------
    int16 HU (within 1 HU of exact linear interpolation: each of two passes rounds) and its geometry.

    Raises
    ------
    InputRefused
        When the volume is not int16 of the geometry's shape or the spacing is not positive.
    """
    if volume.dtype != np.int16 or volume.shape != geometry.shape_zyx:
        raise InputRefused(
            f"resampling needs int16 HU of shape {geometry.shape_zyx}; got {volume.dtype} {volume.shape}"
        )
    if not (np.isfinite(spacing_mm) and spacing_mm > 0):
        raise InputRefused(f"the spacing to resample to must be a positive number of mm; got {spacing_mm}")
    z, y, x = (max(1, round(extent / spacing_mm)) for extent in geometry.extent_zyx_mm)
    return _resize(volume, (z, y, x), average), geometry.resized((z, y, x))


def _resize(volume: HuVolume, shape_zyx: tuple[int, int, int], average: bool) -> HuVolume:
    """Separable resize about voxel centres with the outer edges kept: in the plane, then along z."""
    depth, height, width = shape_zyx
    old_depth = len(volume)
    if (height, width) == volume.shape[1:]:
        flat = volume
    else:
        flat = np.empty((old_depth, height, width), np.int16)
        scale = _halved if average else cv2.resize

        def in_plane(k: int) -> None:
            flat[k] = scale(np.ascontiguousarray(volume[k]), (width, height))

        in_threads(in_plane, old_depth)
    if depth == old_depth:
        return flat.copy() if flat is volume else flat
    made = np.empty(shape_zyx, np.int16)
    step = old_depth / depth

    def along_z(k: int) -> None:
        if average and step > 1.5:
            first = round(k * step)
            last = max(first + 1, round((k + 1) * step))
            made[k] = np.round(flat[first:last].mean(axis=0, dtype=np.float32))
            return
        place = min(max((k + 0.5) * step - 0.5, 0.0), old_depth - 1.0)
        low = min(int(place), old_depth - 2)
        share = place - low
        cv2.addWeighted(flat[low], 1.0 - share, flat[low + 1], share, 0.0, dst=made[k])

    if old_depth == 1:
        made[:] = flat
    else:
        in_threads(along_z, depth)
    return made


def box_around(geometry: Geometry, points_xyz_mm: ArrayLike, margin_mm: float = 0.0) -> Box:
    """The smallest box of voxels that holds points with a margin, clipped to the volume.

    Parameters
    ----------
    points_xyz_mm : LPS mm, shape ``(..., 3)``.
    margin_mm : kept free around them along each array axis.

    Raises
    ------
    InputRefused
        When no voxel of the volume lies in that box.
    """
    index = geometry.to_index(points_xyz_mm).reshape(-1, 3)
    margin = margin_mm / np.asarray(geometry.spacing_zyx_mm)
    low = np.floor(index.min(axis=0) - margin + 0.5).astype(int)
    high = np.floor(index.max(axis=0) + margin + 0.5).astype(int) + 1
    return _clipped_box(geometry, low, high)


def bounding_box(mask: NDArray[np.generic], geometry: Geometry, margin_mm: float = 0.0) -> Box:
    """The smallest box that holds all nonzero voxels with a margin in mm, clipped to the volume.

    Raises
    ------
    InputRefused
        When the mask is empty or not of the geometry's shape.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 9), bool)
    >>> mask[4, 5, 1] = True
    >>> bounding_box(mask, Geometry((9, 9, 9), (1.0, 2.0, 4.0)), margin_mm=3.0)
    (slice(3, 6, None), slice(3, 8, None), slice(0, 5, None))
    """
    if mask.shape != geometry.shape_zyx:
        raise InputRefused(f"the mask has shape {mask.shape}, its geometry {geometry.shape_zyx}")
    if not mask.any():
        raise InputRefused("an empty mask has no bounding box")
    profiles = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    margin = np.ceil(margin_mm / np.asarray(geometry.spacing_zyx_mm)).astype(int)
    low = np.asarray([p[0] for p in profiles]) - margin
    high = np.asarray([p[-1] for p in profiles]) + margin + 1
    return _clipped_box(geometry, low, high)


def _clipped_box(geometry: Geometry, low: NDArray[np.int_], high: NDArray[np.int_]) -> Box:
    """Slices from `low` to before `high`, cut to the volume."""
    start = np.maximum(low, 0).tolist()
    stop = np.minimum(high, geometry.shape_zyx).tolist()
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        raise InputRefused(f"the box from voxel {low.tolist()} to {high.tolist()} lies outside {geometry.shape_zyx}")
    z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
    return (z, y, x)


def labels_on(target: Geometry, labels: NDArray[np.uint8], source: Geometry) -> NDArray[np.uint8]:
    """Labels on another grid, with smooth edges: each label's mask is interpolated linearly.

    Parameters
    ----------
    target : any grid; one whose axes run along the source's (also swapped or flipped) is quick,
        on another the nearest label is taken.
    labels : uint8 ``(z, y, x)`` of `source`; 0 is background.

    Returns
    -------
    uint8 of the target's shape; 0 where the source does not reach.
    """
    points = source.to_index(target.to_world(np.vstack([np.zeros(3), np.eye(3)])))
    matrix, shift = (points[1:] - points[0]).T, points[0]
    order = np.abs(matrix).argmax(axis=0)
    scale = matrix[order, range(3)]
    along = np.zeros_like(matrix)
    along[order, range(3)] = scale
    # what a slight turn moves at the far end of the volume, in source voxels
    stray = np.abs(matrix - along) @ np.asarray(target.shape_zyx)
    if len(set(order.tolist())) < 3 or stray.max() > 0.25:
        return _turned(labels, matrix, shift, target.shape_zyx)
    return _stretched(labels.transpose(order), scale, shift[order], target.shape_zyx)


def _halved(plane: NDArray[np.int16], size: tuple[int, int]) -> NDArray[np.int16]:
    """The plane in another size (width, height): averaged while it is twice that, then interpolated.

    Averaging over fractions of pixels (``INTER_AREA`` at any other factor) takes six times as long.
    """
    while plane.shape[1] >= 2 * size[0] and plane.shape[0] >= 2 * size[1]:
        even = plane.shape[1] % 2 == 0 and plane.shape[0] % 2 == 0
        smaller = (plane.shape[1] // 2, plane.shape[0] // 2) if even else size
        plane = cv2.resize(plane, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(plane, size), np.int16)


def half_size(hu: HuVolume) -> HuVolume:
    """The mean of each 2 × 2 × 2 voxels; what is odd at the ends is cut off. Voxel `i` lies at ``2 * i + 0.5``."""
    z, y, x = (n // 2 for n in hu.shape)
    made = np.empty((z, y, x), np.int16)

    def fill(k: int) -> None:
        below, above = (hu[2 * k + i, : 2 * y, : 2 * x].astype(np.float32) for i in (0, 1))
        plane = cv2.resize(cv2.addWeighted(below, 0.5, above, 0.5, 0.0), (x, y), interpolation=cv2.INTER_AREA)
        made[k] = np.rint(plane)

    in_threads(fill, z)
    return made


def _stretched(
    labels: NDArray[np.uint8], scale: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Labels at ``scale * index + shift`` of a grid whose axes run along theirs."""
    padded = np.pad(labels, 1)
    shares = {int(v): (padded == v).view(np.uint8) * np.uint8(255) for v in np.unique(labels) if v}
    boxes = {v: _reached(share, scale[1:], shift[1:] + 1, shape[1:]) for v, share in shares.items()}
    made = np.zeros(shape, np.uint8)

    def fill(k: int) -> None:
        place = scale[0] * k + shift[0] + 1
        if not 0.5 - 1e-6 <= place <= len(padded) - 1.5 + 1e-6:
            return
        low = int(place)
        for value, share in shares.items():
            plane = cv2.addWeighted(share[low], 1 - (place - low), share[low + 1], place - low, 0.0)
            rows, columns = boxes[value]
            if rows.stop > rows.start and columns.stop > columns.start and plane.any():
                y, x = scale[1:] * (rows.start, columns.start) + shift[1:] + 1
                affine = np.array([[scale[2], 0.0, x], [0.0, scale[1], y]])
                size = (columns.stop - columns.start, rows.stop - rows.start)
                fine = cv2.warpAffine(plane, affine, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
                made[k, rows, columns][fine > 127] = value

    in_threads(fill, shape[0])
    return made


def _reached(
    share: NDArray[np.uint8], scale: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """The rows and columns whose ``scale * index + shift`` lies in what a share holds in any slice."""
    spans = []
    for axis, (a, b, n) in enumerate(zip(scale, shift, shape, strict=True)):
        held = np.flatnonzero(share.any(axis=(0, 2 - axis)))
        ends = sorted(((held[0] - 1 - b) / a, (held[-1] + 1 - b) / a))
        spans.append(slice(max(int(np.floor(ends[0])), 0), min(int(np.ceil(ends[1])) + 1, n)))
    return spans[0], spans[1]


def _turned(
    labels: NDArray[np.uint8], matrix: NDArray[np.float64], shift: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """The nearest labels on a grid that is turned against theirs."""
    made = np.zeros(shape, np.uint8)
    rows, columns = np.indices(shape[1:])

    def fill(k: int) -> None:
        index = [
            np.round(a * k + b * rows + c * columns + d).astype(int) for (a, b, c), d in zip(matrix, shift, strict=True)
        ]
        inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, labels.shape, strict=True)])
        z, y, x = (i[inside] for i in index)
        made[k][inside] = labels[z, y, x]

    in_threads(fill, shape[0])
    return made


def window(hu: NDArray[np.generic], centre: float, width: float) -> NDArray[np.uint8]:
    """HU as grey values: ``centre - width/2`` is black (0), ``centre + width/2`` white (255).

    Raises
    ------
    InputRefused
        For a width that is not positive.

    Examples
    --------
    >>> window(np.array([-1350, -600, 150, 900]), centre=-600, width=1500).tolist()
    [0, 128, 255, 255]
    """
    if not width > 0:
        raise InputRefused(f"the window's width must be a positive number of HU; got {width}")
    grey = (np.asarray(hu, np.float32) - np.float32(centre - width / 2)) * np.float32(255.0 / width)
    made: NDArray[np.uint8] = np.clip(np.round(grey), 0, 255).astype(np.uint8)
    return made


def clear_view(slice_hu: NDArray[np.generic], settings: ViewSettings) -> NDArray[np.uint8]:
    """A slice for the eye: noise smoothed but edges kept, then local contrast evened out. Never model input.

    A bilateral filter [1]_ works on HU, so that its strength has a physical unit, then the window
    is applied, then contrast-limited adaptive histogram equalisation [2]_.

    Parameters
    ----------
    slice_hu : HU of one plane, shape ``(rows, columns)``.

    References
    ----------
    .. [1] C. Tomasi, R. Manduchi, "Bilateral filtering for gray and color images", ICCV 1998.
    .. [2] K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994.
    """
    if slice_hu.ndim != 2:
        raise InputRefused(f"a view is made of one slice (rows, columns); got shape {slice_hu.shape}")
    low = settings.window_centre_hu - settings.window_width_hu / 2
    # what the window hides must not set the filter's range tables
    hu = np.clip(slice_hu, low, low + settings.window_width_hu).astype(np.float32)
    if settings.denoise_hu > 0:
        hu = cv2.bilateralFilter(hu, 5, settings.denoise_hu, 1.5)
    grey = window(hu, settings.window_centre_hu, settings.window_width_hu)
    if settings.contrast_limit > 0:
        grey = cv2.createCLAHE(settings.contrast_limit, (8, 8)).apply(grey)
    return grey


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Call ``work(0)`` … ``work(count - 1)``, shared between threads; for OpenCV and NumPy bodies."""
    threads = min(os.cpu_count() or 1, _MOST_THREADS, count)
    if threads < 2:
        for k in range(count):
            work(k)
        return

    def run(part: range) -> None:
        for k in part:
            work(k)

    # contiguous runs: a thread reads each slice it shares with its neighbour only once
    edges = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, [range(a, b) for a, b in itertools.pairwise(edges)]))
