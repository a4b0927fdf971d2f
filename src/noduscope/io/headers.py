"""DICOM series: found by their headers, described, and read into a `Scan`.

A header is read once, without its pixels, and only the dozen elements that matter are looked at;
the place of the pixel data is kept, so that only the files of the chosen series are opened again.
Element values are taken from their raw bytes: a thousand headers read in a fraction of a second,
and a malformed element that nobody needs cannot stop the reading.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pydicom import dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError

from noduscope.io import NotThisFormat
from noduscope.io.multiframe import split_frames
from noduscope.scan import Triple

CT_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT: Final = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""Enhanced CT Image Storage and its legacy-converted kin: many frames in one file."""
_DIRECTORY_CLASS: Final = "1.2.840.10008.1.3.10"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"

DAMAGE: Final = (
    BytesLengthException,
    InvalidDicomError,
    EOFError,
    LookupError,
    NotImplementedError,
    RecursionError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What pydicom raises on a damaged file, found by feeding it damaged files: a longer list than it documents."""

NOT_DICOM: Final = "not DICOM"
DIRECTORY: Final = "a DICOMDIR"
LOCALIZER: Final = "localizer (scout)"
_MAX_HEADER_BYTES: Final = 256 * 1024 * 1024
"""A deflated file may not unpack to more: one slice is half a megabyte."""
_BARE_STARTS: Final = (b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")
"""First four bytes of a DICOM file without preamble: (0002,0000), (0008,0000), (0008,0005), (0008,0008)."""
_TAGS: Final = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "Modality": 0x00080060,
    "Manufacturer": 0x00080070,
    "SeriesDescription": 0x0008103E,
    "ManufacturerModelName": 0x00081090,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "ConvolutionKernel": 0x00181210,
    "SeriesInstanceUID": 0x0020000E,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "PixelPaddingRangeLimit": 0x00280121,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "RescaleType": 0x00281054,
    "SharedFunctionalGroupsSequence": 0x52009229,
    "PerFrameFunctionalGroupsSequence": 0x52009230,
}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the stored numbers of one image are laid out (DICOM PS3.3 C.7.6.3)."""

    syntax: str
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    samples: int
    photometric: str
    frames: int


@dataclass(frozen=True, slots=True)
class Slice:
    """One image of a series: a file, or one frame of a multi-frame file. Holds no patient data.

    Parameters
    ----------
    path : the file.
    frame : index of the frame within the file.
    pixel_offset : where the pixel data element begins in the file; None when the file is deflated.
    pixels : layout of the stored numbers.
    position, orientation, spacing_yx : ImagePositionPatient, ImageOrientationPatient, PixelSpacing; None when absent.
    slope, intercept : rescale; None when absent.
    padding : PixelPaddingValue and PixelPaddingRangeLimit as 16-bit patterns; None when absent.
    texts : the remaining text elements, by keyword.
    """

    path: Path
    frame: int
    pixel_offset: int | None
    pixels: PixelFormat
    position: Triple | None
    orientation: tuple[float, ...] | None
    spacing_yx: tuple[float, float] | None
    slope: float | None
    intercept: float | None
    padding: tuple[int, int] | None
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, keyword: str) -> str:
        """A text element, empty when absent."""
        return self.texts.get(keyword, "")

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.text("SeriesInstanceUID")


@dataclass(frozen=True, slots=True)
class Series:
    """The images of one SeriesInstanceUID that can be slices of a CT, and why the others cannot."""

    uid: str
    slices: tuple[Slice, ...]
    refused: dict[str, int]
    """Reason to number of files."""

    @property
    def description(self) -> str:
        """SeriesDescription of the first image, empty when absent."""
        return self.slices[0].text("SeriesDescription") if self.slices else ""


def read_headers(paths: Iterable[Path]) -> tuple[list[Slice], dict[str, int]]:
    """The images in these files, and for the files that are none, reason to number of files."""
    found: list[Slice] = []
    refused: dict[str, int] = defaultdict(int)
    for path in paths:
        try:
            found.extend(_read_header(path))
        except NotThisFormat as reason:
            refused[str(reason)] += 1
    return found, dict(refused)


def group_series(slices: Sequence[Slice]) -> list[Series]:
    """The series of these images, in the order in which they were found."""
    by_uid: dict[str, list[Slice]] = defaultdict(list)
    for image in slices:
        by_uid[image.series_uid].append(image)
    result = []
    for uid, images in by_uid.items():
        refused: dict[str, int] = defaultdict(int)
        fit = []
        for image in images:
            reason = why_not_ct(image)
            if reason:
                refused[reason] += 1
            else:
                fit.append(image)
        result.append(Series(uid, tuple(fit), dict(refused)))
    return result


def why_not_ct(image: Slice) -> str:
    """Why an image cannot be a slice of a CT volume; empty when it can."""
    kind = image.text("ImageType").upper().split("\\")
    sop_class = image.text("SOPClassUID")
    if image.text("Modality") != "CT":
        return f"modality {image.text('Modality') or 'missing'}, not CT"
    if sop_class not in (CT_IMAGE, *ENHANCED_CT):
        return "not a CT image (a secondary capture or a report)"
    if "LOCALIZER" in kind:
        return LOCALIZER
    if any(word in {"MIP", "MINIP", "PROJECTION IMAGE", "VOLUME_RENDERED", "MAX_IP"} for word in kind):
        return "projection or rendering"
    if image.text("RescaleType").upper() not in ("", "HU", "US"):
        return f"values in {image.text('RescaleType')}, not HU"
    return _why_not_gray(image.pixels) or _why_not_placed(image)


