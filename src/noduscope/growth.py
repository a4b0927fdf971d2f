"""Nodules of two scans of one patient: which is which, what changed, and whether the change can be measured.

Every change comes with a 95 % interval (`noduscope.changes`) of how far each size would move if the nodule were
scanned again (`noduscope.sizes.repeat_interval`; how readers differ about an outline is the same in both scans
and cancels). A change inside what repeat scans show is called stable, one outside the whole interval grown or
smaller. Between the two a change is unsure, not absent. The growth rules of the guidelines are stated beside it
as facts about the measured values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from noduscope.changes import Change, DoublingTime, GrowthRule, change, doubling_time, growth_rules
from noduscope.errors import InputRefused
from noduscope.findings import Diameter, Interval, Nodule, NoduleMask, ScanResult
from noduscope.measure import measure_nodule
from noduscope.registration import Registration
from noduscope.scan import Scan, ScanWarning, Triple
from noduscope.settings import GrowthSettings
from noduscope.sizes import Size, repeat_interval

Status: TypeAlias = Literal["grown", "new", "unsure", "unmarked", "unmeasured", "smaller", "stable", "gone", "outside"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""In the order in which a reader wants to see them. ``unsure``: changed by more than repeat scans of unchanged nodules
differ, but inside the nodules' own intervals. ``unmarked``: marked in one scan, and something that the detector
did not mark is at its place in the other. ``outside``: its place in the other scan was not scanned."""

_THICK_MM = 2.5
_UNKNOWN_HINT_MM = 6.0
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Sighting:
    """A nodule as one of the two scans shows it.

    Parameters
    ----------
    nodule_id, probability : of the finding; None where the detector did not mark it.
    mask : on the scan's own grid, or None.
    """

    position_xyz_mm: Triple
    diameter_mm: Diameter | None
    volume_mm3: Interval | None
    mask: NoduleMask | None = None
    nodule_id: int | None = None
    probability: float | None = None
    side: str | None = None

    @classmethod
    def of(cls, nodule: Nodule) -> Sighting:
        """A finding."""
        return cls(
            nodule.position_xyz_mm,
            nodule.diameter_mm,
            nodule.volume_mm3,
            nodule.mask,
            nodule.id,
            nodule.probability,
            nodule.side,
        )


