"""The DICOM images a scan was read from, as far as a result must repeat what they say.

A result goes back into the patient's study only if its source files are there and still are what was
read: a segmentation filed under another patient is worse than none.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.valuerep import DA, TM, DSfloat

from noduscope.scan import Geometry, Scan, ScanWarning

_OWN = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
"""What is read of an image; of the first all is read."""
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Must be in every object, empty where unknown (DICOM PS3.5 7.4.3)."""
_SAME_PLACE_MM = 0.01
_UTF_8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True, eq=False)
class SourceSeries:
    """The images of the scanned series, one header per image, in the scan's slice order.

    Parameters
    ----------
    template : the first image's header without pixels, text decoded, what must be there filled in empty.
    images : one header per image; those under a finding with their place, the others with their identifiers only.
    image_of_plane : index into ``images`` of the image nearest to each plane of the scan.
    is_image : per plane under a finding, whether it is that image pixel by pixel (not interpolated, not straightened).
    multiframe : all planes are frames of the one image.
    """

    template: Dataset
    images: tuple[Dataset, ...]
    image_of_plane: tuple[int, ...]
    is_image: tuple[bool, ...]
    multiframe: bool

    @property
    def frame_of_reference(self) -> str:
        """The one that all results use; see `read_source`."""
        return str(self.template.FrameOfReferenceUID)

    def header(self, image: int) -> Dataset:
        """The full header of an image: the first one's, with its own identifiers and place."""
        made = Dataset()
        made.update(self.template)
        made.update(self.images[image])
        return made

    def pixel_of(self, plane: int, position_xyz_mm: NDArray[np.float64], geometry: Geometry) -> tuple[float, float]:
        """Column and row of a point in the image nearest to a plane, as SCOORD counts them.

        Notes
        -----
        DICOM PS3.3 C.18.6.1.2: the centre of the first pixel is (0.5, 0.5).
        """
        place = self.images[self.image_of_plane[plane]].get("ImagePositionPatient")
        origin = np.array(place, dtype=float) if place is not None else geometry.to_world((plane, 0, 0))
        offset = (position_xyz_mm - origin) @ geometry.axes
        x, y, _ = geometry.spacing_xyz_mm
        return float(offset[0] / x + 0.5), float(offset[1] / y + 0.5)

    def frame_of(self, plane: int, geometry: Geometry) -> int | None:
        """The number of the frame nearest to a plane, from 1; None where each image is a file of its own."""
        if not self.multiframe:
            return None
        frames = self.template.PerFrameFunctionalGroupsSequence
        places = np.array([f.PlanePositionSequence[0].ImagePositionPatient for f in frames], dtype=float)
        return int(np.linalg.norm(places - geometry.to_world((plane, 0, 0)), axis=1).argmin()) + 1


def read_source(scan: Scan, planes: Collection[int]) -> SourceSeries | ScanWarning:
    """Read headers of a scan's images again; the reason, where they can't be used.

    Parameters
    ----------
    planes : those with a finding; the headers of their images and of the first are read and compared with
        the scan. Of the others only the identifiers are needed, which the scan knows: reading them all again
        takes as long as everything else.

    Notes
    -----
    Some series carry a different FrameOfReferenceUID on every image. A segmentation has one. It takes the
    first image's, and each of its frames names its source image, which is what readers place it by.
    """
    source = scan.source
    depth = scan.geometry.shape_zyx[0]
    if len(source.files) != depth or len(source.sop_instance_uids) != depth:
        return _gone("it is not known which file each slice came from")
    unique = {uid: k for k, uid in reversed(list(enumerate(source.sop_instance_uids)))}
    order = sorted(unique.values())
    needed = {source.sop_instance_uids[k] for k in (order[0], *planes)}
    try:
        template = _template(source.files[order[0]])
        images = tuple(
            _own_part(source.files[k]) if (uid := source.sop_instance_uids[k]) in needed else _listed(template, uid)
            for k in order
        )
    except (OSError, InvalidDicomError, AttributeError, ValueError):
        return _gone("the source images are no longer there or cannot be read again")
    place_of = {uid: i for i, uid in enumerate(source.sop_instance_uids[k] for k in order)}
    changed = _changed(scan, images, [source.sop_instance_uids[k] for k in order])
    if changed:
        return _gone(changed)
    _one_frame_of_reference(template, images, source.series_uid)
    template.SpacingBetweenSlices = DSfloat(scan.geometry.spacing_xyz_mm[2], auto_format=True)
    image_of_plane = tuple(place_of[uid] for uid in source.sop_instance_uids)
    multiframe = "NumberOfFrames" in template and len(images) == 1
    is_image = tuple(not multiframe and _is_plane(images[i], scan.geometry, k) for k, i in enumerate(image_of_plane))
    return SourceSeries(template, images, image_of_plane, is_image, multiframe)


