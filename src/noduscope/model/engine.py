"""Running networks on the CPU with OpenVINO. The only module of the prediction path that imports it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import CHANNELS, HEAT, STRIDE, Marks, decode, strongest
from noduscope.patches import keep_core, lung_tiles, read_box
from noduscope.preprocess import clip_normalise, half_size
from noduscope.settings import DetectSettings, PreprocessSettings

if TYPE_CHECKING:
    import openvino as ov

MASS_MM = 25.0
"""Marks at least this large are sought at half size."""
_NOTHING = -20.0  # logit where the network did not look


def _runtime() -> ModuleType:
    """OpenVINO, loaded when first asked for, so that `detect` can do so in a thread while it reads the scan.

    Its package takes in the converter of other frameworks' models, which is two thirds of the loading and
    never used here; the package goes without where that cannot be imported.
    """
    converter = "openvino.tools.ovc"
    if "openvino" not in sys.modules:
        sys.modules[converter] = None  # type: ignore[assignment]  # how Python marks what cannot be imported
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules[converter]
    return importlib.import_module("openvino")


class Engine:
    """A compiled network.

    Parameters
    ----------
    model : an ``.xml`` file or an OpenVINO model in memory.
    threads : processor threads; 0 takes all.

    Attributes
    ----------
    precision : the number format it computes in, ``f32``, or ``bf16`` where the processor has the units for it.
    """

    def __init__(self, model: Path | ov.Model, threads: int = 0) -> None:
        core = _runtime().Core()
        read = core.read_model(model) if isinstance(model, Path) else model
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        compiled = core.compile_model(read, "CPU", options)
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self._request = compiled.create_infer_request()

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The network's outputs for one input batch; each a copy of its own."""
        answer = self._request.infer([batch], share_inputs=True)
        return [np.array(v) for v in answer.values()]


def heat_volume(
    engine: Engine, hu: NDArray[np.int16], lungs: NDArray[np.uint8], settings: PreprocessSettings
) -> NDArray[np.float32]:
    """The detector's output over a lung region, ``(cells z, y, x, CHANNELS)``; `_NOTHING` far from the lungs."""
    output = np.zeros((*(-(-n // STRIDE) for n in hu.shape), CHANNELS), np.float32)
    output[..., HEAT] = _NOTHING
    for tile in lung_tiles(lungs):
        block = read_box(hu, tile.read, int(settings.hu_low))
        (cells,) = engine(clip_normalise(block, settings)[None, ..., None])
        keep_core(output, cells[0], tile, STRIDE)
    return output


def find_marks(
    engine: Engine,
    hu: NDArray[np.int16],
    lungs: NDArray[np.uint8],
    preprocess: PreprocessSettings,
    settings: DetectSettings,
) -> Marks:
    """The detector's marks in a lung region, strongest first.

    It is searched twice: as it is, and at half size for what is larger than `MASS_MM`, which fills what the
    network looks at and shows it no edge. That costs an eighth more.

    Parameters
    ----------
    hu : int16 (z, y, x) on the network's grid.
    lungs : uint8 (z, y, x); marks further than 4 voxels from them are dropped.
    """

    def search(hu: NDArray[np.int16], lungs: NDArray[np.uint8]) -> Marks:
        output = heat_volume(engine, hu, lungs, preprocess)
        found = decode(output, preprocess.spacing_mm, (-4.0, settings.max_candidates, settings.min_separation_mm))
        return found.take(np.flatnonzero(near_lungs(found, lungs)))

    marks = search(hu, lungs)
    half = half_size(hu)
    z, y, x = half.shape
    coarse = search(half, lungs[::2, ::2, ::2][:z, :y, :x])
    large = coarse.take(np.flatnonzero(2 * coarse.diameter_mm >= MASS_MM))
    masses = Marks(2 * large.centre_zyx + np.float32(0.5), large.score, 2 * large.diameter_mm)
    return strongest((marks, masses), preprocess.spacing_mm, settings.min_separation_mm, settings.max_candidates)


def near_lungs(marks: Marks, lungs: NDArray[np.uint8], margin: int = 4) -> NDArray[np.bool_]:
    """Whether each mark lies in the lungs or within `margin` voxels of them."""
    kept = np.zeros(len(marks), dtype=bool)
    for i, centre in enumerate(np.rint(marks.centre_zyx).astype(int)):
        box = tuple(slice(max(c - margin, 0), max(c + margin + 1, 0)) for c in centre)
        kept[i] = bool(lungs[box].any())
    return kept
