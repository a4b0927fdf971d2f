"""What `noduscope.data.prepare` has prepared, for training: the scans with their findings, split by subset."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from noduscope.data.cache import is_prepared, prepared_folder
from noduscope.data.folds import patient_fold
from noduscope.data.hosts import HostScan, open_host
from noduscope.data.known import ANNOTATIONS, EXCLUDED, KnownLesion, read_annotations
from noduscope.data.luna16 import SUBSETS, TreeScan
from noduscope.errors import InputRefused, SettingsError
from noduscope.settings import Settings, SplitSettings

SCANS = "prepared.csv"


def is_cache(folder: Path) -> bool:
    """Whether `prepare_tree` has filled this folder."""
    return (folder / SCANS).exists()


def read_scans(cache: Path) -> tuple[TreeScan, ...]:
    """The scans of a cache; their ``path`` is the cache, the only place that training needs.

    Raises
    ------
    InputRefused
        When the folder is no cache, or its list is damaged.
    """
    try:
        with (cache / SCANS).open(newline="", encoding="utf-8") as file:
            scans = [TreeScan(r["seriesuid"], cache, r["patient"], int(r["subset"])) for r in csv.DictReader(file)]
    except OSError as error:
        raise InputRefused(f"{cache} holds no {SCANS}: make it with noduscope data prepare") from error
    except (KeyError, ValueError, TypeError) as error:
        raise InputRefused(f"{cache / SCANS} is damaged ({error}); run noduscope data prepare again") from error
    if any(not 0 <= s.subset < SUBSETS for s in scans):
        raise InputRefused(f"{cache / SCANS}: a subset is a number from 0 to {SUBSETS - 1}")
    return tuple(scans)


def cached_hosts(cache: Path, scans: Iterable[TreeScan], settings: Settings) -> list[HostScan]:
    """Scans of a cache with their findings; nodules count, excluded findings count neither way.

    Raises
    ------
    InputRefused
        When a scan was not prepared with these settings.
    """
    known: dict[str, list[KnownLesion]] = {}
    for name in (ANNOTATIONS, EXCLUDED):
        for uid, lesions in read_annotations(cache / name, counts=name == ANNOTATIONS).items():
            known.setdefault(uid, []).extend(lesions)
    folder = prepared_folder(cache, settings)
    uids = [s.series_uid for s in scans]
    missing = [uid for uid in uids if not is_prepared(folder / uid)]
    if missing:
        raise InputRefused(
            f"{cache}: {len(missing)} scans are not prepared with these settings, e.g. {missing[0]}; "
            "run noduscope data prepare with the same settings file"
        )
    return [open_host(folder / uid, known.get(uid, [])) for uid in uids]


@dataclass(frozen=True, slots=True)
class FoldSplit:
    """The scans of a cache on three sides; no patient is on two of them."""

    train: tuple[TreeScan, ...]
    validation: tuple[TreeScan, ...]
    test: tuple[TreeScan, ...]


def with_fold(settings: Settings, fold: int) -> Settings:
    """The settings of one fold: the subset of that number is for test, the next one for validation."""
    if not 0 <= fold < SUBSETS:
        raise SettingsError(f"a fold is a number from 0 to {SUBSETS - 1}; got {fold}")
    split = dataclasses.replace(settings.split, test_fold=fold, validation_fold=(fold + 1) % SUBSETS)
    return dataclasses.replace(settings, split=split)


def split_fold(scans: Sequence[TreeScan], split: SplitSettings) -> FoldSplit:
    """One fold of the official ten.

    The subset ``test_fold`` is for test, ``validation_fold`` for validation; where there is no scan of the latter, a
    ninth of the other patients, at least one, chosen by a hash of the id. Scans of a patient who is on another side
    are left out of training.

    Raises
    ------
    SettingsError
        When the two folds are one, or there is no such subset.
    InputRefused
        When the cache holds no scan for one of the sides.
    """
    fold, other = split.test_fold, split.validation_fold
    if fold == other or not {fold, other} <= set(range(SUBSETS)):
        raise SettingsError(f"test and validation fold must be two of 0 to {SUBSETS - 1}; got {fold} and {other}")
    test = tuple(s for s in scans if s.subset == fold)
    held_out = {s.patient_id for s in test}
    rest = [s for s in scans if s.subset != fold and s.patient_id not in held_out]
    chosen = {s.patient_id for s in rest if s.subset == other} or _ninth({s.patient_id for s in rest})
    validation = tuple(s for s in rest if s.patient_id in chosen)
    train = tuple(s for s in rest if s.patient_id not in chosen)
    for side, held in (("test", test), ("validation", validation), ("training", train)):
        if not held:
            raise InputRefused(f"fold {fold}: the cache holds no scan for {side}; prepare more subsets")
    return FoldSplit(train, validation, test)


def _ninth(patients: set[str]) -> set[str]:
    """A ninth of the patients, at least one, the same ones on every machine."""
    order = sorted(patients, key=lambda p: (patient_fold(p, 1 << 32), p))
    return set(order[: max(1, len(order) // (SUBSETS - 1))])