def _why_not_gray(pixels: PixelFormat) -> str:
    if pixels.samples != 1 or not pixels.photometric.startswith("MONOCHROME"):
        return "colour picture"
    if pixels.bits_allocated != 16 or not 8 < pixels.bits_stored <= 16:
        return f"{pixels.bits_allocated}-bit picture"
    return "" if pixels.rows and pixels.columns else "no rows and columns"


def _why_not_placed(image: Slice) -> str:
    if image.position is None or image.orientation is None:
        return "no position and orientation in the patient"
    if image.spacing_yx is None or min(image.spacing_yx) <= 0:
        return "no pixel spacing"
    return ""


def _read_header(path: Path) -> list[Slice]:
    """Every image of one file; raises `NotThisFormat` when there is none."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
            bare = head[128:] != b"DICM"
            if bare and not head.startswith(_BARE_STARTS):
                raise NotThisFormat(NOT_DICOM if head else "empty file")
            deflated = not bare and DEFLATED.encode() in file.read(1024)
            if deflated:
                _refuse_bomb(file)
            file.seek(0)
            dataset, offset = _parse(file, force=bare)
    except OSError as error:
        raise NotThisFormat(f"cannot be opened ({error.strerror or type(error).__name__})") from error
    try:
        return _slices_of(dataset, path, None if deflated else offset)
    except DAMAGE as error:
        raise NotThisFormat("a damaged DICOM header") from error


def _parse(file: BinaryIO, *, force: bool) -> tuple[Any, int]:
    try:
        dataset = dcmread(file, stop_before_pixels=True, force=force, specific_tags=list(_TAGS.values()))
    except DAMAGE as error:
        raise NotThisFormat("a damaged DICOM header") from error
    return dataset, file.tell()


def _refuse_bomb(file: BinaryIO) -> None:
    """Refuse a deflated file that unpacks beyond any slice; the dataset begins after the meta group."""
    file.seek(140)
    length = int.from_bytes(file.read(4), "little")
    file.seek(144 + length)
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    try:
        data = file.read(1 << 20)
        while data and not unpacker.eof:
            total += len(unpacker.decompress(data, 1 << 24))
            if total > _MAX_HEADER_BYTES:
                raise NotThisFormat("unpacks to more than any slice holds")
            data = unpacker.unconsumed_tail or file.read(1 << 20)
    except zlib.error as error:
        raise NotThisFormat("damaged compressed data") from error


class _Raw:
    """The elements of a dataset, from their raw bytes."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def bytes(self, keyword: str) -> bytes:
        tag = _TAGS[keyword]
        if tag not in self._dataset:
            return b""
        value = self._dataset.get_item(tag).value
        return value if isinstance(value, bytes) else b""

    def text(self, keyword: str) -> str:
        raw = self.bytes(keyword)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            text = raw.decode("latin-1")
        return text.strip(" \0\n\r\t")

    def numbers(self, keyword: str) -> tuple[float, ...]:
        try:
            return tuple(float(part) for part in self.text(keyword).split("\\") if part.strip())
        except ValueError:
            return ()

    def number(self, keyword: str) -> float | None:
        values = self.numbers(keyword)
        return values[0] if values else None

    def short(self, keyword: str, default: int = 0) -> int:
        raw = self.bytes(keyword)
        if len(raw) < 2:
            return default
        little = self._dataset.get_item(_TAGS[keyword]).is_little_endian
        return int.from_bytes(raw[:2], "little" if little else "big")


_KEPT_TEXTS: Final = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SliceThickness",
    "KVP",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "RescaleType",
)


def _slices_of(dataset: Any, path: Path, offset: int | None) -> list[Slice]:
    raw = _Raw(dataset)
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", "") or _guessed_syntax(dataset))
    texts = {keyword: raw.text(keyword) for keyword in _KEPT_TEXTS}
    if not texts["SeriesInstanceUID"]:
        kind = getattr(dataset.file_meta, "MediaStorageSOPClassUID", "")
        raise NotThisFormat(DIRECTORY if kind == _DIRECTORY_CLASS else "a damaged DICOM header")
    pixels = PixelFormat(
        syntax=syntax,
        rows=raw.short("Rows"),
        columns=raw.short("Columns"),
        bits_allocated=raw.short("BitsAllocated"),
        bits_stored=raw.short("BitsStored", raw.short("BitsAllocated")),
        signed=raw.short("PixelRepresentation") == 1,
        samples=raw.short("SamplesPerPixel", 1),
        photometric=raw.text("PhotometricInterpretation").upper(),
        frames=int(raw.number("NumberOfFrames") or 1),
    )
    position, orientation, spacing = (
        raw.numbers(k) for k in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    padding = None
    if raw.bytes("PixelPaddingValue"):
        value = raw.short("PixelPaddingValue")
        padding = (value, raw.short("PixelPaddingRangeLimit", value))
    image = Slice(
        path=path,
        frame=0,
        pixel_offset=offset,
        pixels=pixels,
        position=(position[0], position[1], position[2]) if len(position) == 3 else None,
        orientation=orientation if len(orientation) == 6 else None,
        spacing_yx=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        slope=raw.number("RescaleSlope"),
        intercept=raw.number("RescaleIntercept"),
        padding=padding,
        texts=texts,
    )
    if texts["SOPClassUID"] in ENHANCED_CT:
        return split_frames(image, dataset)
    return [image]


def _guessed_syntax(dataset: Any) -> str:
    """Transfer syntax of a file that names none, as pydicom detected it while reading."""
    implicit, little = dataset.original_encoding
    if not little:
        return "1.2.840.10008.1.2.2"
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
