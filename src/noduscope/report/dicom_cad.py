"""``cad.dcm``: the marks as Chest CAD SR, template TID 4100 (PS3.16), for viewers that show CAD marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    CodeContentItem,
    ComprehensiveSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    ScoordContentItem,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ChestCADSRStorage

from noduscope.findings import Nodule
from noduscope.report.dicom_codes import CAD_SERIES, MAKER, NODULE, PERCENT, SERIAL, SIDES, Told, percent, version
from noduscope.report.dicom_source import SourceSeries, new_uid
from noduscope.report.dicom_sr import container, language

_CONTAINS = RelationshipTypeValues.CONTAINS
_INFERRED = RelationshipTypeValues.INFERRED_FROM
_MODIFIES = RelationshipTypeValues.HAS_CONCEPT_MOD
_CONTEXT = RelationshipTypeValues.HAS_OBS_CONTEXT
_PROPERTY = RelationshipTypeValues.HAS_PROPERTIES
_IMAGE = Code("111040", "DCM", "Original Source")
_SERIES = Code("112002", "DCM", "Series Instance UID")
_LATERALITY = codes.SCT.Laterality
_SHOW = codes.DCM.PresentationOptionalRenderingDeviceMayPresent


def cad_report(told: Told, source: SourceSeries) -> Dataset:
    """The marks, one Single Image Finding each on the image nearest to the nodule's centre.

    The template is closed (non-extensible) and has no row for volume or diameter: those are in ``report.dcm``.
    """
    made: Dataset = ComprehensiveSR(
        evidence=[source.header(0), *source.images[1:]],
        content=_root(told, source),
        series_instance_uid=new_uid(),
        series_number=CAD_SERIES,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        manufacturer_model_name=MAKER,
        software_versions=version(),
        device_serial_number=SERIAL,
        series_description="Lung nodules, CAD marks",
    )
    # the two IODs have the same modules; highdicom has no class for this one
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = ChestCADSRStorage
    return made


def _root(told: Told, source: SourceSeries) -> ContainerContentItem:
    """TID 4100."""
    nodules = told.result.nodules
    summary = (
        codes.DCM.AllAlgorithmsSucceededWithFindings if nodules else codes.DCM.AllAlgorithmsSucceededWithoutFindings
    )
    root = container(codes.DCM.ChestCADReport, template_id="4100")
    root.ContentSequence.extend(language())
    findings = [_finding(told, n, source) for n in nodules]
    for item in (
        _code(codes.DCM.CADProcessingAndFindingsSummary, summary, _CONTAINS, findings),
        _code(codes.DCM.SummaryOfDetections, codes.DCM.Succeeded, _CONTAINS, [_performed(told, source)]),
        _code(codes.DCM.SummaryOfAnalyses, codes.DCM.NotAttempted, _CONTAINS),
    ):
        root.ContentSequence.append(item)
    return root


def _finding(told: Told, nodule: Nodule, source: SourceSeries) -> ContentItem:
    """TID 4104: an abnormal opacity, of kind nodule."""
    uid, name = told.tracking(nodule)
    parts: list[ContentItem] = [
        _code(codes.DCM.SingleImageFindingModifier, NODULE, _MODIFIES),
        _code(codes.DCM.RenderingIntent, _SHOW, _MODIFIES),
        TextContentItem(codes.DCM.TrackingIdentifier, name, _CONTEXT),
        UIDRefContentItem(codes.DCM.TrackingUniqueIdentifier, uid, _CONTEXT),
        *_algorithm(told, _CONTEXT),
        NumContentItem(codes.DCM.CertaintyOfFinding, percent(nodule.probability), PERCENT, relationship_type=_PROPERTY),
        *_geometry(told, nodule, source),
    ]
    if nodule.side in SIDES:
        parts.append(_code(_LATERALITY, SIDES[nodule.side], _PROPERTY))
    return _code(codes.DCM.SingleImageFinding, codes.DCM.AbnormalOpacity, _INFERRED, parts)


def _geometry(told: Told, nodule: Nodule, source: SourceSeries) -> list[ContentItem]:
    """TID 4107: the centre and, where a diameter was measured, a circle of it."""
    geometry = told.result.scan.geometry
    plane = nodule.slice_number - 1
    column, row = source.pixel_of(plane, np.array(nodule.position_xyz_mm), geometry)
    image = source.images[source.image_of_plane[plane]]
    frame = source.frame_of(plane, geometry)
    marks = [(codes.DCM.Center, "POINT", [[column, row]])]
    if nodule.diameter_mm is not None:
        reach = nodule.diameter_mm.mean / 2 / geometry.spacing_xyz_mm[0]
        marks.append((codes.DCM.Outline, "CIRCLE", [[column, row], [column + reach, row]]))
    items: list[ContentItem] = []
    for concept, kind, points in marks:
        item = ScoordContentItem(concept, kind, np.array(points, dtype=float), relationship_type=_PROPERTY)
        picture = ImageContentItem(
            _IMAGE,
            image.SOPClassUID,
            image.SOPInstanceUID,
            referenced_frame_numbers=frame,
            relationship_type=RelationshipTypeValues.SELECTED_FROM,
        )
        item.ContentSequence = ContentSequence([picture])
        items.append(item)
    return items


def _performed(told: Told, source: SourceSeries) -> ContentItem:
    """TID 4015 with one TID 4017: the search for nodules, over the whole series."""
    done = container(codes.DCM.SuccessfulDetections, relationship_type=_INFERRED)
    series = UIDRefContentItem(_SERIES, str(source.images[0].SeriesInstanceUID), _PROPERTY)
    parts = [*_algorithm(told, _PROPERTY), series]
    done.ContentSequence.append(_code(codes.DCM.DetectionPerformed, NODULE, _CONTAINS, parts))
    return done


def _algorithm(told: Told, relation: RelationshipTypeValues) -> list[ContentItem]:
    """TID 4019."""
    texts = [(codes.DCM.AlgorithmName, MAKER), (codes.DCM.AlgorithmVersion, version())]
    texts += [(codes.DCM.AlgorithmParameters, text) for text in told.parameters()]
    return [TextContentItem(name, text, relation) for name, text in texts]


def _code(name: Code, value: Code, relation: RelationshipTypeValues, parts: Sequence[ContentItem] = ()) -> ContentItem:
    """A CODE item with what hangs on it."""
    item = CodeContentItem(name, value, relation)
    if parts:
        item.ContentSequence = ContentSequence(parts)
    return item