@dataclass(frozen=True, slots=True)
class FollowUp:
    """One nodule over both scans.

    Parameters
    ----------
    id : its row, from 1.
    prior, current : as each scan shows it; None where nothing is there.
    prior_place_xyz_mm, current_place_xyz_mm : where to look in each scan: its own place, else the mapped one.
    distance_mm : between the mapped prior place and the current one; None unless both show it.
    """

    id: int
    status: Status
    prior: Sighting | None
    current: Sighting | None
    prior_place_xyz_mm: Triple
    current_place_xyz_mm: Triple
    distance_mm: float | None = None
    volume: Change | None = None
    diameter: Change | None = None
    doubling: DoublingTime | None = None
    rules: tuple[GrowthRule, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Two scans of one patient and what became of each nodule.

    Parameters
    ----------
    interval_days : between the scans; None where it is not known.
    rows : sorted by `STATUSES`, the most probable first among equals.
    """

    prior: ScanResult
    current: ScanResult
    registration: Registration
    interval_days: int | None
    rows: tuple[FollowUp, ...]
    warnings: tuple[ScanWarning, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Indices of two nodules that are one, and how far apart they are after mapping, mm."""

    prior: int
    current: int
    distance_mm: float


def match_nodules(
    prior: Sequence[Nodule], current: Sequence[Nodule], registration: Registration, settings: GrowthSettings
) -> tuple[Pair, ...]:
    """Pair the nodules of two scans, each with at most one.

    The sum of squared distances is the least possible (Hungarian method), each in units of the pair's
    gate; to leave two apart costs as much as a pair at the edge of its gate.
    """
    if not prior or not current:
        return ()
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415  (a third of a second to import)

    mapped = registration.map([n.position_xyz_mm for n in prior])
    places = np.array([n.position_xyz_mm for n in current])
    distance = np.linalg.norm(mapped[:, None] - places[None], axis=2)
    radii = [np.array([_hint(n.diameter_mm) / 2 for n in side]) for side in (prior, current)]
    gate = _gate(registration, settings) + np.maximum(radii[0][:, None], radii[1][None])
    rows, columns = linear_sum_assignment(np.minimum((distance / gate) ** 2, 1.0))
    found = zip(rows.tolist(), columns.tolist(), strict=True)
    return tuple(Pair(i, j, float(distance[i, j])) for i, j in found if distance[i, j] < gate[i, j])


def compare(
    prior: ScanResult,
    current: ScanResult,
    registration: Registration,
    interval_days: int | None,
    settings: GrowthSettings,
    warnings: tuple[ScanWarning, ...] = (),
) -> Comparison:
    """What became of each nodule.

    A nodule that only one scan marks is looked for at its mapped place in the other.

    Parameters
    ----------
    interval_days : from the prior to the current scan, 0 or more; None where it is not known: no doubling times.
    warnings : about the two scans, put in front of its own.

    Raises
    ------
    InputRefused
        For a negative interval.
    """
    if interval_days is not None and interval_days < 0:
        raise InputRefused(f"the current scan is {-interval_days} days older than the prior one: swap them")
    pairs = match_nodules(prior.nodules, current.nodules, registration, settings)
    joint = _Joint(_Side.of(prior), _Side.of(current), registration, interval_days, settings)
    rows = [joint.paired(prior.nodules[p.prior], current.nodules[p.current], p.distance_mm) for p in pairs]
    matched = ({p.prior for p in pairs}, {p.current for p in pairs})
    rows += [joint.only_prior(n) for i, n in enumerate(prior.nodules) if i not in matched[0]]
    rows += [joint.only_current(n) for i, n in enumerate(current.nodules) if i not in matched[1]]
    rows.sort(key=lambda row: (STATUSES.index(row.status), -_probability(row)))
    numbered = tuple(replace(row, id=k) for k, row in enumerate(rows, start=1))
    told = (*warnings, *registration.warnings, *_warnings(prior, current, interval_days))
    return Comparison(prior, current, registration, interval_days, numbered, told)


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """A result with what measuring needs: canonical scan and labels."""

    scan: Scan
    canonical: Scan
    lungs: NDArray[np.uint8]

    @classmethod
    def of(cls, result: ScanResult) -> _Side:
        canonical = result.scan.canonical()
        if canonical is result.scan:
            return cls(result.scan, canonical, result.lungs)
        labels = Scan(result.lungs.astype(np.int16), result.scan.geometry, result.scan.source).canonical()
        return cls(result.scan, canonical, labels.hu.astype(np.uint8))

    def look(self, place_xyz_mm: Triple, hint_mm: float, settings: GrowthSettings) -> Sighting | None:
        """What can be outlined at a place; None where there is nothing of a nodule's size."""
        measured = measure_nodule(self.canonical, place_xyz_mm, hint_mm, self.lungs)
        # the hint is the other scan's size: what grew out of its reach is measured again
        for _ in range(_LOOKS):
            if measured is None or measured.diameter_mm.mean < 1.2 * hint_mm:
                break
            hint_mm = measured.diameter_mm.mean
            measured = measure_nodule(self.canonical, place_xyz_mm, hint_mm, self.lungs)
        if measured is None or measured.diameter_mm.mean < settings.least_seen_mm:
            return None
        start = [b.start for b in measured.mask.box]
        centre = self.canonical.geometry.to_world(np.argwhere(measured.mask.mask).mean(axis=0) + start)
        reach = settings.gate_mm + measured.diameter_mm.mean / 2
        if float(np.linalg.norm(centre - place_xyz_mm)) > reach:
            return None
        mask = NoduleMask(*self.scan.from_canonical(measured.mask.box, measured.mask.mask))
        return Sighting(_triple(centre), measured.diameter_mm, measured.volume_mm3, mask)


@dataclass(frozen=True, slots=True, eq=False)
class _Joint:
    """Both sides and how they lie to each other."""

    prior: _Side
    current: _Side
    registration: Registration
    interval_days: int | None
    settings: GrowthSettings

    def paired(self, prior: Nodule, current: Nodule, distance_mm: float) -> FollowUp:
        """A nodule that both scans mark."""
        return self._both(Sighting.of(prior), Sighting.of(current), distance_mm)

    def only_prior(self, nodule: Nodule) -> FollowUp:
        """A nodule that the current scan does not mark."""
        own, place = Sighting.of(nodule), _triple(self.registration.map(nodule.position_xyz_mm))
        if not self.current.scan.geometry.contains(place):
            return FollowUp(0, "outside", own, None, own.position_xyz_mm, place)
        seen = self.current.look(place, _hint(nodule.diameter_mm), self.settings)
        if seen is None:
            return FollowUp(0, "gone", own, None, own.position_xyz_mm, place)
        return self._both(own, seen, float(np.linalg.norm(np.subtract(seen.position_xyz_mm, place))))

    def only_current(self, nodule: Nodule) -> FollowUp:
        """A nodule that the prior scan does not mark."""
        own, place = Sighting.of(nodule), _triple(self.registration.inverse(nodule.position_xyz_mm))
        if not self.prior.scan.geometry.contains(place):
            return FollowUp(0, "outside", None, own, place, own.position_xyz_mm)
        seen = self.prior.look(place, _hint(nodule.diameter_mm), self.settings)
        if seen is None:
            return FollowUp(0, "new", None, own, place, own.position_xyz_mm)
        mapped = self.registration.map(seen.position_xyz_mm)
        return self._both(seen, own, float(np.linalg.norm(mapped - own.position_xyz_mm)))

    def _both(self, prior: Sighting, current: Sighting, distance_mm: float) -> FollowUp:
        error = self.settings.repeatability
        volume = diameter = doubling = None
        volumes = self._repeated("volume", prior, current)
        if volumes:
            volume = change(*volumes, error)
            if self.interval_days:
                doubling = doubling_time(*volumes, self.interval_days, error)
        diameters = self._repeated("diameter", prior, current)
        if diameters:
            diameter = change(*diameters, (1 + error) ** (1 / 3) - 1)
        rules = growth_rules(diameter, volume, self.interval_days)
        marked = prior.nodule_id is not None and current.nodule_id is not None
        status = _status(volume or diameter) if marked else "unmarked"
        places = (prior.position_xyz_mm, current.position_xyz_mm)
        return FollowUp(0, status, prior, current, *places, distance_mm, volume, diameter, doubling, rules)

    def _repeated(self, size: Size, prior: Sighting, current: Sighting) -> tuple[Interval, Interval] | None:
        """A size in both scans, each with the interval of a repeated scan; None unless both have it."""
        made = []
        for side, seen in ((self.prior, prior), (self.current, current)):
            d, v = seen.diameter_mm, seen.volume_mm3
            if d is None or v is None:
                return None
            told = v if size == "volume" else Interval(d.mean, d.low, d.high)
            made.append(repeat_interval(size, told, d.mean, side.canonical.geometry.spacing_xyz_mm[2]))
        return made[0], made[1]


def _status(seen: Change | None) -> Status:
    """Grown or smaller where the interval does not hold no change; else stable or unsure by the value itself."""
    if seen is None:
        return "unmeasured"
    if not seen.measurable:
        return "stable" if seen.repeatable else "unsure"
    return "grown" if seen.absolute.value > 0 else "smaller"


def _warnings(prior: ScanResult, current: ScanResult, interval_days: int | None) -> tuple[ScanWarning, ...]:
    """What makes a change of size doubtful."""
    found = []
    scans = (prior.scan, current.scan)
    if not interval_days:
        text = "The time between the scans is not known or zero: no doubling times can be given."
        found.append(ScanWarning("interval-unknown", text))
    if scans[0].source.series_uid == scans[1].source.series_uid:
        found.append(ScanWarning("same-series", "Both sides are the same series."))
    spacing = [max(s.geometry.spacing_xyz_mm) for s in scans]
    if max(spacing) >= _THICK_MM:
        text = f"Slices lie {max(spacing):.1f} mm apart: changes of 1 to 2 mm and their doubling times cannot be told."
        found.append(ScanWarning("slices-thick", text))
    if max(spacing) > 1.5 * min(spacing):
        text = f"Slices lie {spacing[0]:.2f} mm apart before and {spacing[1]:.2f} mm now: sizes differ by that alone."
        found.append(ScanWarning("slices-differ", text))
    kernels = [dict(s.source.description).get("Kernel", "") for s in scans]
    if all(kernels) and kernels[0] != kernels[1]:
        text = f"Reconstruction kernels differ ({kernels[0]}, {kernels[1]}): sizes differ by that alone."
        found.append(ScanWarning("kernels-differ", text))
    if prior.models and current.models and prior.models != current.models:
        found.append(ScanWarning("models-differ", "The two scans were searched by different models."))
    return tuple(found)


def _gate(registration: Registration, settings: GrowthSettings) -> float:
    """How far a centre may lie beyond the radius: a poor registration widens it."""
    return max(settings.gate_mm, registration.quality.residual_p95_mm)


def _hint(diameter: Diameter | None) -> float:
    return diameter.mean if diameter else _UNKNOWN_HINT_MM


def _probability(row: FollowUp) -> float:
    return max((s.probability or 0.0) for s in (row.prior, row.current) if s)


def _triple(point: NDArray[np.float64]) -> Triple:
    x, y, z = (float(v) for v in point)
    return (x, y, z)
