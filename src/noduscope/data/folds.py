"""Splits by patient: one rule for every fold, so that no patient is ever on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from noduscope.errors import SettingsError


def patient_fold(patient_id: str, folds: int = 10, seed: int = 0) -> int:
    """The fold of a patient: a stable hash of the id, the same on every machine and for every table.

    All scans and nodules of one patient share it whatever else is in the data set, so adding data
    never moves a patient from training into test.

    Examples
    --------
    >>> patient_fold("LIDC-IDRI-0001") == patient_fold("LIDC-IDRI-0001")
    True
    >>> 0 <= patient_fold("LIDC-IDRI-0002", folds=5) < 5
    True
    """
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % folds


def require_disjoint(first: Iterable[str], second: Iterable[str], what: str) -> None:
    """Raise SettingsError naming the patients when two sides of a split share any."""
    shared = sorted(set(first) & set(second))
    if shared:
        raise SettingsError(f"{what}: {len(shared)} patients are on both sides of the split, e.g. {shared[:3]}")
