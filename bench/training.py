"""``python -m bench.training``: what one training step of the detector takes, and the crops' share of it.

Without ``--data`` the crops are cut from a synthetic chest; with it, and with the settings of a real training, they are
that training's own mixture. Both are processor seconds over all threads, counted while the two run side by side
as in training; waiting for crops shows as wall seconds that are more than the processor's over its cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

_WARM_UP = 3


def main() -> None:
    """Measure and print."""
    given = _arguments()
    from noduscope.settings import Settings, load_settings

    settings = load_settings(given.settings) if given.settings else Settings()
    with tempfile.TemporaryDirectory(prefix="noduscope-bench-") as scratch:
        measured = measure(_source(given, Path(scratch), settings), settings, given.steps)
    if given.json:
        json.dump(measured, sys.stdout)
    else:
        print(told(measured))


def told(measured: dict) -> str:
    """The figures in a line."""
    return (
        f"training: {measured['wall']:.2f} s a step of {measured['crop']} in {measured['precision']}, "
        f"{measured['processor']:.2f} s of all processors, {measured['crops']:.3f} of them for its crops "
        f"({measured['share']:.1%})"
    )


def measure(source, settings, steps: int) -> dict:
    """Seconds a step, by the clock (``wall``) and of all processors, those for its crops, and their share.

    Parameters
    ----------
    source : a `CropSource`.
    """
    import cv2

    from noduscope.train import compiled_detector  # first: it sets up the environment of what the next one imports
    from noduscope.data.batches import CropMaker, DetectorBatches  # isort: skip

    cv2.setNumThreads(1)  # the crops' thread then does all of their work itself, and its time is theirs
    train = settings.train_detector
    precision, model = compiled_detector(settings)
    maker = CropMaker(source, settings)
    model.fit(DetectorBatches(maker, _WARM_UP, train.batch_size, train.seed), verbose=0)
    batches = DetectorBatches(maker, steps, train.batch_size, train.seed + 1)
    clock, processor = time.perf_counter(), time.process_time()
    model.fit(batches, verbose=0)
    wall, busy, crops = (
        s / steps for s in (time.perf_counter() - clock, time.process_time() - processor, batches.seconds)
    )
    crop = f"{train.batch_size} crops of {train.crop_voxels}³"
    return {
        "wall": wall, "processor": busy, "crops": crops, "share": crops / busy, "crop": crop, "precision": precision,
        "steps": steps,
    }  # fmt: skip


def _source(given: argparse.Namespace, scratch: Path, settings):
    from noduscope.train import detector_data  # first, see `measure`
    from noduscope.data.batches import CropSource  # isort: skip
    from noduscope.data.synthetic import phantom_hosts  # isort: skip

    if given.data:
        return detector_data(given.data, given.cache or scratch, settings).train
    return CropSource((), (), (), phantoms=phantom_hosts(1, scratch, settings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--data", type=Path, help="what `noduscope train detector --data` takes")
    parser.add_argument("--cache", type=Path, help="prepared scans, kept for the next time")
    parser.add_argument("--settings", type=Path, help="TOML settings of the training")
    parser.add_argument("--steps", type=int, default=40, help="steps to measure")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    if given.steps < 1:
        parser.error("--steps must be at least 1")
    return given


if __name__ == "__main__":
    main()
