"""``segmentation.dcm``: the nodules' outlines as DICOM Segmentation (PS3.3 A.51), one segment each."""

from __future__ import annotations

from typing import Any

import numpy as np
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlaneOrientationSequence,
    PlanePositionSequence,
)
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DSfloat

from noduscope.findings import Nodule
from noduscope.report.dicom_codes import (
    ABNORMAL_STRUCTURE,
    LUNG,
    MAKER,
    NODULE,
    SEG_SERIES,
    SERIAL,
    SHORT_NOTICE,
    SIDES,
    Told,
    version,
)
from noduscope.report.dicom_source import SourceSeries, new_uid
from noduscope.scan import Geometry


def segmentation(told: Told, source: SourceSeries) -> Dataset | None:
    """The segmentation; None when no nodule has an outline.

    Frames lie on the scan's own grid. A frame that is one of the source images voxel by voxel says so
    (Derivation Image), so that readers lay it on that image.
    """
    nodules = told.outlined()
    if not nodules:
        return None
    planes = _planes(nodules)
    images = list(dict.fromkeys(source.image_of_plane[k] for k in planes))
    made: Dataset = Segmentation(
        source_images=[source.header(i) for i in images],
        pixel_array=_pixels(nodules, planes, told.result.scan.geometry.shape_zyx),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(told, n, k) for k, n in enumerate(nodules, 1)],
        series_instance_uid=new_uid(),
        series_number=SEG_SERIES,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=version(),
        device_serial_number=SERIAL,
        content_label="NODULES",
        content_description=SHORT_NOTICE,
        series_description="Lung nodules, outlines by software",
        **_places(source, planes, told.result.scan.geometry),
    )
    # type 2 (PS3.3 table 10-12): present, and empty because no person made it
    made.ContentCreatorName = ""
    return made


def _planes(nodules: tuple[Nodule, ...]) -> list[int]:
    """The planes of the scan with at least one voxel of a nodule, ascending."""
    found: set[int] = set()
    for nodule in nodules:
        if nodule.mask is not None:
            start = nodule.mask.box[0].start
            found.update(int(k) + start for k in np.flatnonzero(nodule.mask.mask.any(axis=(1, 2))))
    return sorted(found)


def _pixels(nodules: tuple[Nodule, ...], planes: list[int], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Segment numbers ``(planes, rows, columns)``; one channel per segment where nodules overlap.

    The first form is much quicker to encode; both give the same object.
    """
    rows_of = {k: i for i, k in enumerate(planes)}
    labels = np.zeros((len(planes), *shape[1:]), np.uint8 if len(nodules) < 256 else np.uint16)
    total = np.zeros(labels.shape, np.uint8)
    for number, part in enumerate(_parts(nodules, rows_of), 1):
        labels[part[0]][part[1]] = number
        total[part[0]] += part[1]
    if total.max() <= 1:
        return labels
    channels = np.zeros((*labels.shape, len(nodules)), bool)
    for number, (box, mask) in enumerate(_parts(nodules, rows_of)):
        channels[(*box, number)] = mask
    return channels


def _parts(
    nodules: tuple[Nodule, ...], row_of: dict[int, int]
) -> list[tuple[tuple[slice, slice, slice], NDArray[np.bool_]]]:
    """Each nodule's box and mask among the kept planes, which hold all planes of each nodule in a row."""
    parts = []
    for nodule in nodules:
        if nodule.mask is None:
            continue
        box, mask = nodule.mask.box, nodule.mask.mask
        filled = np.flatnonzero(mask.any(axis=(1, 2)))
        first, last = int(filled[0]), int(filled[-1])
        mask = mask[first : last + 1]
        # an outline may skip a plane; that plane is kept only if another nodule is on it
        kept = [k for k in range(last - first + 1) if box[0].start + first + k in row_of]
        start = row_of[box[0].start + first]
        parts.append(((slice(start, start + len(kept)), box[1], box[2]), mask[kept]))
    return parts


def _description(told: Told, nodule: Nodule, number: int) -> SegmentDescription:
    uid, name = told.tracking(nodule)
    made = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=ABNORMAL_STRUCTURE,
        segmented_property_type=NODULE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=MAKER,
            family=codes.DCM.ArtificialIntelligence,
            version=version(),
            source=MAKER,
            parameters={"models": "; ".join(told.parameters())},
        ),
        tracking_uid=uid,
        tracking_id=name,
        anatomic_regions=[LUNG],
    )
    if nodule.side in SIDES:
        side = CodedConcept.from_code(SIDES[nodule.side])
        made.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [side]
    return made


def _places(source: SourceSeries, planes: list[int], geometry: Geometry) -> dict[str, Any]:
    """Where the planes lie, where the source images do not say it themselves."""
    if all(source.is_image[k] for k in planes):
        return {}
    x, y, z = (DSfloat(s, auto_format=True) for s in geometry.spacing_xyz_mm)
    places = geometry.to_world([(k, 0, 0) for k in planes])
    return {
        "plane_positions": [PlanePositionSequence("PATIENT", [_decimal(v) for v in p]) for p in places],
        "plane_orientation": PlaneOrientationSequence("PATIENT", [_decimal(v) for v in geometry.axes[:, :2].T.ravel()]),
        "pixel_measures": PixelMeasuresSequence([y, x], slice_thickness=z, spacing_between_slices=z),
    }


def _decimal(value: float) -> DSfloat:
    return DSfloat(float(value), auto_format=True)
