"""``report.dcm``: the measurements as Comprehensive 3D SR, template TID 1500 (PS3.16)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    Scoord3DContentItem,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from noduscope.findings import NOT_A_MEDICAL_DEVICE, Nodule
from noduscope.report.dicom_codes import (
    ABNORMAL_STRUCTURE,
    CUBIC_MILLIMETRE,
    LUNG,
    LUNG_RADS,
    MAKER,
    MILLIMETRE,
    NODULE,
    NODULE_TYPE,
    PERCENT,
    PRIVATE_SCHEME,
    QUALITATIVE,
    SERIAL,
    SIDES,
    SR_SERIES,
    TYPES,
    ZONES,
    Told,
    lung_rads,
    percent,
    version,
)
from noduscope.report.dicom_source import SourceSeries, new_uid, uid_of
from noduscope.words import counted

CONTAINS = RelationshipTypeValues.CONTAINS
_UPPER = Code("371886008", "SCT", "+, range of upper measurement uncertainty")
_LOWER = Code("371885007", "SCT", "-, range of lower measurement uncertainty")
_Group: TypeAlias = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


def measurement_report(told: Told, source: SourceSeries, segmentation: Dataset | None) -> Dataset:
    """The report: one measurement group per nodule, and in words what was found.

    A nodule with an outline is TID 1411 and refers to its segment; one without is TID 1501. Each group also
    holds the nodule's centre in patient coordinates, which is what viewers that do not draw segments show.
    """
    evidence = [source.header(0), *source.images[1:]]
    if segmentation is not None:
        evidence.append(segmentation)
    made: Dataset = Comprehensive3DSR(
        evidence=evidence,
        content=_root(told, source, segmentation),
        series_instance_uid=new_uid(),
        series_number=SR_SERIES,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        manufacturer_model_name=MAKER,
        software_versions=version(),
        device_serial_number=SERIAL,
        series_description="Lung nodules, measurements by software",
        coding_schemes=_private_scheme(told),
    )
    return made


def algorithm(told: Told) -> AlgorithmIdentification:
    """TID 4019: what found and measured."""
    return AlgorithmIdentification(
        name=MAKER,
        version=version(),
        parameters=told.parameters(),
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MAKER,
    )


def language() -> LanguageOfContentItemAndDescendants:
    """TID 1204: the texts are English."""
    return LanguageOfContentItemAndDescendants(CodedConcept("en", "RFC5646", "English"))


def device() -> ObservationContext:
    """TID 1001: a program observed, no person."""
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=uid_of(MAKER, version()), name=MAKER, manufacturer_name=MAKER, model_name=MAKER
            ),
        )
    )


def container(name: Code, **options: Any) -> ContainerContentItem:
    """An empty container whose items stand for themselves."""
    made = ContainerContentItem(name=name, is_content_continuous=False, **options)
    made.ContentSequence = ContentSequence()
    return made


def _root(told: Told, source: SourceSeries, segmentation: Dataset | None) -> ContainerContentItem:
    """TID 1500. highdicom's own builder refuses a report without measurements, which is what no finding gives."""
    root = container(codes.DCM.ImagingMeasurementReport, template_id="1500")
    root.ContentSequence.extend(language())
    root.ContentSequence.extend(device())
    root.ContentSequence.append(
        CodeContentItem(
            codes.DCM.ProcedureReported, codes.LN.CTUnspecifiedBodyRegion, RelationshipTypeValues.HAS_CONCEPT_MOD
        )
    )
    nodules = told.result.nodules
    if nodules:
        measured = container(codes.DCM.ImagingMeasurements, relationship_type=CONTAINS)
        segment_of = {n.id: k for k, n in enumerate(told.outlined(), 1)}
        for nodule in nodules:
            measured.ContentSequence.extend(_group(told, nodule, source, segmentation, segment_of.get(nodule.id)))
        root.ContentSequence.append(measured)
    root.ContentSequence.append(_summary(told))
    return root


def _summary(told: Told) -> ContainerContentItem:
    """The qualitative part: nodules present or absent, and the notice. It alone makes a valid empty report."""
    found = len(told.result.nodules)
    words = (
        f"{counted(found, 'finding')} at or above probability {told.result.threshold:.2f}."
        if found
        else f"No lung nodule found at or above probability {told.result.threshold:.2f}."
    )
    warnings = [w.text for w in told.result.warnings]
    part = container(QUALITATIVE, relationship_type=CONTAINS)
    for item in (
        CodeContentItem(NODULE, codes.SCT.Present if found else codes.SCT.Absent, CONTAINS),
        TextContentItem(codes.DCM.Comment, " ".join([words, *warnings]), CONTAINS),
        TextContentItem(codes.DCM.Comment, NOT_A_MEDICAL_DEVICE, CONTAINS),
    ):
        part.ContentSequence.append(item)
    return part


