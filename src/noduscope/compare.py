"""The follow-up from two paths to a folder: read, check, detect, register, compare, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noduscope.errors import InputRefused
from noduscope.findings import ScanResult
from noduscope.growth import compare
from noduscope.io.identity import same_patient, study_date
from noduscope.io.read import read_scan
from noduscope.lungs import Lungs, find_lungs
from noduscope.predict import Models, load_models, predict
from noduscope.registration import register_lungs
from noduscope.report.compare_page import write_comparison
from noduscope.report.compare_tables import comparison_dict
from noduscope.report.earlier import EarlierFindings, is_result_folder, read_findings
from noduscope.report.write import check_replaceable
from noduscope.scan import Scan, ScanWarning
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How two scans are compared.

    Parameters
    ----------
    prior_scan, current_scan : the scan of a side that is given as an earlier result folder.
    prior_series, current_series : the series to take where there are several.
    interval_days : between the scans; None takes it from the files' dates.
    force : compare although the files name different patients.
    detector : an installed bundle's name or a bundle folder.
    on_stage : told the name of each stage as it begins.
    """

    prior_scan: Path | None = None
    current_scan: Path | None = None
    prior_series: str | None = None
    current_series: str | None = None
    interval_days: int | None = None
    force: bool = False
    settings: Settings = field(default_factory=Settings)
    detector: str = "detector"
    workers: int = 2
    on_stage: Callable[[str], None] = lambda name: None


def run_compare(prior: Path, current: Path, out: Path, options: CompareOptions | None = None) -> dict[str, Any]:
    """Compare two scans of one patient and write the result folder.

    Parameters
    ----------
    prior, current : each a scan as `read_scan` takes it, or the result folder of an earlier ``detect``: then nothing
        is searched again, but the scan is needed still (`CompareOptions.prior_scan`), since a result holds no image
        and places alone cannot be laid on each other.
    out : the folder to write; see `write_comparison`.

    Returns
    -------
    The content of ``comparison.json``, and the files' paths under ``files``.

    Raises
    ------
    InputRefused
        For different patients (unless forced), a current scan older than the prior one, a result folder without its
        scan, or an output folder that is one of the inputs or holds something else.
    NoScanFound, AmbiguousInput
        As `read_scan` and `find_lungs` raise them.
    """
    options = options or CompareOptions()
    _check_out(out, (prior, current, options.prior_scan, options.current_scan))
    options.on_stage("read")
    sides = (
        _read("prior", prior, options.prior_scan, options.prior_series, options.workers),
        _read("current", current, options.current_scan, options.current_series, options.workers),
    )
    warnings = _check_patient(sides[0].scan, sides[1].scan, force=options.force)
    days = _interval(sides[0].scan, sides[1].scan, options.interval_days)
    options.on_stage("detect")
    models = None if all(side.findings for side in sides) else load_models(options.detector)
    lungs = [find_lungs(side.scan, options.settings.lungs) for side in sides]
    results = [side.result(own, models, options.settings) for side, own in zip(sides, lungs, strict=True)]
    options.on_stage("register")
    registration = register_lungs(sides[0].scan, sides[1].scan, lungs[0], lungs[1], options.settings.registration)
    options.on_stage("compare")
    made = compare(results[0], results[1], registration, days, options.settings.growth, warnings)
    options.on_stage("write")
    files = write_comparison(made, out, options.settings)
    return {**comparison_dict(made), "files": [str(file) for file in files]}


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One scan, and what an earlier run found in it, if it was given as such."""

    scan: Scan
    findings: EarlierFindings | None

    def result(self, lungs: Lungs, models: Models | None, settings: Settings) -> ScanResult:
        """Its findings, old or new."""
        if self.findings is not None:
            return self.findings.on(self.scan, lungs.on(self.scan.geometry))
        return predict(self.scan, models or load_models(), settings)


def _read(name: str, path: Path, scan_path: Path | None, series: str | None, workers: int) -> _Side:
    """A side's scan and earlier findings."""
    if not is_result_folder(path):
        if scan_path is not None:
            raise InputRefused(
                f"--{name}-scan goes with a result folder, but {path} holds no findings.json: leave it out"
            )
        return _Side(read_scan(path, series_uid=series, workers=workers), None)
    findings = read_findings(path)
    if scan_path is None:
        raise InputRefused(
            f"{path} is an earlier result and holds no image, which registering needs: give the scan that it was made "
            f"from with --{name}-scan, or give that scan instead of the result"
        )
    return _Side(read_scan(scan_path, series_uid=series or findings.series_uid, workers=workers), findings)


def _check_out(out: Path, inputs: tuple[Path | None, ...]) -> None:
    """Refuse to write over what is read, before anything is done."""
    target = out.resolve()
    for path in inputs:
        if path is not None and target in (path.resolve(), *path.resolve().parents):
            raise InputRefused(f"{out} is or holds an input of this comparison: choose another folder with -o")
    check_replaceable(out)


def _check_patient(prior: Scan, current: Scan, *, force: bool) -> tuple[ScanWarning, ...]:
    """Refuse two patients; a warning where that was forced or cannot be told."""
    check = same_patient(prior.source, current.source)
    if check.verdict == "same":
        return ()
    if check.verdict == "unknown":
        text = "Whether both scans show the same patient could not be checked: the files do not tell."
        return (ScanWarning("patient-unknown", text),)
    text = f"The files name different patients ({', '.join(check.differs)})"
    if not force:
        raise InputRefused(
            f"{text}; compare two scans of one patient, or use --force where the tags are known to be wrong"
        )
    return (ScanWarning("patient-differs", f"{text}; compared because that was forced."),)


def _interval(prior: Scan, current: Scan, given: int | None) -> int | None:
    """Days between the scans: as given, else by their dates; None where a date is missing."""
    if given is not None:
        return given
    dates = study_date(prior.source), study_date(current.source)
    if dates[0] is None or dates[1] is None:
        return None
    return (dates[1] - dates[0]).days
