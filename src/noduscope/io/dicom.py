"""A DICOM series into a `Scan`: order, gaps, tilt, duplicates, HU."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.io.headers import Series, Slice
from noduscope.io.hounsfield import AIR_HU, require_hu, require_size
from noduscope.io.pixels import read_hu_into
from noduscope.io.slices import SliceGrid, drop_duplicates, even_grid, slice_axes
from noduscope.scan import Geometry, HuVolume, Scan, ScanSource, ScanWarning

_SHOWN: Final = (
    ("manufacturer", "Manufacturer"),
    ("model", "ManufacturerModelName"),
    ("kernel", "ConvolutionKernel"),
    ("tube_kv", "KVP"),
    ("slice_thickness_mm", "SliceThickness"),
    ("description", "SeriesDescription"),
)


def read_series(series: Series, *, workers: int = 2) -> Scan:
    """Read the images of a series into one volume.

    Parameters
    ----------
    series : its images, in any order.
    workers : threads that read and decode.

    Returns
    -------
    Scan
        Slices ascend along the slice normal; one SOPInstanceUID and file per slice.

    Raises
    ------
    InputRefused
        Where no right volume can be made; the message says which slices are at fault.
    """
    name = f"series {series.uid}"
    images, warnings = _distinct(series.slices)
    _refuse_mixed(images, name)
    first = images[0]
    require_size((len(images), first.pixels.rows, first.pixels.columns), name)
    axes = slice_axes(first.orientation or ())
    positions = np.array([image.position for image in images], dtype=float)
    order, found = drop_duplicates(positions @ axes[:, 2], _ranks(images))
    grid = even_grid(positions, axes, order)
    warnings = (*warnings, *found, *grid.warnings, *_oddities(images))
    hu = _read_planes(images, order, workers)
    if grid.shift_xy_mm.any():
        _straighten(hu, grid.shift_xy_mm[order], first.spacing_yx or (1.0, 1.0))
    hu = _on_grid(hu, order, grid)
    require_hu(hu, name)
    y_mm, x_mm = first.spacing_yx or (1.0, 1.0)
    x, y, z = (float(v) for v in positions[order[0]])
    geometry = Geometry(hu.shape, (x_mm, y_mm, grid.spacing_mm), (x, y, z), tuple(axes.ravel().tolist()))
    planes = [images[i] for i in grid.nearest]
    source = ScanSource(
        series_uid=series.uid,
        reader="dicom",
        sop_instance_uids=tuple(image.text("SOPInstanceUID") for image in planes),
        files=tuple(str(image.path) for image in planes),
        description=tuple((label, first.text(keyword)) for label, keyword in _SHOWN if first.text(keyword)),
    )
    return Scan(hu, geometry, source, warnings)


def _distinct(images: Sequence[Slice]) -> tuple[list[Slice], tuple[ScanWarning, ...]]:
    """One of each SOPInstanceUID and frame: copies of a file are dropped."""
    unique = {(image.text("SOPInstanceUID") or str(image.path), image.frame): image for image in reversed(images)}
    copies = len(images) - len(unique)
    if not copies:
        return list(images), ()
    text = f"{copies} file(s) ignored: another file holds the same image (equal SOPInstanceUID)"
    return list(reversed(unique.values())), (ScanWarning("duplicate-file", text),)


def _refuse_mixed(images: Sequence[Slice], name: str) -> None:
    """Refuse images that do not share a size, an orientation or a pixel spacing."""
    for what, counts in (
        ("sizes", Counter(f"{i.pixels.rows} × {i.pixels.columns}" for i in images)),
        ("orientations", Counter(_rounded(i.orientation or (), 2) for i in images)),
        ("pixel spacings (mm)", Counter(_rounded(i.spacing_yx or (), 3) for i in images)),
    ):
        if len(counts) > 1:
            listed = ", ".join(f"{key}: {count} images" for key, count in counts.most_common(4))
            raise InputRefused(f"{name} mixes {what} ({listed}); export one stack as a series of its own")


def _rounded(values: tuple[float, ...], digits: int) -> str:
    # + 0.0 turns -0.0 into 0.0
    return " ".join(f"{round(v, digits) + 0.0:g}" for v in values)


def _ranks(images: Sequence[Slice]) -> NDArray[np.intp]:
    """Preference among images at one place: of the acquisition with more images, then the earlier file."""
    sizes = Counter(image.text("AcquisitionNumber") for image in images)
    preferred = sorted(range(len(images)), key=lambda i: (-sizes[images[i].text("AcquisitionNumber")], i))
    ranks = np.empty(len(images), dtype=np.intp)
    ranks[preferred] = np.arange(len(images))
    return ranks


def _oddities(images: Sequence[Slice]) -> tuple[ScanWarning, ...]:
    """What the headers say that the user must know."""
    warnings = []
    frames = {image.text("FrameOfReferenceUID") for image in images}
    if len(frames) > 1:
        text = f"{len(frames)} frames of reference in one series; the slice positions are taken as of one frame"
        warnings.append(ScanWarning("frames-of-reference", text))
    missing = sum(image.slope is None or image.intercept is None for image in images)
    if missing:
        text = (
            f"no rescale slope or intercept in {missing} of {len(images)} images; the stored numbers were taken as HU"
        )
        warnings.append(ScanWarning("rescale-missing", text))
    kernels = {image.text("ConvolutionKernel") for image in images}
    if len(kernels) > 1:
        warnings.append(ScanWarning("mixed-kernels", f"{len(kernels)} reconstruction kernels in one series"))
    return tuple(warnings)


def _read_planes(images: Sequence[Slice], order: NDArray[np.intp], workers: int) -> HuVolume:
    """HU of the images in this order, shape (slices, rows, columns)."""
    pixels = images[0].pixels
    hu = np.empty((len(order), pixels.rows, pixels.columns), dtype=np.int16)
    by_file: dict[str, list[int]] = defaultdict(list)
    for plane, index in enumerate(order):
        by_file[str(images[index].path)].append(plane)

    def read(planes: list[int]) -> None:
        read_hu_into([hu[plane] for plane in planes], [images[order[plane]] for plane in planes])

    if workers < 2 or len(by_file) == 1:
        for planes in by_file.values():
            read(planes)
        return hu
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(read, by_file.values()):
            pass
    return hu


def _straighten(hu: HuVolume, shift_xy_mm: NDArray[np.float64], spacing_yx: tuple[float, float]) -> None:
    """Move each slice in its plane by its drift, in place, by linear interpolation; what comes in is air."""
    import cv2  # noqa: PLC0415 -- only a tilted gantry needs it

    rows, columns = hu.shape[1:]
    for plane, (dx, dy) in zip(hu, shift_xy_mm, strict=True):
        matrix = np.array([[1.0, 0.0, dx / spacing_yx[1]], [0.0, 1.0, dy / spacing_yx[0]]])
        plane[:] = cv2.warpAffine(plane, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderValue=(AIR_HU,) * 4)


def _on_grid(hu: HuVolume, order: NDArray[np.intp], grid: SliceGrid) -> HuVolume:
    """The planes of the grid; the same array when every plane is a real slice."""
    if len(grid.weight) == len(order) and not grid.weight.any():
        return hu
    place = np.empty(int(order.max()) + 1, dtype=np.intp)
    place[order] = np.arange(len(order))
    out = np.empty((len(grid.weight), *hu.shape[1:]), dtype=np.int16)
    for plane, (low, high, weight) in enumerate(zip(place[grid.lower], place[grid.upper], grid.weight, strict=True)):
        if weight == 0:
            out[plane] = hu[low]
        else:
            out[plane] = np.rint(hu[low] * (1 - weight) + hu[high] * weight)
    return out