def _group(
    told: Told, nodule: Nodule, source: SourceSeries, segmentation: Dataset | None, segment: int | None
) -> _Group:
    """One nodule's measurement group with its centre."""
    uid, name = told.tracking(nodule)
    common = {
        "tracking_identifier": TrackingIdentifier(uid=uid, identifier=name),
        "finding_category": ABNORMAL_STRUCTURE,
        "finding_type": NODULE,
        "finding_sites": [FindingSite(ZONES.get(nodule.zone or "", LUNG), laterality=SIDES.get(nodule.side or ""))],
        "algorithm_id": algorithm(told),
        "measurements": _measurements(nodule),
        "qualitative_evaluations": _evaluations(nodule) or None,
    }
    group: _Group
    if segmentation is None or segment is None:
        group = MeasurementsAndQualitativeEvaluations(**common)
    else:
        reference = ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment,
            source_series=SourceSeriesForSegmentation(str(source.images[0].SeriesInstanceUID)),
        )
        group = VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=reference, **common)
    group[0].ContentSequence.append(
        Scoord3DContentItem(
            name=codes.DCM.Center,
            graphic_type="POINT",
            graphic_data=np.array([nodule.position_xyz_mm], dtype=float),
            frame_of_reference_uid=source.frame_of_reference,
            relationship_type=CONTAINS,
        )
    )
    return group


def _measurements(nodule: Nodule) -> list[Measurement]:
    """What was measured, with 95 % intervals."""
    found = [Measurement(codes.DCM.CertaintyOfFinding, percent(nodule.probability), PERCENT)]
    diameter, volume, grade = nodule.diameter_mm, nodule.volume_mm3, nodule.grade
    if diameter is not None:
        mean = Measurement(codes.SCT.Diameter, round(diameter.mean, 2), MILLIMETRE, derivation=codes.SCT.Mean)
        found += [
            Measurement(codes.SCT.LongAxis, round(diameter.long, 2), MILLIMETRE),
            Measurement(codes.SCT.ShortAxis, round(diameter.short, 2), MILLIMETRE),
            _with_interval(mean, diameter.low, diameter.high),
        ]
    if volume is not None:
        size = Measurement(codes.SCT.Volume, round(volume.value, 1), CUBIC_MILLIMETRE)
        found.append(_with_interval(size, volume.low, volume.high))
    if grade is not None:
        cancer = grade.malignancy
        risk = Measurement(codes.DCM.ProbabilityOfCancer, percent(cancer.value), PERCENT)
        found.append(_with_interval(risk, percent(cancer.low), percent(cancer.high)))
    return found


def _with_interval(measurement: Measurement, low: float, high: float) -> Measurement:
    """The measurement with its interval as distances from the value (TID 310).

    highdicom gives these distances no unit; TID 310 wants the measurement's own.
    """
    item = measurement[0]
    if "ContentSequence" not in item:
        item.ContentSequence = ContentSequence()
    for name, reach in ((_UPPER, high - measurement.value), (_LOWER, measurement.value - low)):
        distance = round(max(reach, 0.0), 2)
        item.ContentSequence.append(
            NumContentItem(name, distance, measurement.unit, relationship_type=RelationshipTypeValues.HAS_PROPERTIES)
        )
    return measurement


def _evaluations(nodule: Nodule) -> list[QualitativeEvaluation]:
    """Type and category, where there are any."""
    grade, category = nodule.grade, lung_rads(nodule)
    found = []
    if grade is not None:
        found.append(QualitativeEvaluation(NODULE_TYPE, TYPES[grade.type]))
    if category is not None:
        value = Code(category.upper().replace(" ", ""), PRIVATE_SCHEME, f"Lung-RADS {category}"[:64])
        found.append(QualitativeEvaluation(LUNG_RADS, value))
    return found


def _private_scheme(told: Told) -> list[CodingSchemeIdentificationItem] | None:
    """Who is behind our own codes, where the report has any."""
    if not any(_evaluations(n) for n in told.result.nodules):
        return None
    return [CodingSchemeIdentificationItem(PRIVATE_SCHEME, name="noduscope", responsible_organization="noduscope")]
