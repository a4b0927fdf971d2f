"""Whole validation volumes with known answers, and the score by which a training epoch is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Lesion, Marks
from noduscope.data.crops import NodulePatch
from noduscope.data.hosts import HostScan
from noduscope.data.implant import Place, implant, random_kind, random_place
from noduscope.scan import Geometry, HuVolume

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which LUNA16 reads the sensitivity."""


@dataclass(frozen=True, slots=True, eq=False)
class KnownVolume:
    """A lung region with its lesions, real and implanted.

    ``types`` names each lesion's type (``solid``, …, or ``real`` for the scan's own), ``places`` where it was
    set in (``free``, ``vessel``, ``pleura``, or ``real``).
    """

    name: str
    hu: HuVolume
    lungs: NDArray[np.uint8]
    geometry: Geometry
    lesions: tuple[Lesion, ...]
    types: tuple[str, ...]
    places: tuple[str, ...]


def plain_volumes(hosts: Sequence[HostScan]) -> tuple[KnownVolume, ...]:
    """The scans as they are."""
    return tuple(_plain(h) for h in hosts)


def _plain(host: HostScan) -> KnownVolume:
    own = ("real",) * len(host.lesions)
    return KnownVolume(host.name, host.hu, host.lungs, host.geometry, host.lesions, own, own)


def implanted_volumes(
    host: HostScan, patches: Sequence[NodulePatch], copies: int, each: int, seed: int
) -> list[KnownVolume]:
    """The scan as it is, and copies of it with `each` nodules set in at random free places.

    The nodules are taken in turn, so that no one appears twice before all have appeared once; without any
    there are no copies.
    """
    volumes = [_plain(host)]
    rng = np.random.default_rng((seed, len(host.hu)))
    order = list(rng.permutation(len(patches)))
    for copy in range(copies if order else 0):
        volume = host.hu.astype(np.float32)
        lesions, types, places = list(host.lesions), list(volumes[0].types), list(volumes[0].places)
        for _ in range(each):
            patch = patches[order[0]]
            order = order[1:] + order[:1]
            kind = random_kind(rng)
            lesion = _set_in(rng, (volume, host.lungs > 0), (patch, kind), lesions)
            if lesion is not None:
                lesions.append(lesion)
                types.append(patch.type)
                places.append(kind)
        hu = np.clip(np.rint(volume), -1024, 3071).astype(np.int16)
        name = f"{host.name}+{copy + 1}"
        held = tuple(lesions), tuple(types), tuple(places)
        volumes.append(KnownVolume(name, hu, host.lungs, host.geometry, *held))
    return volumes


def _set_in(
    rng: np.random.Generator,
    scan: tuple[NDArray[np.float32], NDArray[np.bool_]],
    nodule: tuple[NodulePatch, Place],
    known: Sequence[Lesion],
) -> Lesion | None:
    """One nodule into a whole volume at a place of its kind, clear of the known ones; None after twenty vain tries."""
    (volume, lung), (patch, kind) = scan, nodule
    voxels = np.flatnonzero(lung)
    for _ in range(20):
        spot = np.unravel_index(voxels[rng.integers(len(voxels))], lung.shape)
        low = [int(np.clip(s - 32, 0, max(n - 64, 0))) for s, n in zip(spot, lung.shape, strict=True)]
        box = tuple(slice(a, a + 64) for a in low)
        place = random_place(rng, volume[box], lung[box], patch.diameter_mm, kind)
        if place is None:
            continue
        at = (place[0] + low[0], place[1] + low[1], place[2] + low[2])
        gap = [np.linalg.norm(np.subtract(k.centre_zyx, at)) - (k.diameter_mm + patch.diameter_mm) / 2 for k in known]
        if min(gap, default=np.inf) < 8:
            continue
        lesion = implant(volume, patch, at)
        if lesion is not None:
            return lesion
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Marks against lesions over several volumes, as far as a FROC curve needs them.

    Parameters
    ----------
    best : float (n lesions that count,), score of the best mark in each, -inf where there is none.
    false_positives : float (m,), scores of the marks in no lesion.
    scans : how many volumes.
    """

    best: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    scans: int

    def threshold(self, rate: float) -> float:
        """The score above which there are at most `rate` false positives per scan."""
        allowed = int(np.floor(rate * self.scans))
        scores = np.sort(self.false_positives)[::-1]
        return float(scores[allowed]) if allowed < len(scores) else -np.inf

    def sensitivity(self, rate: float) -> float:
        """Sensitivity at most `rate` false positives per scan."""
        return float((self.best > self.threshold(rate)).mean()) if len(self.best) else float("nan")

    @property
    def cpm(self) -> float:
        """Mean sensitivity at the seven rates."""
        return float(np.mean([self.sensitivity(r) for r in RATES]))


def match(volumes: Sequence[KnownVolume], marks: Sequence[Marks]) -> Matched:
    """Match marks to lesions by LUNA16's rule: inside the radius is a hit; lesions that do not count forgive."""
    best: list[float] = []
    false: list[float] = []
    for volume, found in zip(volumes, marks, strict=True):
        spacing = volume.geometry.spacing_xyz_mm[0]
        free = np.ones(len(found), dtype=bool)
        for lesion in volume.lesions:
            apart = np.linalg.norm(found.centre_zyx - np.asarray(lesion.centre_zyx, np.float32), axis=1) * spacing
            inside = apart < lesion.diameter_mm / 2
            free &= ~inside
            if lesion.counts:
                best.append(float(found.score[inside].max()) if inside.any() else -np.inf)
        false += found.score[free].tolist()
    return Matched(np.asarray(best), np.asarray(false), len(volumes))
