"""Write ``reference/training-cost.md``: what ten folds of LUNA16 cost, from steps and scans measured on this machine.

::

    python -m docs.make_training_cost LUNA16 CACHE

Some of the scans are enough; they are prepared into the cache, which must be new.

Processor seconds are measured, not the clock, so that other work on the machine does not count.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from bench.training import measure

from noduscope.data.batches import CropSource
from noduscope.data.cached import cached_hosts, read_scans
from noduscope.data.luna16 import SUBSET_SIZES, survey
from noduscope.data.prepare import prepare_tree
from noduscope.model.detector import build_detector
from noduscope.model.engine import Engine, find_marks
from noduscope.model.ir import to_openvino
from noduscope.settings import Settings

PAGE = Path(__file__).resolve().parent / "reference" / "training-cost.md"
STEPS = 40
FOLDS = len(SUBSET_SIZES)


def main() -> None:
    """Measure and write."""
    source, cache = map(Path, sys.argv[1:3])
    settings = Settings()
    start = time.process_time()
    done = [o for o in prepare_tree(survey(source), cache, settings) if o.seconds]
    cost = {"prepare": (time.process_time() - start) / len(done), "scans": len(done)}
    cost["megabytes"] = sum(o.size_bytes for o in done) / 1e6 / len(done)
    cost |= measured(settings, cached_hosts(cache, read_scans(cache), settings))
    PAGE.write_text(page(settings, cost), encoding="utf-8")


def measured(settings: Settings, hosts: list) -> dict:
    """What `measure` says of a step, and the processor seconds of a search of one scan."""
    step = measure(CropSource(hosts, (), ()), settings, STEPS)
    engine = Engine(to_openvino(build_detector(settings.detector)))
    start = time.process_time()
    for host in hosts:
        find_marks(engine, host.hu, host.lungs, settings.preprocess, settings.detect)
    search = (time.process_time() - start) / len(hosts)
    return {**step, "search": search}


def page(settings: Settings, cost: dict[str, float]) -> str:
    """The page's text; hours are processor seconds over all cores."""
    cores = os.cpu_count() or 1
    train, scans = settings.train_detector, sum(SUBSET_SIZES)
    validations = train.steps // train.validate_every
    hours = {
        "prepare 888 scans, once": scans * cost["prepare"] / cores / 3600,
        f"train, {train.steps} steps a fold": FOLDS * train.steps * cost["processor"] / cores / 3600,
        f"validate, {validations} times a fold on 89 scans": FOLDS * validations * 89 * cost["search"] / cores / 3600,
        "search the test scans of every fold": scans * cost["search"] / cores / 3600,
    }
    gigabytes = scans * cost["megabytes"] / 1000
    lines = [
        "# What training on LUNA16 costs",
        "",
        "Written by `python -m docs.make_training_cost`, from measurements on the machine named here; "
        f"the whole of LUNA16 was not run. {_processor()}, {cores} cores, no GPU; "
        f"{cost['precision']}, {cost['crop']} a step. No GPU was measured.",
        "",
        "| measured | value |",
        "|---|---|",
        f"| processor seconds per step | {cost['processor']:.2f} |",
        f"| of these for making the crops | {cost['crops']:.3f} ({100 * cost['share']:.1f} %) |",
        f"| processor seconds to search a scan | {cost['search']:.1f} |",
        f"| processor seconds to prepare a scan (mean of {cost['scans']}) | {cost['prepare']:.1f} |",
        f"| prepared scan on disk | {cost['megabytes']:.0f} MB |",
        "",
        "Ten folds with the settings as they are, patience not used up:",
        "",
        "| part | hours |",
        "|---|---|",
        *(f"| {name} | {value:.2g} |" for name, value in hours.items()),
        f"| **all** | **{sum(hours.values()):.0f}** |",
        "",
        f"The cache takes {gigabytes:.0f} GB. Fewer validations (`train_detector.validate_every`) save the most time "
        "after fewer steps. Each run's `history.csv` holds its own seconds per step and what the crops took of them.",
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    """Its name, and whether it has the wide units on which the figures hang most."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("model name")]
    return (names or ["unknown processor"])[0] + (" with AVX-512" if " avx512f " in about else "")


if __name__ == "__main__":
    main()
