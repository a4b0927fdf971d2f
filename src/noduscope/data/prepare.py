"""``data prepare``: LUNA16 (or LIDC-IDRI with LUNA16's tables) to a cache from which training needs nothing else.

::

    CACHE/
      prepared.csv               seriesuid,patient,subset of each prepared scan
      annotations.csv            its nodules, LUNA16 columns
      annotations_excluded.csv   its findings that count neither way
      scans-<hashes>/            the scans; see `noduscope.data.cache`
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noduscope.data.cache import is_prepared, prepare_scan, prepared_bytes, prepared_folder
from noduscope.data.cached import SCANS
from noduscope.data.known import ANNOTATIONS, EXCLUDED, read_annotations
from noduscope.data.luna16 import DataTree, TreeScan
from noduscope.errors import InputRefused, NoduscopeError
from noduscope.files import csv_bytes, replace_files
from noduscope.processes import over_processes
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of one scan.

    Parameters
    ----------
    size_bytes : on disk.
    seconds : that it took, 0 where it had been prepared before.
    error : why it could not be prepared; empty when it was.
    """

    scan: TreeScan
    size_bytes: int = 0
    seconds: float = 0.0
    error: str = ""


def prepare_tree(tree: DataTree, cache: Path, settings: Settings, workers: int = 1) -> Iterator[Prepared]:
    """Prepare every scan of a data set; yields what became of each. Scans prepared before are kept.

    The tables are written at the end, of the scans that could be prepared: before that no training starts from a cache.

    Raises
    ------
    InputRefused
        When a table of findings is missing, or the cache cannot be written.
    """
    scans = usable_scans(tree)
    folder = prepared_folder(cache, settings)
    jobs = [(s, folder / s.series_uid, settings) for s in scans]
    done = []
    for outcome in over_processes(_prepare, jobs, workers):
        if not outcome.error:
            done.append(outcome.scan)
        yield outcome
    if done:
        order = {s.series_uid: i for i, s in enumerate(scans)}
        _write_tables(tree, cache, sorted(done, key=lambda s: order[s.series_uid]))


def usable_scans(tree: DataTree) -> list[TreeScan]:
    """The scans that LUNA16's tables name: of any other nobody can say that it has no further nodules.

    Raises
    ------
    InputRefused
        When there is none, or a table is missing.
    """
    missing = [name for name in (ANNOTATIONS, EXCLUDED) if name not in tree.tables]
    if missing:
        raise InputRefused(f"{tree.folder} holds no {' and no '.join(missing)}: put LUNA16's tables there")
    known = [read_annotations(tree.tables[n], counts=n == ANNOTATIONS) for n in (ANNOTATIONS, EXCLUDED)]
    scans = [s for s in tree.scans if any(s.series_uid in table for table in known)]
    if not scans:
        raise InputRefused(f"{tree.folder} holds no scan that LUNA16's tables name")
    return scans


Job = tuple[TreeScan, Path, Settings]


def _prepare(job: Job) -> Prepared:
    scan, folder, settings = job
    start = time.perf_counter()
    if is_prepared(folder):
        return Prepared(scan, prepared_bytes(folder))
    try:
        prepare_scan(scan.path, folder, settings, scan.series_uid)
    except NoduscopeError as error:
        return Prepared(scan, error=str(error))
    return Prepared(scan, prepared_bytes(folder), time.perf_counter() - start)


def _write_tables(tree: DataTree, cache: Path, scans: Iterable[TreeScan]) -> None:
    """The list of the scans and their rows of the two tables, as they stand there."""
    rows = [(s.series_uid, s.patient_id, s.subset) for s in scans]
    here = {uid for uid, _, _ in rows}
    files = {SCANS: csv_bytes([("seriesuid", "patient", "subset"), *rows])}
    for name in (ANNOTATIONS, EXCLUDED):
        files[name] = rows_of(tree.tables[name], here)
    replace_files(cache, files)


def rows_of(table: Path, series: set[str]) -> bytes:
    """The rows of these series of a table, as they stand there."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    column = header.index("seriesuid")
    return csv_bytes([header, *(row for row in rows if row and row[column] in series)])


def summary(outcomes: Sequence[Prepared]) -> dict[str, Any]:
    """What ``data prepare --json`` prints."""
    done = [o for o in outcomes if not o.error]
    new = [o for o in done if o.seconds]
    return {
        "schema": "noduscope.prepared/1",
        "scans": len(done),
        "failed": len(outcomes) - len(done),
        "megabytes": round(sum(o.size_bytes for o in done) / 1e6, 1),
        "megabytes_per_scan": round(sum(o.size_bytes for o in done) / 1e6 / max(len(done), 1), 1),
        "seconds_per_scan": round(sum(o.seconds for o in new) / len(new), 2) if new else None,
        "each": [
            {
                "seriesuid": o.scan.series_uid,
                "megabytes": round(o.size_bytes / 1e6, 1),
                "seconds": round(o.seconds, 2),
                "error": o.error,
            }
            for o in outcomes
        ],
    }


def exit_status(outcomes: Sequence[Prepared]) -> int:
    """0 when every scan was prepared, 4 when only some were, 3 when none was."""
    failed = sum(bool(o.error) for o in outcomes)
    return 0 if not failed else 4 if failed < len(outcomes) else InputRefused.exit_status
