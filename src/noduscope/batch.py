"""``detect`` as a whole: read, predict, write, for one input or many, over processes."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noduscope.errors import InputRefused, NoduscopeError
from noduscope.files import replace_text
from noduscope.findings import NOT_A_MEDICAL_DEVICE, ScanResult
from noduscope.guidelines import PatientFacts
from noduscope.io.read import is_volume_file, read_scan
from noduscope.predict import Models, load_models, predict, with_timing
from noduscope.processes import over_processes, own_threads
from noduscope.report.dicom_process import DicomProcess
from noduscope.report.handback import check_extras
from noduscope.report.write import check_replaceable, write_result
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True)
class DetectOptions:
    """What `detect` was asked for, the same for every input."""

    settings: Settings = field(default_factory=Settings)
    series_uid: str | None = None
    model: str = "detector"
    workers: int = 1
    patient: PatientFacts | None = None
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one input.

    ``error`` is empty when it was done; then ``folder`` holds the result.
    """

    path: str
    series_uid: str = ""
    folder: str = ""
    nodules: int = 0
    highest_probability: float = 0.0
    seconds: float = 0.0
    error: str = ""
    exit_status: int = 0


def detect_one(path: Path, out: Path, options: DetectOptions) -> ScanResult:
    """Read a scan, find its nodules, write the result folder `out`.

    Raises
    ------
    InputRefused
        See `read_scan`, `predict` and `write_result`.
    """
    check_replaceable(out)
    check_extras(options.extras)
    with DicomProcess(begin=not is_volume_file(path)) as aside, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load_models, options.model)  # compiles while the scan is read
        start = time.perf_counter()
        scan = read_scan(path, series_uid=options.series_uid)
        read = time.perf_counter() - start
        result = with_timing(predict(scan, loading.result(), options.settings, options.patient), read=read)
        write_result(result, out, options.settings, options.extras, aside.files)
    return result


def detect_many(paths: Sequence[Path], out: Path, options: DetectOptions) -> Iterator[Outcome]:
    """Run `detect` on several inputs, one folder per series in `out`; yields each outcome as it is done.

    Afterwards `out` also holds ``findings.csv``, ``candidates.csv`` and ``summary.json`` of all of them. A bad input
    becomes an outcome with an error; the others go on.
    """
    check_extras(options.extras)
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(p, out, options) for p in paths]
    outcomes: list[Outcome] = []
    for made in over_processes(_job, jobs, options.workers):
        clash = next((o for o in outcomes if o.folder and o.folder == made.folder), None)
        outcomes.append(made if clash is None else _repeated(made, clash))
        yield outcomes[-1]
    order = {str(p): i for i, p in enumerate(paths)}
    outcomes.sort(key=lambda o: order[o.path])
    for table in ("findings.csv", "candidates.csv"):
        replace_text(out / table, joint_csv(Path(o.folder) / table for o in outcomes if o.folder))
    replace_text(out / "summary.json", json.dumps(summary(outcomes), indent=1) + "\n")


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 when all is done, 4 when only some is, else the worst input's own status."""
    failed = [o.exit_status for o in outcomes if o.error]
    if not failed:
        return 0
    return 4 if len(failed) < len(outcomes) else max(failed)


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """``summary.json``: one entry per input, in the order given."""
    rows = [
        {
            "input": Path(o.path).name,
            "series_uid": o.series_uid,
            "folder": Path(o.folder).name,
            "nodules": o.nodules,
            "highest_probability": round(o.highest_probability, 4),
            "seconds": round(o.seconds, 3),
            "error": o.error,
        }
        for o in outcomes
    ]
    done = sum(1 for r in rows if not r["error"])
    return {"schema": "noduscope.summary/1", "notice": NOT_A_MEDICAL_DEVICE, "done": done, "scans": rows}


def _repeated(outcome: Outcome, first: Outcome) -> Outcome:
    """What a second input of the same series becomes."""
    text = f"the same series as {first.path}; its result was kept once"
    return Outcome(outcome.path, outcome.series_uid, error=text, exit_status=InputRefused.exit_status)


def joint_csv(files: Iterable[Path]) -> str:
    """The tables of several scans under one header."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    header: list[str] | None = None
    for file in files:
        with file.open(newline="", encoding="utf-8") as rows:
            first, *rest = list(csv.reader(rows))
        if header is None:
            header = first
            writer.writerow(header)
        writer.writerows(rest)
    return made.getvalue()


_MODELS: dict[str, Models] = {}


def _job(job: tuple[Path, Path, DetectOptions]) -> Outcome:
    """One input; what goes wrong with it becomes part of the outcome."""
    path, out, options = job
    start = time.perf_counter()
    try:
        scan = read_scan(path, series_uid=options.series_uid, workers=own_threads() or 2)
        read = time.perf_counter() - start
        if options.model not in _MODELS:
            _MODELS[options.model] = load_models(options.model, own_threads())
        uid = scan.source.series_uid
        folder = out / (uid if uid.strip(".") else path.stem)
        result = with_timing(predict(scan, _MODELS[options.model], options.settings, options.patient), read=read)
        write_result(result, folder, options.settings, options.extras)
    except NoduscopeError as error:
        return Outcome(str(path), error=str(error), exit_status=error.exit_status)
    return Outcome(
        path=str(path),
        series_uid=uid,
        folder=str(folder),
        nodules=len(result.nodules),
        highest_probability=max((c.probability for c in result.candidates), default=0.0),
        seconds=time.perf_counter() - start,
    )
