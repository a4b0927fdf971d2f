"""The stages of ``detect`` inside one process, each beside other software that does the same work.

Ours and the references run in turn, round by round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import Row, row
from noduscope.io.read import read_scan
from noduscope.lungs import find_lungs
from noduscope.model.engine import find_marks, heat_volume
from noduscope.morphology import regions
from noduscope.patches import keep_core, lung_tiles, read_box
from noduscope.predict import Models, load_models, predict
from noduscope.preprocess import clip_normalise, resample
from noduscope.region import MARGIN_MM, LungRegion, lung_region
from noduscope.report.write import write_result
from noduscope.scan import Geometry, Scan
from noduscope.settings import Settings

Work = Callable[[], Any]
_AIR_HU = -400  # as in the lungs' first step: a mask with many regions, large and small


def measure_stages(scan_path: Path, model: str, rounds: int, scratch: Path) -> Iterator[Row]:
    """Every stage as it is done; at last ``{"scan": …, "network": …}``."""

    def timed(name: str, works: dict[str, Work], compare: Callable[[Any, Any], str] = lambda *_: "") -> Row:
        ours, *others = (work() for work in works.values())  # warms up, too
        notes = tuple(compare(ours, other) for other in others)
        seconds: dict[str, list[float]] = {n: [] for n in works}
        for _ in range(rounds):
            for way, work in works.items():
                start = time.perf_counter()
                work()
                seconds[way].append(time.perf_counter() - start)
        return row(name, seconds, notes)

    yield timed("read", {"noduscope": lambda: read_scan(scan_path).hu, "SimpleITK": _itk_reading(scan_path)}, _hu)
    scan, settings = read_scan(scan_path), Settings()
    yield timed("load network", {"noduscope": lambda: load_models(model)})
    models = load_models(model)
    own = models.detector.settings.preprocess
    yield timed("lungs", {"noduscope": lambda: find_lungs(scan, settings.lungs)})
    air = resample(scan.hu, scan.geometry, settings.lungs.spacing_mm, average=True)[0] < _AIR_HU
    yield timed("label", {"noduscope": lambda: len(regions(air).sizes) - 1, "scipy": lambda: _scipy_label(air)}, _count)
    lungs = find_lungs(scan, settings.lungs)
    canonical = scan.canonical()
    part = canonical.cropped(lungs.bounding_box(canonical.geometry, MARGIN_MM))
    region = lung_region(scan, lungs, own.spacing_mm)
    ours: dict[str, Work] = {"noduscope": lambda: resample(part.hu, part.geometry, own.spacing_mm)[0]}
    yield timed("resample", ours | _resamplers(part, region.geometry), _hu)
    ours = {"noduscope": lambda: heat_volume(models.engine, region.hu, region.lungs, own)}
    yield timed("search", ours | _keras_inference(models, region), _logits)
    yield timed(
        "detect", {"noduscope": lambda: find_marks(models.engine, region.hu, region.lungs, own, settings.detect)}
    )
    results = [predict(scan, models) for _ in range(rounds)]
    yield row("measure", {"noduscope": [r.timing_s["measure"] for r in results]})
    folder = scratch / "written"

    def write() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_result(results[0], folder, settings)

    yield timed("write", {"noduscope": write})
    spacing = [round(s, 4) for s in scan.geometry.spacing_xyz_mm]
    about = {"series_uid": scan.source.series_uid, "shape_zyx": scan.geometry.shape_zyx, "spacing_xyz_mm": spacing}
    about["findings"] = len(results[0].nodules)
    yield {"scan": about, "network": convolution_work(models, region)}


def convolution_work(models: Models, region: LungRegion) -> dict[str, Any]:
    """Tiles, voxels and GFLOP of the network on one scan, counted from the convolutions of the exported graph.

    ``gflop_search`` is of the search at full size, ``gflop`` of all that `find_marks` asks of the network.
    """
    import openvino as ov

    network = ov.Core().read_model(models.detector.network)

    def gflop(shape: tuple[int, ...]) -> float:
        network.reshape(list(shape))
        convolutions = [n for n in network.get_ops() if n.get_type_name() == "Convolution"]
        # a multiplication and an addition for each weight that an output value sees
        return sum(2e-9 * np.prod(n.output(0).get_shape()) * np.prod(n.input(1).get_shape()[1:]) for n in convolutions)

    asked: Counter[tuple[int, ...]] = Counter()

    def counted(batch: Any) -> Any:
        asked[batch.shape] += 1
        return models.engine(batch)

    find_marks(counted, region.hu, region.lungs, models.detector.settings.preprocess, Settings().detect)
    tiles = [(1, *(b.stop - b.start for b in tile.read), 1) for tile in lung_tiles(region.lungs)]
    return {
        "tiles": len(tiles),
        "voxels": sum(int(np.prod(t)) for t in tiles),
        "gflop_search": sum(gflop(t) for t in tiles),
        "gflop": sum(times * gflop(shape) for shape, times in asked.items()),
        "precision": models.engine.precision,
    }


def _itk_reading(path: Path) -> Work:
    import SimpleITK as sitk  # noqa: N813

    def read() -> Any:
        if path.is_file():
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        return sitk.GetArrayFromImage(reader.Execute())

    return read


def _scipy_label(mask: Any) -> int:
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    np.bincount(labels.ravel())  # ours counts the voxels of each region, too
    return int(count)


def _resamplers(part: Scan, target: Geometry) -> dict[str, Work]:
    import SimpleITK as sitk  # noqa: N813
    from scipy import ndimage

    hu = np.ascontiguousarray(part.hu)

    def itk() -> Any:
        image = sitk.GetImageFromArray(hu)
        grid = sitk.Image(*target.shape_zyx[::-1], sitk.sitkInt16)
        for made, geometry in ((image, part.geometry), (grid, target)):
            made.SetSpacing(geometry.spacing_xyz_mm)
            made.SetOrigin(geometry.origin_xyz_mm)
            made.SetDirection(geometry.direction)
        return sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, -1024))

    zoom = np.divide(target.shape_zyx, hu.shape)
    return {"SimpleITK": itk, "scipy": lambda: ndimage.zoom(hu, zoom, order=1, mode="nearest", grid_mode=True)}


def _keras_inference(models: Models, region: LungRegion) -> dict[str, Work]:
    """The same weights on the same tiles in Keras; nothing where it is not installed."""
    weights = models.detector.path / "detector.weights.h5"
    if importlib.util.find_spec("keras") is None or not weights.exists():
        return {}
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from noduscope.boxes import CHANNELS, STRIDE
    from noduscope.model.detector import build_detector

    network = build_detector(models.detector.settings.detector)
    network.load_weights(weights)
    settings = models.detector.settings.preprocess

    def infer() -> Any:
        output = np.full((*(-(-n // STRIDE) for n in region.hu.shape), CHANNELS), -20.0, np.float32)
        for tile in lung_tiles(region.lungs):
            block = clip_normalise(read_box(region.hu, tile.read, int(settings.hu_low)), settings)
            keep_core(output, network.predict_on_batch(block[None, ..., None])[0], tile, STRIDE)
        return output

    return {f"Keras on {keras.backend.backend()}": infer}


def _count(ours: int, other: int) -> str:
    return "same regions" if ours == other else f"{other} regions, not {ours}"


def _hu(ours: Any, other: Any) -> str:
    if ours.shape != other.shape:
        return f"shape {other.shape}, not {ours.shape}"
    return f"within {int(np.abs(ours.astype(np.int32) - np.maximum(other, -1024)).max())} HU"


def _logits(ours: Any, other: Any) -> str:
    return f"logits within {float(np.abs(ours[..., 0] - other[..., 0]).max()):.0e}"
