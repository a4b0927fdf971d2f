"""From a scan to its findings: one visible line per stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.findings import Candidate, Nodule, NoduleMask, ScanResult
from noduscope.guidelines import NoduleFacts, PatientFacts, assess
from noduscope.lungs import LEFT, RIGHT, Lungs, find_lungs
from noduscope.measure import measure_nodule
from noduscope.model.bundle import Bundle, find_bundle, load_bundle
from noduscope.model.engine import Engine, find_marks
from noduscope.place import nodule_place
from noduscope.region import LungRegion, lung_region
from noduscope.scan import Scan
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The networks that `predict` uses, loaded and compiled once for any number of scans."""

    detector: Bundle
    engine: Engine


def load_models(detector: str = "detector", threads: int = 0) -> Models:
    """Load and compile the networks.

    Parameters
    ----------
    detector : an installed bundle's name (the newest version is taken) or a bundle folder.
    threads : processor threads for the networks; 0 takes all.
    """
    bundle = load_bundle(find_bundle(detector))
    return Models(bundle, Engine(bundle.network, threads))


def predict(
    scan: Scan, models: Models, settings: Settings | None = None, patient: PatientFacts | None = None
) -> ScanResult:
    """Find and measure the nodules of a scan, and say what guidelines make of them.

    Parameters
    ----------
    scan : any orientation and spacing, as `read_scan` gives it.
    settings : the user's; the networks' own (spacing, HU range) come from their bundles.
    patient : what is known about the patient; the guidelines state as assumed what is missing.

    Raises
    ------
    NoScanFound
        When there are no lungs in it.
    """
    settings = settings or Settings()
    clock = _Clock()
    own = models.detector.settings.preprocess
    with clock.stage("lungs"):
        lungs = find_lungs(scan, settings.lungs)
        region = lung_region(scan, lungs, own.spacing_mm)
    with clock.stage("detect"):
        marks = find_marks(models.engine, region.hu, region.lungs, own, settings.detect)
        candidates = _candidates(marks, region, models.detector)
    with clock.stage("measure"):
        threshold = settings.detect.threshold
        threshold = models.detector.threshold if threshold is None else threshold
        labels = lungs.on(scan.geometry)
        nodules = _nodules(scan, lungs, labels, [c for c in candidates if c.probability >= threshold])
    with clock.stage("guidelines"):
        nodules = _advised(nodules, lungs, patient)
    return ScanResult(
        scan=scan,
        lungs=labels,
        nodules=nodules,
        candidates=candidates,
        threshold=threshold,
        models=(models.detector.used,),
        warnings=(*scan.warnings, *lungs.warnings),
        timing_s=clock.seconds,
    )


class _Clock:
    """Seconds per stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


def _candidates(marks: Marks, region: LungRegion, bundle: Bundle) -> tuple[Candidate, ...]:
    """Marks as world positions with calibrated probabilities."""
    places = region.geometry.to_world(marks.centre_zyx)
    rows = zip(places, marks.score, marks.diameter_mm, strict=True)
    probability: Callable[[float], float] = bundle.calibration.probability
    return tuple(Candidate((float(x), float(y), float(z)), probability(float(s)), float(d)) for (x, y, z), s, d in rows)


def _nodules(scan: Scan, lungs: Lungs, labels: NDArray[np.uint8], found: list[Candidate]) -> tuple[Nodule, ...]:
    """Candidates as reported: outlined, measured, located."""
    canonical = scan.canonical()
    own_labels = labels if canonical is scan else lungs.on(canonical.geometry)
    return tuple(_nodule(i, scan, canonical, (lungs, own_labels), c) for i, c in enumerate(found, start=1))


def _nodule(
    number: int, scan: Scan, canonical: Scan, lungs: tuple[Lungs, NDArray[np.uint8]], found: Candidate
) -> Nodule:
    voxel = scan.geometry.to_index(found.position_xyz_mm)
    slice_index = int(np.clip(round(voxel[0]), 0, scan.geometry.shape_zyx[0] - 1))
    uids = scan.source.sop_instance_uids
    measured = measure_nodule(canonical, found.position_xyz_mm, found.diameter_mm, lungs[1])
    return Nodule(
        id=number,
        probability=found.probability,
        position_xyz_mm=found.position_xyz_mm,
        voxel_zyx=(float(voxel[0]), float(voxel[1]), float(voxel[2])),
        slice_number=slice_index + 1,
        sop_instance_uid=(uids[slice_index] or None) if uids else None,
        diameter_mm=measured.diameter_mm if measured else None,
        volume_mm3=measured.volume_mm3 if measured else None,
        side=_side(lungs[0], found),
        mask=NoduleMask(*scan.from_canonical(measured.mask.box, measured.mask.mask)) if measured else None,
    )


def _advised(nodules: tuple[Nodule, ...], lungs: Lungs, patient: PatientFacts | None) -> tuple[Nodule, ...]:
    """The nodules with their third of the lung and what guidelines and risk models say, all judged together."""
    facts = []
    for n in nodules:
        place = nodule_place(lungs, n.position_xyz_mm, n.diameter_mm.mean) if n.diameter_mm else None
        zone, contact = (place.zone, place.pleural_contact) if place else (None, None)
        facts.append(
            NoduleFacts(diameter_mm=n.diameter_mm, volume_mm3=n.volume_mm3, zone=zone, pleural_contact=contact)
        )
    answers = assess(facts, patient)
    told = zip(nodules, facts, answers, strict=True)
    return tuple(replace(n, zone=f.zone, guidelines=a.to_dict()) for n, f, a in told)


def _side(lungs: Lungs, found: Candidate) -> str | None:
    """The lung a finding lies in, or the one it touches; None when neither or both."""
    reach = np.linspace(-0.5, 0.5, 5) * max(found.diameter_mm, 6.0)
    around = np.stack(np.meshgrid(reach, reach, reach), axis=-1).reshape(-1, 3)
    labels = lungs.at(found.position_xyz_mm + around)
    left, right = int((labels == LEFT).sum()), int((labels == RIGHT).sum())
    return None if left == right else "left" if left > right else "right"


def with_timing(result: ScanResult, **seconds: float) -> ScanResult:
    """The result with stages timed outside `predict` put in front, and the total at the end."""
    stages = {**seconds, **{k: v for k, v in result.timing_s.items() if k != "total"}}
    return replace(result, timing_s={**stages, "total": sum(stages.values())})
