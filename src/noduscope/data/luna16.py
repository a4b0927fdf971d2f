"""LUNA16 and LIDC-IDRI as they are downloaded: what is there, what is missing, what does not fit together.

LUNA16: ``subset0`` … ``subset9`` with a ``.mhd`` and its ``.raw`` (or ``.zraw``) per scan, named by series uid, and the
tables beside them (https://luna16.grand-challenge.org/Data). LIDC-IDRI: DICOM series, a folder each.
Only headers and tables are read here. Nodules of scans that LUNA16 does not list are not in its tables, so LIDC-IDRI
as DICOM is prepared for training as far as LUNA16's tables, put into its folder, go.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noduscope.data.folds import patient_fold
from noduscope.data.known import ANNOTATIONS, EXCLUDED, PLACE, table_rows
from noduscope.errors import InputRefused
from noduscope.io.volumes import describe_volume
from noduscope.scan import ScanWarning

SUBSETS = 10
SUBSET_SIZES = (89, 89, 89, 89, 89, 89, 89, 89, 88, 88)
"""Scans of each official subset, 888 in all."""
_CANDIDATES, _MASKS = "candidates_V2.csv", "seg-lungs-LUNA16"
_ROWS = {ANNOTATIONS: 1186, EXCLUDED: 35192}
_LIDC_SCANS, _LIDC_PATIENTS = 1018, 1010
_ONE_PATIENT = {
    "1.3.6.1.4.1.14519.5.2.1.6279.6001.316900421002460665752357657094": "LIDC-IDRI-0332",
    "1.3.6.1.4.1.14519.5.2.1.6279.6001.159996104466052855396410079250": "LIDC-IDRI-0332",
}
"""LUNA16 holds two scans of this patient, and one of every other; the volumes do not say so, the LIDC does."""


@dataclass(frozen=True, slots=True)
class TreeScan:
    """A scan of a data set: its series, where it lies, whose it is, and its subset (0 … 9)."""

    series_uid: str
    path: Path
    patient_id: str
    subset: int


@dataclass(frozen=True, slots=True)
class DataTree:
    """A data set as it was found.

    Parameters
    ----------
    kind : ``LUNA16`` or ``LIDC-IDRI``.
    scans : by subset and series uid, each series once; broken ones are among the problems too.
    tables : the tables found, name to file.
    rows : rows of each table.
    counts : what there is, for people.
    problems : what is missing or does not fit.
    """

    kind: str
    folder: Path
    scans: tuple[TreeScan, ...]
    tables: Mapping[str, Path]
    rows: Mapping[str, int]
    counts: Mapping[str, int]
    problems: tuple[ScanWarning, ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``data info --json`` prints."""
        return {
            "schema": "noduscope.data/1",
            "kind": self.kind,
            "folder": str(self.folder),
            "scans": len(self.scans),
            "subsets": {str(k): n for k, n in sorted(Counter(s.subset for s in self.scans).items())},
            "tables": dict(self.rows),
            "counts": dict(self.counts),
            "problems": [{"code": p.code, "text": p.text} for p in self.problems],
        }


@dataclass(slots=True)
class _Survey:
    """What is collected on the way through a folder."""

    scans: list[TreeScan] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[ScanWarning] = field(default_factory=list)

    def tell(self, code: str, text: str, names: Iterable[str] = ()) -> None:
        """Note a problem, with the first few names."""
        listed = sorted(names)
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        self.problems.append(ScanWarning(code, text + (": " + ", ".join(listed[:3]) + more if listed else "")))


def survey(folder: Path) -> DataTree:
    """Recognise a data set and check it.

    Raises
    ------
    InputRefused
        When the folder is missing or holds neither of the two data sets, or a table cannot be read.
    """
    if not folder.is_dir():
        raise InputRefused(f"{folder}: no such folder")
    found = _Survey()
    subsets = {k: folder / f"subset{k}" for k in range(SUBSETS) if (folder / f"subset{k}").is_dir()}
    if subsets:
        kind = "LUNA16"
        _survey_subsets(subsets, found)
    else:
        kind = "LIDC-IDRI"
        _survey_dicom(folder, found)
    tables = _find_tables(folder)
    rows = _check_tables(tables, found)
    if kind == "LUNA16":
        _count_extras(folder, found)
    scans = tuple(sorted(found.scans, key=lambda s: (s.subset, s.series_uid)))
    return DataTree(kind, folder, scans, tables, rows, found.counts, tuple(found.problems))


def _survey_subsets(subsets: Mapping[int, Path], found: _Survey) -> None:
    """LUNA16's volumes: each header with its data, no series twice, as many as there should be."""
    places: dict[str, list[int]] = {}
    for subset, folder in subsets.items():
        headers = sorted(folder.glob("*.mhd"))
        stems = {h.stem for h in headers}
        alone = [f.name for f in folder.iterdir() if f.suffix in (".raw", ".zraw") and f.stem not in stems]
        if alone:
            found.tell("no-header", f"subset{subset}: data without their .mhd", alone)
        for header in headers:
            places.setdefault(header.stem, []).append(subset)
            _add_volume(header, subset, found)
        official = SUBSET_SIZES[subset]
        if len(headers) != official:
            found.tell("subset-size", f"subset{subset} holds {len(headers)} scans; the official one {official}")
    twice = {uid: where for uid, where in places.items() if len(where) > 1}
    if twice:
        found.tell("duplicate-series", "series in more than one subset, the first is taken", twice)
        first: dict[str, TreeScan] = {}
        for scan in found.scans:
            first.setdefault(scan.series_uid, scan)
        found.scans = list(first.values())
    missing = sorted(set(range(SUBSETS)) - set(subsets))
    if missing:
        found.tell("subset-missing", "no folder " + ", ".join(f"subset{k}" for k in missing))


