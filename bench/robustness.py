"""``python -m bench.robustness``: the detector's figures on the validation and test volumes, plain and altered.

Each variant alters the prepared volumes as another scanner, protocol or position would; every curve has its own
threshold, since what is asked is how well nodules still stand out. A Markdown table on standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from noduscope.augment import Crop, enhanced, noise_bank, thick_slices
from noduscope.boxes import Lesion
from noduscope.data.validation import KnownVolume, match
from noduscope.finish import calibration_gap
from noduscope.model.bundle import Bundle, find_bundle, load_bundle
from noduscope.model.engine import Engine, find_marks
from noduscope.train import implants_of

Change: TypeAlias = Callable[[KnownVolume], KnownVolume]

_QUARTER_DOSE_HU = 40.0
"""Noise to add to a scan of 23 HU noise for four times its variance: 23 * sqrt(3)."""
_IODINE_HU = 150.0
"""What a contrast agent adds to blood and well-supplied tissue."""


def _of_hu(change: Callable[[Crop], Crop]) -> Change:
    def apply(volume: KnownVolume) -> KnownVolume:
        hu = change(volume.hu.astype(np.float32))
        return replace(volume, hu=np.clip(np.rint(hu), -1024, 3071).astype(np.int16))

    return apply


def _noisy(hu: Crop) -> Crop:
    bank = noise_bank(np.random.default_rng(0))
    tiles = [-(-n // b) for n, b in zip(hu.shape, bank.shape, strict=True)]
    z, y, x = hu.shape
    return hu + np.float32(_QUARTER_DOSE_HU) * np.tile(bank, tiles)[:z, :y, :x]


def _blurred(hu: Crop, sigma: float) -> Crop:
    return np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in hu])


def _sharpened(hu: Crop) -> Crop:
    return hu + np.float32(0.8) * (hu - _blurred(hu, 1.0))


def _mirrored(volume: KnownVolume, axis: int) -> KnownVolume:
    last = volume.hu.shape[axis] - 1
    lesions = tuple(k.mirrored(axis, last) for k in volume.lesions)
    return replace(volume, hu=_flip(volume.hu, axis), lungs=_flip(volume.lungs, axis), lesions=lesions)


def _flip(array: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.ascontiguousarray(np.flip(array, axis))


def _turned(volume: KnownVolume) -> KnownVolume:
    """The patient on the side: a quarter turn in the axial plane."""
    width = volume.hu.shape[2]
    arrays: tuple[NDArray[Any], ...] = (volume.hu, volume.lungs)
    hu, lungs = (np.ascontiguousarray(np.rot90(a, 1, (1, 2))) for a in arrays)
    lesions = []
    for k in volume.lesions:
        z, y, x = k.centre_zyx
        lesions.append(Lesion((z, width - 1 - x, y), k.diameter_mm, k.counts))
    return replace(volume, hu=hu, lungs=lungs, lesions=tuple(lesions))


CHANGES: dict[str, Change] = {
    "plain": lambda v: v,
    "slices of 2.5 mm": _of_hu(lambda hu: thick_slices(hu, 2.5)),
    "slices of 5 mm": _of_hu(lambda hu: thick_slices(hu, 5.0)),
    "a quarter of the dose": _of_hu(_noisy),
    "sharp kernel": _of_hu(_sharpened),
    "soft kernel": _of_hu(lambda hu: _blurred(hu, 0.8)),
    "contrast agent": _of_hu(lambda hu: enhanced(hu, _IODINE_HU)),
    "left and right exchanged": lambda v: _mirrored(v, 2),
    "upside down": lambda v: _mirrored(v, 0),
    "on the side": _turned,
}


def rows(
    volumes: Sequence[KnownVolume], bundle: Bundle, changes: dict[str, Change]
) -> Iterator[tuple[str, float, float, float]]:
    """Per variant: its name, CPM, sensitivity at one false positive per scan, expected calibration error."""
    engine = Engine(bundle.network)
    options = bundle.settings.preprocess, bundle.settings.detect
    for name, change in changes.items():
        changed = [change(v) for v in volumes]
        matched = match(changed, [find_marks(engine, v.hu, v.lungs, *options) for v in changed])
        yield name, matched.cpm, matched.sensitivity(1.0), calibration_gap(matched, bundle.calibration)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.robustness", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that the detector was trained from")
    parser.add_argument("--cache", type=Path, required=True, help="where prepared scans are kept")
    parser.add_argument("--model", default="detector", help="an installed bundle's name, or its folder")
    parser.add_argument("--copies", type=int, default=1, help="implanted copies of each scan that are used")
    given = parser.parse_args()
    bundle = load_bundle(find_bundle(given.model))
    for side in ("validation", "test"):
        made = implants_of(given.data, given.cache, bundle.settings, side)
        volumes = [v for v in made if int(v.name.partition("+")[2] or 0) <= given.copies]
        nodules = sum(k.counts for v in volumes for k in v.lesions)
        print(f"\n{side}: {len(volumes)} volumes, {nodules} nodules\n")
        print("| variant | CPM | sensitivity at 1 per scan | calibration error |\n|---|---|---|---|")
        for name, *figures in rows(volumes, bundle, CHANGES):
            print(f"| {name} | " + " | ".join(f"{v:.3f}" for v in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
