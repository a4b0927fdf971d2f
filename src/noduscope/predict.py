"""From a scan to its findings: one visible line per stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from noduscope.boxes import Marks
from noduscope.findings import Candidate, ModelUsed, Nodule, NoduleMask, ScanResult
from noduscope.grading import Graded, Grader, matching_grader
from noduscope.guidelines import NoduleFacts, PatientFacts, assess
from noduscope.lungs import LEFT, RIGHT, Lungs, find_lungs
from noduscope.measure import measure_nodule
from noduscope.model.bundle import Bundle, find_bundle, load_bundle
from noduscope.model.engine import Engine, find_marks
from noduscope.place import nodule_place
from noduscope.region import LungRegion, lung_region
from noduscope.scan import Scan, Triple
from noduscope.settings import Settings


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The networks that `predict` uses, loaded and compiled once for any number of scans."""

    detector: Bundle
    engine: Engine
    grader: Grader | None = None

    @property
    def threshold(self) -> float:
        """Probability from which a mark is reported unless the user says otherwise."""
        return (self.grader.bundle if self.grader else self.detector).threshold

    @property
    def used(self) -> tuple[ModelUsed, ...]:
        """What results say about them."""
        return (self.detector.used, *((self.grader.used,) if self.grader else ()))


def load_models(detector: str = "detector", threads: int = 0) -> Models:
    """Load and compile the networks.

    The grader is used beside the detector that it was fitted to; another detector speaks alone.

    Parameters
    ----------
    detector : an installed bundle's name (the newest version is taken) or a bundle folder.
    threads : processor threads for the networks; 0 takes all.
    """
    bundle = load_bundle(find_bundle(detector))
    return Models(bundle, Engine(bundle.network, threads), matching_grader(bundle, threads))


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
    with clock.stage("grade" if models.grader else "detect"):
        candidates = _candidates(marks, region, models)
    with clock.stage("measure"):
        threshold = models.threshold if settings.detect.threshold is None else settings.detect.threshold
        labels = lungs.on(scan.geometry)
        found = [c for c in candidates if c.probability >= threshold]
        nodules = _nodules((scan, lungs, labels), found, models.grader)
    with clock.stage("guidelines"):
        nodules = _advised(nodules, lungs, patient)
    return ScanResult(
        scan=scan,
        lungs=labels,
        nodules=nodules,
        candidates=candidates,
        threshold=threshold,
        models=models.used,
        warnings=(*scan.warnings, *lungs.warnings),
        timing_s=clock.seconds,
        precision=models.engine.precision,
    )


class _Clock:
    """Seconds per stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _candidates(marks: Marks, region: LungRegion, models: Models) -> tuple[Candidate, ...]:
    """Marks as world positions with calibrated probabilities, most probable first."""
    if models.grader:
        probability = models.grader.probabilities(region, marks)
    else:
        probability = np.array([models.detector.calibration.probability(float(s)) for s in marks.score])
    places = region.geometry.to_world(marks.centre_zyx)
    order = np.argsort(-probability, kind="stable")
    return tuple(
        Candidate((float(x), float(y), float(z)), float(probability[i]), float(marks.diameter_mm[i]))
        for i in order
        for x, y, z in [places[i]]
    )


def _nodules(
    where: tuple[Scan, Lungs, NDArray[np.uint8]], found: list[Candidate], grader: Grader | None
) -> tuple[Nodule, ...]:
    """Candidates as reported: outlined, measured, graded, located."""
    scan, lungs, labels = where
    canonical = scan.canonical()
    own_labels = labels if canonical is scan else lungs.on(canonical.geometry)
    made = []
    for number, candidate in enumerate(found, start=1):
        nodule = nodule_at(number, scan, candidate.position_xyz_mm, candidate.probability)
        nodule = replace(nodule, side=_side(lungs, candidate))
        if grader:
            nodule = with_grade(nodule, grader.grade(scan, candidate.position_xyz_mm, candidate.diameter_mm))
        if nodule.diameter_mm is None:
            nodule = _measured(nodule, scan, (canonical, own_labels), candidate)
        made.append(nodule)
    return tuple(made)


def nodule_at(number: int, scan: Scan, position_xyz_mm: Triple, probability: float) -> Nodule:
    """A nodule of which no more is known than where it lies."""
    z, y, x = (float(v) for v in scan.geometry.to_index(position_xyz_mm))
    plane = int(np.clip(round(z), 0, scan.geometry.shape_zyx[0] - 1))
    uids = scan.source.sop_instance_uids
    return Nodule(
        id=number,
        probability=probability,
        position_xyz_mm=position_xyz_mm,
        voxel_zyx=(z, y, x),
        slice_number=plane + 1,
        sop_instance_uid=(uids[plane] or None) if uids else None,
        diameter_mm=None,
        volume_mm3=None,
    )


def with_grade(nodule: Nodule, graded: Graded) -> Nodule:
    """The nodule with what the grader says of its place."""
    return replace(
        nodule,
        diameter_mm=graded.diameter_mm,
        volume_mm3=graded.volume_mm3,
        mask=graded.mask,
        grade=graded.grade,
        explanation=graded.explanation,
    )


def _measured(nodule: Nodule, scan: Scan, where: tuple[Scan, NDArray[np.uint8]], found: Candidate) -> Nodule:
    """By classical image analysis, where no network has outlined it."""
    canonical, labels = where
    measured = measure_nodule(canonical, found.position_xyz_mm, found.diameter_mm, labels)
    if measured is None:
        return nodule
    mask = NoduleMask(*scan.from_canonical(measured.mask.box, measured.mask.mask))
    return replace(nodule, diameter_mm=measured.diameter_mm, volume_mm3=measured.volume_mm3, mask=mask)


def _advised(nodules: tuple[Nodule, ...], lungs: Lungs, patient: PatientFacts | None) -> tuple[Nodule, ...]:
    """The nodules with their third of the lung and what guidelines and risk models say, all judged together."""
    facts = []
    for n in nodules:
        place = nodule_place(lungs, n.position_xyz_mm, n.diameter_mm.mean) if n.diameter_mm else None
        zone, contact = (place.zone, place.pleural_contact) if place else (None, None)
        known = NoduleFacts(diameter_mm=n.diameter_mm, volume_mm3=n.volume_mm3, zone=zone, pleural_contact=contact)
        facts.append(known.graded(n.grade) if n.grade else known)
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