def _add_volume(header: Path, subset: int, found: _Survey) -> None:
    uid = header.stem
    try:
        slices, _ = describe_volume(header)
        found.counts["slices"] = found.counts.get("slices", 0) + slices
    except InputRefused as error:
        found.tell("broken-scan", f"subset{subset}: {error}")
    found.scans.append(TreeScan(uid, header, _ONE_PATIENT.get(uid, uid), subset))


def _survey_dicom(folder: Path, found: _Survey) -> None:
    """LIDC-IDRI's CT series, one folder each; the subset is the patient's part of a split by hash."""
    folders: dict[str, list[Path]] = {}
    for place, patient, uid, slices in _dicom_series(folder):
        folders.setdefault(uid, []).append(place)
        if len(folders[uid]) == 1:
            found.scans.append(TreeScan(uid, place, patient, patient_fold(patient, SUBSETS)))
            found.counts["slices"] = found.counts.get("slices", 0) + slices
    if not found.scans:
        raise InputRefused(
            f"{folder} is neither LUNA16 (subset0 … subset9 with .mhd files) nor LIDC-IDRI (DICOM of its patients)"
        )
    twice = [uid for uid, places in folders.items() if len(places) > 1]
    if twice:
        found.tell("duplicate-series", "series in more than one folder, the first is taken", twice)
    patients = len({s.patient_id for s in found.scans})
    found.counts["patients"] = patients
    if (len(found.scans), patients) != (_LIDC_SCANS, _LIDC_PATIENTS):
        text = f"{len(found.scans)} CT series of {patients} patients"
        found.tell("incomplete", f"{text}; the collection has {_LIDC_SCANS} of {_LIDC_PATIENTS}")


def _dicom_series(folder: Path) -> Iterator[tuple[Path, str, str, int]]:
    """Folder, patient, series uid and number of files of each CT series of an LIDC patient, by its first file."""
    from pydicom import dcmread  # noqa: PLC0415 -- a quarter of a second that LUNA16's volumes do not need
    from pydicom.errors import InvalidDicomError  # noqa: PLC0415

    tags = ["PatientID", "SeriesInstanceUID", "Modality"]
    for root, folders, names in os.walk(folder):
        folders.sort()
        files = sorted(n for n in names if n.lower().endswith(".dcm"))
        if not files:
            continue
        try:
            head = dcmread(Path(root, files[0]), stop_before_pixels=True, specific_tags=tags)
        except (InvalidDicomError, OSError):
            continue
        patient = str(head.get("PatientID", ""))
        if head.get("Modality") == "CT" and re.fullmatch(r"LIDC-IDRI-\d{4}", patient):
            yield Path(root), patient, str(head.get("SeriesInstanceUID", "")), len(files)


def _find_tables(folder: Path) -> dict[str, Path]:
    """The tables, beside the subsets or in the folders that the downloads unpack into."""
    found = {}
    for name in (ANNOTATIONS, EXCLUDED, _CANDIDATES):
        places = [folder / name, *sorted(folder.glob(f"*/{name}")), *sorted(folder.glob(f"*/annotations/{name}"))]
        there = [p for p in places if p.is_file()]
        if there:
            found[name] = there[0]
    return found


def _check_tables(tables: Mapping[str, Path], found: _Survey) -> dict[str, int]:
    """Rows of the tables that are there, and how they and the scans fit."""
    rows: dict[str, int] = {}
    here = {s.series_uid for s in found.scans}
    named: set[str] = set()
    for name in (ANNOTATIONS, EXCLUDED, _CANDIDATES):
        if name not in tables:
            note = " (not needed: it is for another task)" if name == _CANDIDATES else ""
            found.tell("table-missing", f"no {name}{note}")
            continue
        series = [row["seriesuid"] for row in table_rows(tables[name], ("seriesuid", *PLACE))]
        rows[name] = len(series)
        if name in _ROWS and len(series) != _ROWS[name]:
            found.tell("table-size", f"{name} has {len(series)} rows; the official one {_ROWS[name]}")
        if name != _CANDIDATES:
            named |= set(series)
        if name == ANNOTATIONS:
            found.counts["nodules in these scans"] = sum(uid in here for uid in series)
            found.counts["scans without nodules"] = len(here - set(series))
    if named:
        _check_series(here, named, found)
    return rows


def _check_series(here: set[str], named: set[str], found: _Survey) -> None:
    """Every scan of LUNA16 has a row in one of the two tables of findings, so both directions can be told."""
    absent, unnamed = named - here, here - named
    if absent:
        found.tell("rows-without-scan", f"{len(absent)} series have rows in the tables but no scan here", absent)
    if unnamed:
        found.tell("scan-without-rows", f"{len(unnamed)} scans have no row in any table", unnamed)


def _count_extras(folder: Path, found: _Survey) -> None:
    masks = len(list((folder / _MASKS).glob("*.mhd")))
    found.counts["lung masks"] = masks
    if not masks:
        found.tell("masks-missing", f"no {_MASKS} (not needed: the lungs are found anew)")
