"""How figures are summed up, whole processes measured from outside, and what the machine can do.

``python -m bench.machine COMMAND...`` runs a command and prints its seconds, peak memory and exit status. It
is a process of its own because Linux counts the peak memory of whoever starts a program into that
program's own: the one that starts it must be small.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


def row(name: str, seconds: dict[str, list[float]], notes: tuple[str, ...] = ()) -> Row:
    """One stage: ours comes first in `seconds`. Medians with their range; ratios are taken round by round."""
    (_, ours), *others = seconds.items()
    references = [
        {"name": n, "seconds": _spread(s), "ratio": _spread([b / a for a, b in zip(ours, s, strict=True)])}
        for n, s in others
    ]
    for reference, note in zip(references, notes, strict=False):
        reference["answer"] = note
    return {"stage": name, "seconds": _spread(ours), "references": references}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 5), "min": round(min(values), 5), "max": round(max(values), 5)}


def run_measured(command: list[str]) -> dict[str, float]:
    """``seconds`` and ``peak_mb`` of one run; ends the benchmark when the command fails."""
    helper = [sys.executable, "-m", "bench.machine", *command]
    done = subprocess.run(helper, cwd=ROOT, capture_output=True, text=True, check=False)
    measured: dict[str, float] = json.loads(done.stdout) if done.returncode == 0 else {"status": done.returncode}
    if measured.pop("status") != 0:
        raise SystemExit(f"bench: {' '.join(command)} failed:\n{done.stderr}")
    return measured


def _measure(command: list[str]) -> dict[str, float]:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    to_mb = 2**20 if sys.platform == "darwin" else 2**10
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / to_mb, "status": process.returncode}


def matrix_peak_gflops(size: int, repetitions: int) -> float:
    """The best rate that NumPy's float32 matrix product reaches, GFLOP/s: what the processor can do at most in f32."""
    import numpy as np

    a, b = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
    out = np.empty_like(a)
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        np.matmul(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds) / 1e9


def describe() -> dict[str, Any]:
    """The machine, how busy it is, and what in the environment sways the figures."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    swaying = ("OMP_", "OPENBLAS_", "MKL_", "TF_", "KERAS_", "OV_", "ONEDNN_", "NPY_")
    return {
        "processor": _processor(),
        "cores": cores,
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(swaying)},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1:])))
