"""Whether two scans show the same patient, and when a scan was made: answers, never the values behind them.

A `Scan` holds nothing about the patient on purpose. What a follow-up must know is read here from one file
of each scan, compared, and forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, TypeAlias

from noduscope.scan import ScanSource

Verdict: TypeAlias = Literal["same", "different", "unknown"]

_DATES: Final = ("StudyDate", "SeriesDate", "AcquisitionDate")


@dataclass(frozen=True, slots=True)
class IdentityCheck:
    """Whether two scans show one patient.

    Parameters
    ----------
    verdict : ``same``, ``different``, or ``unknown`` where no tag that both files fill tells.
    differs : names of the facts that differ, such as ``birth date``; never their values.
    """

    verdict: Verdict
    differs: tuple[str, ...] = ()


def same_patient(prior: ScanSource, current: ScanSource) -> IdentityCheck:
    """Compare patient ID, birth date and sex of one file of each scan.

    A fact that either file leaves empty counts neither way; only an equal patient ID tells ``same``.
    Spaces around a value and letter case do not matter.
    """
    facts = [_facts(source) for source in (prior, current)]
    if facts[0] is None or facts[1] is None:
        return IdentityCheck("unknown")
    both = [(name, a, b) for (name, a), b in zip(facts[0].items(), facts[1].values(), strict=True) if a and b]
    differs = tuple(name for name, a, b in both if a != b)
    if differs:
        return IdentityCheck("different", differs)
    return IdentityCheck("same" if any(name == "patient ID" for name, _, _ in both) else "unknown")


def study_date(source: ScanSource) -> date | None:
    """The day of the study, else of the series or the acquisition; None where the file names none."""
    dataset = _header(source, _DATES)
    if dataset is None:
        return None
    for keyword in _DATES:
        text = _text(dataset, keyword).replace(".", "")  # 2001.02.28 is ACR-NEMA's way to write it
        try:
            return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
        except ValueError:
            continue
    return None


def _facts(source: ScanSource) -> dict[str, str] | None:
    """Each fact in a form that can be compared, empty where it is not told; None where there are none."""
    dataset = _header(source, ("PatientID", "PatientBirthDate", "PatientSex"))
    if dataset is None:
        return None
    sex = _text(dataset, "PatientSex")
    return {
        "patient ID": _text(dataset, "PatientID"),
        "birth date": _text(dataset, "PatientBirthDate").replace(".", ""),
        # other (O) says that it is not known or not told as often as it says anything
        "sex": sex if sex in ("M", "F") else "",
    }


def _header(source: ScanSource, keywords: tuple[str, ...]) -> Any | None:
    """The named elements of a scan's first file; None where it is not DICOM or cannot be read any more."""
    if source.reader != "dicom" or not source.files:
        return None
    from pydicom import dcmread  # noqa: PLC0415  (a quarter of a second to import)

    from noduscope.io.headers import DAMAGE  # noqa: PLC0415

    try:
        return dcmread(source.files[0], stop_before_pixels=True, force=True, specific_tags=list(keywords))
    except (OSError, *DAMAGE):
        return None


def _text(dataset: Any, keyword: str) -> str:
    """An element's value as compared: trimmed, upper case; empty where it is missing or damaged."""
    from noduscope.io.headers import DAMAGE  # noqa: PLC0415

    try:
        value = dataset.get(keyword)
    except DAMAGE:
        return ""
    return "" if value is None else str(value).strip().upper()