def study_uid(scan: Scan) -> str | None:
    """The StudyInstanceUID of a scan's first image, where that can be read."""
    if scan.source.reader != "dicom" or not scan.source.files:
        return None
    try:
        uid = dcmread(scan.source.files[0], stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
    except (OSError, InvalidDicomError):
        return None
    return str(uid.get("StudyInstanceUID") or "") or None


def _gone(why: str) -> ScanWarning:
    return ScanWarning("no-dicom-results", f"No DICOM segmentation and report were written: {why}.")


def _template(path: str) -> Dataset:
    """All of a header but the pixels, its text decoded and what highdicom takes for granted made sure of."""
    whole = dcmread(path, stop_before_pixels=True)
    whole.decode()
    made = Dataset()
    made.update(whole)
    made.SpecificCharacterSet = _UTF_8
    for keyword in _TYPE_2:
        if made.get(keyword) is None:
            setattr(made, keyword, "")
    if made.PatientSex not in ("M", "F", "O"):
        made.PatientSex = ""
    for keyword in ("PatientBirthDate", "StudyDate", "StudyTime"):
        _blank_if_malformed(made, keyword)
    return made


def _blank_if_malformed(header: Dataset, keyword: str) -> None:
    parse: Any = TM if keyword.endswith("Time") else DA
    try:
        parse(header.get(keyword))
    except ValueError:
        setattr(header, keyword, "")


def _own_part(path: str) -> Dataset:
    read = dcmread(path, stop_before_pixels=True, specific_tags=list(_OWN))
    own = Dataset()
    for keyword in _OWN:
        if keyword in read:
            own[keyword] = read[keyword]
    return own


def _listed(template: Dataset, uid: str) -> Dataset:
    """An image of the series as references name it."""
    own = Dataset()
    for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(own, keyword, template.get(keyword))
    own.SOPInstanceUID = uid
    return own


def _changed(scan: Scan, images: tuple[Dataset, ...], uids: list[str]) -> str:
    """What is wrong with the files, as a part of a sentence; empty when they are what was read."""
    if any(str(image.get("SOPInstanceUID")) != uid for image, uid in zip(images, uids, strict=True)):
        return "the source files have changed since the scan was read"
    if len({image.get("StudyInstanceUID") for image in images}) > 1:
        return "the images belong to several studies"
    if not images[0].get("StudyInstanceUID"):
        return "the images name no study (StudyInstanceUID)"
    size = scan.geometry.shape_zyx[1:]
    if any("Rows" in image and (image.Rows, image.get("Columns")) != size for image in images):
        return "the source images have another size than the scan"
    return ""


def _one_frame_of_reference(template: Dataset, images: tuple[Dataset, ...], series_uid: str) -> None:
    """Give all headers one frame of reference and one orientation, as one segmentation needs."""
    if not template.get("FrameOfReferenceUID"):
        template.FrameOfReferenceUID = uid_of(series_uid, "frame of reference")
    for image in images:
        image.FrameOfReferenceUID = template.FrameOfReferenceUID
        # equal to rounding, or the reader would have refused the series; highdicom wants them identical
        if "ImageOrientationPatient" in image:
            image.ImageOrientationPatient = template.ImageOrientationPatient


def _is_plane(image: Dataset, geometry: Geometry, plane: int) -> bool:
    position = image.get("ImagePositionPatient")
    if position is None:
        return False
    away = np.linalg.norm(np.array(position, dtype=float) - geometry.to_world((plane, 0, 0)))
    return bool(away < _SAME_PLACE_MM)


def uid_of(*parts: object) -> str:
    """A UID of the UUID arc (DICOM PS3.5 B.2) that follows from its parts: the same finding keeps its own."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '|'.join(map(str, parts))).int}"


def new_uid() -> str:
    """A UID of the UUID arc that no other object has."""
    return f"2.25.{uuid.uuid4().int}"
