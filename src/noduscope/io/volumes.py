"""NIfTI, MetaImage and NRRD volumes, through SimpleITK.

ITK knows the formats' geometry, and turns NIfTI's RAS into LPS. What it does not do is checked here
first, from the text or binary header: that the data are complete (ITK fills a cut-short NIfTI with
zeros in silence) and that a header names no data file outside its own folder.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- the name that all of its documentation uses

from noduscope.errors import InputRefused
from noduscope.io.hounsfield import require_hu, require_size, round_to_hu
from noduscope.scan import Geometry, Scan, ScanSource, ScanWarning, Triple

_MAX_HEADER_BYTES: Final = 1 << 16
"""No text header is longer."""


@dataclass(frozen=True, slots=True)
class _Format:
    """A file format: its name in `ScanSource.reader`, ITK's class for it, and the check before reading."""

    reader: str
    image_io: str
    check: Callable[[Path], None]


def format_of(path: Path) -> str | None:
    """``nifti``, ``metaimage`` or ``nrrd`` by the file's name; None for any other."""
    name = path.name.lower()
    return next((kind.reader for suffix, kind in _FORMATS.items() if name.endswith(suffix)), None)


def stem_of(path: Path) -> str:
    """File name without the format's ending: LUNA16 names its files by series uid, dots included."""
    name = path.name
    suffix = next((suffix for suffix in _FORMATS if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def describe_volume(path: Path) -> tuple[int, Triple]:
    """Number of slices and spacing (x, y, z) in mm, from the header alone.

    Raises
    ------
    InputRefused
        For anything that is not a volume of single numbers.
    """
    header = _header(path)
    x, y, z = header.GetSpacing()
    return int(header.GetSize()[2]), (x, y, z)


def read_volume(path: Path) -> Scan:
    """Read a volume file as a `Scan`, in the file's own index order.

    Raises
    ------
    InputRefused
        For a damaged or cut-short file, one that is not three-dimensional, holds vectors or
        colours, or whose numbers cannot be Hounsfield units.
    """
    kind = _kind(path)
    header = _header(path)
    values = _packed_values(path, header)
    if values is None:
        image = _image(header, path)  # owns the voxels that `values` is a view of
        values = sitk.GetArrayViewFromImage(image)
        values = values.reshape(values.shape[-3:])
    hu = round_to_hu(values)
    require_hu(hu, path.name)
    x, y, z = header.GetSpacing()[:3]
    ox, oy, oz = header.GetOrigin()[:3]
    axes = np.asarray(header.GetDirection()).reshape(header.GetDimension(), -1)[:3, :3]
    try:
        geometry = Geometry(hu.shape, (x, y, z), (ox, oy, oz), tuple(axes.ravel().tolist()))
    except InputRefused as error:
        raise InputRefused(f"{path.name}: {error}") from error
    source = ScanSource(series_uid=stem_of(path), reader=kind.reader, files=(str(path),))
    return Scan(hu, geometry, source, _oddities(header, values))


def _image(header: Any, path: Path) -> Any:
    try:
        return header.Execute()
    except RuntimeError as error:
        raise InputRefused(f"{path.name}: {_reason(error)}") from error


def _kind(path: Path) -> _Format:
    name = path.name.lower()
    return next(kind for suffix, kind in _FORMATS.items() if name.endswith(suffix))


def _header(path: Path) -> Any:
    """ITK's reader after it has read the header and every check on it has passed."""
    kind = _kind(path)
    try:
        kind.check(path)
    except OSError as error:
        raise InputRefused(f"{path.name}: cannot be read ({error.strerror or error})") from error
    sitk.ProcessObject.GlobalWarningDisplayOff()  # it would write them straight to standard error
    reader = sitk.ImageFileReader()
    reader.SetImageIO(kind.image_io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputRefused(f"{path.name}: {_reason(error)}") from error
    size = reader.GetSize()
    if len(size) < 3 or min(size[:3]) < 2 or any(n != 1 for n in size[3:]):
        shape = " × ".join(str(n) for n in size)
        raise InputRefused(f"{path.name}: {shape} voxels; expected one volume with three axes")
    if reader.GetNumberOfComponents() != 1:
        raise InputRefused(
            f"{path.name}: {reader.GetNumberOfComponents()} numbers per voxel (colours or vectors); expected one, in HU"
        )
    numbers = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if numbers not in _NUMPY_TYPES:
        raise InputRefused(f"{path.name}: holds {numbers} values; expected Hounsfield units")
    require_size(size, path.name)
    return reader


def _reason(error: RuntimeError) -> str:
    """ITK's many-line message in a few words."""
    text = str(error)
    if "orthonormal" in text or "orthogonal" in text:
        return "its axes are not at right angles (a sheared affine): resample it to a rectangular grid first"
    if "spacing" in text.lower():
        return "its voxel spacing is zero or not a number"
    return "damaged, cut short, or not of the format that its name says; get the file again from its source"


def _oddities(header: Any, values: np.ndarray[Any, Any]) -> tuple[ScanWarning, ...]:
    warnings = []
    codes = [header.GetMetaData(key).strip() for key in ("qform_code", "sform_code") if header.HasMetaDataKey(key)]
    if codes and all(code == "0" for code in codes):
        text = "the NIfTI header gives no orientation: left and right, and all positions, are a guess"
        warnings.append(ScanWarning("no-orientation", text))
    if values.dtype.kind == "f":
        missing = int(np.count_nonzero(~np.isfinite(values)))
        if missing:
            warnings.append(ScanWarning("not-a-number", f"{missing} voxels hold no finite number; taken as air"))
    return tuple(warnings)


def _check_nifti(path: Path) -> None:
    """Refuse a NIfTI file that is shorter than its header says."""
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(540)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputRefused(f"{path.name}: a damaged or cut-short gzip file") from error
    needed = _nifti_bytes(head)
    if needed is None:
        raise InputRefused(f"{path.name}: not a NIfTI file")
    have = _gzip_bytes(path, needed) if packed else path.stat().st_size
    if have < needed:
        raise InputRefused(f"{path.name}: cut short: {have:,} of {needed:,} bytes; get the file again from its source")


def _nifti_bytes(head: bytes) -> int | None:
    """Bytes that a NIfTI-1 or NIfTI-2 file of this header has at least; None when it is neither."""
    if len(head) < 348:
        return None
    for order in "<>":
        (size,) = struct.unpack_from(order + "i", head)
        if size == 348 and head[344:347] == b"n+1":
            dims = struct.unpack_from(order + "8h", head, 40)
            (bits,) = struct.unpack_from(order + "h", head, 72)
            (offset,) = struct.unpack_from(order + "f", head, 108)
        elif size == 540 and len(head) == 540 and head[4:7] == b"n+2":
            dims = struct.unpack_from(order + "8q", head, 16)
            (bits,) = struct.unpack_from(order + "h", head, 14)
            (offset,) = struct.unpack_from(order + "q", head, 168)
        else:
            continue
        count = 1
        for n in dims[1 : 1 + max(0, min(7, dims[0]))]:
            count *= max(1, n)
        require_size((count,), "the NIfTI file")
        return int(offset if np.isfinite(offset) else 0) + int(count) * max(int(bits), 0) // 8
    return None


def _gzip_bytes(path: Path, needed: int) -> int:
    """Unpacked size of a gzip file; stops counting when it has what is needed.

    The last four bytes of a whole file hold its size modulo 2^32 (RFC 1952), which saves unpacking
    it twice; where they disagree, the file is cut short or in several members, and is counted.
    """
    with path.open("rb") as raw:
        raw.seek(-4, 2)
        if int.from_bytes(raw.read(4), "little") == needed % 2**32:
            return needed
    total = 0
    try:
        with gzip.open(path) as file:
            while total < needed and (block := file.read(1 << 22)):
                total += len(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return min(total, needed - 1)
    return total


def _check_metaimage(path: Path) -> None:
    """Refuse a MetaImage whose data are elsewhere, missing or cut short."""
    fields, data_at = _text_header(path, "=", last="elementdatafile")
    if "dimsize" not in fields or "elementdatafile" not in fields:
        raise InputRefused(f"{path.name}: not a MetaImage header (no DimSize or ElementDataFile)")
    named = fields["elementdatafile"]
    size = path.stat().st_size - data_at if named.upper() == "LOCAL" else _data_file(path, named).stat().st_size
    needed = _metaimage_bytes(fields)
    if needed is not None and size < needed:
        where = path.name if named.upper() == "LOCAL" else named
        raise InputRefused(f"{where}: cut short: {size:,} of {needed:,} bytes; get the file again from its source")


def _metaimage_bytes(fields: dict[str, str]) -> int | None:
    """Bytes of data that a MetaImage header announces; None when it does not say."""
    try:
        if fields.get("compresseddata", "").lower() in _TRUE:
            return int(fields["compresseddatasize"])
        needed = _METAIMAGE_BYTES[fields["elementtype"].upper()] * int(fields.get("elementnumberofchannels", "1"))
        for n in fields["dimsize"].split():
            needed *= int(n)
    except (KeyError, ValueError):
        return None
    return needed


def _packed_values(path: Path, header: Any) -> np.ndarray[Any, Any] | None:
    """Values (z, y, x) of a compressed MetaImage (LUNA16's zraw) or NRRD; None where ITK is to read them.

    They are unpacked here, because ITK hands out whatever it has when the compressed data are damaged.
    """
    packed = _packed_part(path)
    if packed is None:
        return None
    file, start, big_endian = packed
    kind = np.dtype(_NUMPY_TYPES[sitk.GetPixelIDValueAsString(header.GetPixelID())])
    shape = tuple(reversed(header.GetSize()[:3]))
    needed = kind.itemsize * int(np.prod(shape))
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)  # zlib or gzip
    try:
        # one byte of room beyond, so that the end of the stream and its checksum are read too
        data = unpacker.decompress(file.read_bytes()[start:], needed + 1)
    except zlib.error as error:
        raise InputRefused(f"{path.name}: damaged compressed data; get the file again from its source") from error
    if len(data) != needed or not unpacker.eof:
        raise InputRefused(f"{path.name}: its compressed data do not hold the {needed:,} bytes that its header says")
    return np.frombuffer(data, kind.newbyteorder(">" if big_endian else "<")).reshape(shape)


def _packed_part(path: Path) -> tuple[Path, int, bool] | None:
    """File and place of zlib or gzip data, and whether they are big-endian; None when there are none."""
    if _kind(path) is _METAIMAGE:
        fields, data_at = _text_header(path, "=", last="elementdatafile")
        if fields.get("compresseddata", "").lower() not in _TRUE:
            return None
        order = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", ""))
        named = fields["elementdatafile"]
        local = named.upper() == "LOCAL"
        return (
            (path, data_at, order.lower() in _TRUE) if local else (_data_file(path, named), 0, order.lower() in _TRUE)
        )
    if _kind(path) is _NRRD:
        fields, data_at = _text_header(path, ":", last="")
        if fields.get("encoding", "").lower() not in ("gz", "gzip") or "byte skip" in fields or "line skip" in fields:
            return None
        named = fields.get("data file") or fields.get("datafile") or ""
        file, start = (_data_file(path, named), 0) if named else (path, data_at)
        return file, start, fields.get("endian", "little").lower() == "big"
    return None


def _check_nrrd(path: Path) -> None:
    """Refuse an NRRD header whose data file lies elsewhere or is missing; teem checks the rest."""
    with path.open("rb") as file:
        if file.read(4) != b"NRRD":
            raise InputRefused(f"{path.name}: not an NRRD file")
    fields, _ = _text_header(path, ":", last="")
    named = fields.get("data file") or fields.get("datafile")
    if named:
        _data_file(path, named)


def _text_header(path: Path, separator: str, last: str) -> tuple[dict[str, str], int]:
    """Fields of a text header up to the key ``last`` (or an empty line), and where the header ends."""
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end
        key, _, value = head[at:end].decode("latin-1").partition(separator)
        at = end + 1
        if not key.strip() and not value:
            break
        fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == last:
            break
    return fields, min(at, len(head))


def _data_file(header: Path, named: str) -> Path:
    """The one data file beside a header; refuses a list, a pattern, and any path out of the folder."""
    if "\0" in named:
        raise InputRefused(f"{header.name}: a damaged header")
    windows = PureWindowsPath(named)
    folder = header.parent.resolve()
    target = (folder / named).resolve()
    if windows.is_absolute() or windows.drive or ".." in windows.parts or not target.is_relative_to(folder):
        raise InputRefused(f"{header.name}: its data file {named!r} lies outside its folder; put them side by side")
    if named.upper().startswith("LIST") or "%" in named:
        raise InputRefused(f"{header.name}: its data are spread over several files; convert it to one file")
    if not target.is_file():
        raise InputRefused(f"{header.name}: its data file {named!r} is missing; put it beside the header")
    return target


_TRUE: Final = ("true", "1", "t")
_METAIMAGE_BYTES: Final = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG": 4,
    "MET_ULONG": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
_NUMPY_TYPES: Final = {
    "8-bit signed integer": "i1",
    "8-bit unsigned integer": "u1",
    "16-bit signed integer": "i2",
    "16-bit unsigned integer": "u2",
    "32-bit signed integer": "i4",
    "32-bit unsigned integer": "u4",
    "64-bit signed integer": "i8",
    "64-bit unsigned integer": "u8",
    "32-bit float": "f4",
    "64-bit float": "f8",
}
_NIFTI: Final = _Format("nifti", "NiftiImageIO", _check_nifti)
_METAIMAGE: Final = _Format("metaimage", "MetaImageIO", _check_metaimage)
_NRRD: Final = _Format("nrrd", "NrrdImageIO", _check_nrrd)
_FORMATS: Final = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".mhd": _METAIMAGE,
    ".mha": _METAIMAGE,
    ".nrrd": _NRRD,
    ".nhdr": _NRRD,
}
