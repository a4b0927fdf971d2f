"""``python -m bench``: a table on standard output and ``bench-result.json``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.machine import ROOT, describe, matrix_peak_gflops, row, run_measured
from bench.training import told

_PHANTOM = (
    "import sys; from noduscope.phantom import *; "
    "write_dicom(make_phantom(PhantomSettings(spacing_xyz_mm=tuple(map(float, sys.argv[2:])))), sys.argv[1])"
)
_FULL, _QUICK = ("0.7", "0.7", "2.5"), ("3", "3", "5")  # mm; a usual chest CT, and one that is soon done


def main() -> None:
    """Measure, print, write."""
    given = _arguments()
    rounds = 1 if given.quick else given.rounds
    result: dict[str, Any] = {"schema": "noduscope.bench/1", "machine": describe(), "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="noduscope-bench-") as scratch:
        scan = given.scan or _phantom(Path(scratch) / "scan", _QUICK if given.quick else _FULL)
        # whole processes first: later this one holds the memory and threads of other software
        processes = _processes(scan, given.model, rounds, Path(scratch))
        peak = matrix_peak_gflops(256 if given.quick else 2048, rounds)
        from bench.stages import measure_stages

        *stages, last = measure_stages(scan, given.model, rounds, Path(scratch))
    search = next(s for s in stages if s["stage"] == "search")
    reached = last["network"]["gflop_search"] / search["seconds"]["median"]
    rates = {"gflops": reached, "matrix_peak_gflops": peak, "share_of_peak": reached / peak}
    result["scan"] = {"source": "given" if given.scan else "phantom", **last["scan"]}
    result |= {"stages": [*stages, *processes], "network": {**last["network"], **rates}}
    if importlib.util.find_spec("keras"):
        result["training"] = _training(2 if given.quick else 40)
    if given.monai:
        other = run_measured([str(given.monai), str(ROOT / "bench" / "monai_detector.py"), str(scan.resolve())])
        result["monai"] = {**other, "ratio": other["seconds"] / processes[0]["seconds"]["median"]}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print(result)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--scan", type=Path, help="a scan to measure with instead of the phantom")
    parser.add_argument("--model", default="detector", help="an installed bundle's name, or its folder")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions; medians of them are reported")
    parser.add_argument("--monai", type=Path, help="a Python that has monai, torch, torchvision, itk: time it once")
    parser.add_argument("--quick", action="store_true", help="one round on a coarse phantom: does everything run?")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-result.json", help="where the figures are written")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds must be at least 1")
    return given


def _phantom(folder: Path, spacing: tuple[str, str, str]) -> Path:
    subprocess.run([sys.executable, "-c", _PHANTOM, str(folder), *spacing], check=True, cwd=ROOT)
    return folder


def _processes(scan: Path, model: str, rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """The whole of ``detect`` and the help page, each with start-up; beside the latter what starting Python takes."""
    noduscope = str(Path(sys.executable).with_name("noduscope"))
    detect = [noduscope, "-q", "detect", str(scan.resolve()), "-o", str(scratch / "whole"), "--model", model]
    bare = {"bare Python": [sys.executable, "-c", "pass"]}
    rows = []
    for name, command, others in (("whole process", detect, {}), ("--help", [noduscope, "--help"], bare)):
        ways = {"noduscope": command, **others}
        runs = [{n: run_measured(way) for n, way in ways.items()} for _ in range(rounds + 1 if rounds > 1 else 1)]
        runs = runs[1:] or runs  # the first warms up
        made = row(name, {n: [run[n]["seconds"] for run in runs] for n in ways})
        rows.append({**made, "peak_mb": round(max(run["noduscope"]["peak_mb"] for run in runs), 1)})
    return rows


def _training(steps: int) -> dict[str, Any]:
    """A training step on crops of a synthetic chest, in a process of its own: TensorFlow keeps threads and memory."""
    command = [sys.executable, "-m", "bench.training", "--json", "--steps", str(steps)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    machine, scan, net = result["machine"], result["scan"], result["network"]
    size = " × ".join(map(str, scan["shape_zyx"]))
    table = Table(title=f"{scan['source']} scan, {size} voxels, rounds: {result['rounds']}; median (min–max)")
    for column in ("stage", "s", "reference", "its s", "reference ÷ ours", "its answer"):
        table.add_column(column, no_wrap=True)
    for made in result["stages"]:
        name = f"{made['stage']} ({made['peak_mb']:.0f} MB)" if "peak_mb" in made else made["stage"]
        cells = [name, _cell(made["seconds"], 3)]
        for r in made["references"] or [None]:
            other = [r["name"], _cell(r["seconds"], 3), _cell(r["ratio"], 2), r.get("answer", "")] if r else ["–"]
            table.add_row(*cells, *other)
            cells = ["", ""]
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    console.print(table)
    console.print(
        f"network: {net['gflop']:.1f} GFLOP a scan, {net['gflop_search']:.1f} of them to search it at full size "
        f"({net['tiles']} block(s), {net['voxels'] / 1e6:.1f} million voxels); there "
        f"{net['gflops']:.0f} GFLOP/s in {net['precision']}, {net['share_of_peak']:.0%} of the float32 matrix "
        f"product's {net['matrix_peak_gflops']:.0f} (bf16 units can exceed 100 %)"
    )
    if step := result.get("training"):
        console.print(told(step))
    if other := result.get("monai"):
        console.print(
            f"MONAI's LUNA16 detector took {other['seconds']:.0f} s and {other['peak_mb'] / 1000:.1f} GB for this "
            f"scan: {other['ratio']:.0f} times our whole process"
        )
    console.print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']} when it began")
    if machine["load"] > 0.3 * machine["cores"]:
        console.print("The machine was busy: the seconds are too high, and the ratios are rough.", style="bold")


def _cell(spread: dict[str, float], digits: int) -> str:
    return f"{spread['median']:.{digits}f} ({spread['min']:.{digits}f}–{spread['max']:.{digits}f})"


if __name__ == "__main__":
    main()
