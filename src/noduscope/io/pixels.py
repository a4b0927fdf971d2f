"""Pixel data of DICOM files as stored numbers, for every transfer syntax that CT scanners and archives use.

Uncompressed data are read straight from their place in the file. JPEG-LS is decoded by the CharLS
library inside ``pyjpegls``, called without Python's lock, so that threads decode side by side; all
else goes through pydicom's decoders.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from noduscope.errors import InputRefused
from noduscope.io.headers import DAMAGE, PixelFormat, Slice
from noduscope.io.hounsfield import AIR_HU, rescale_into

Patterns = NDArray[np.uint16]
"""Stored numbers as 16-bit patterns, whatever their sign; shape (rows, columns)."""

_IMPLICIT: Final = "1.2.840.10008.1.2"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_JPEG_LS: Final = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

_PIXEL_DATA: Final = 0x7FE00010
_UNDEFINED: Final = 0xFFFFFFFF
_END_OF_IMAGE: Final = b"\xff\xd9"
_LONG_VRS: Final = (b"OB", b"OW", b"UN")


def read_hu_into(outs: Sequence[NDArray[np.int16]], images: Sequence[Slice]) -> None:
    """Read images of one file as HU, each into its plane.

    Parameters
    ----------
    outs : one int16 plane (rows, columns) per image, written in place.
    images : images of the same file and layout.

    Raises
    ------
    InputRefused
        For pixel data that are missing, cut short, of another size than the header says, or damaged.
    """
    first = images[0]
    data, encapsulated = _pixel_bytes(first)
    decode = _encapsulated_decoder(data, first) if encapsulated else _native_decoder(data, first)
    for out, image in zip(outs, images, strict=True):
        patterns = decode(image.frame)
        stored = _stored_numbers(patterns, image.pixels)
        padded = _padding_mask(patterns, stored, image)
        rescale_into(out, stored, 1.0 if image.slope is None else image.slope, image.intercept or 0.0)
        if padded is not None:
            out[padded] = AIR_HU


def _refusal(path: Path, why: str) -> InputRefused:
    return InputRefused(f"{path.name}: {why}; get the file again from its source")


def _pixel_bytes(image: Slice) -> tuple[bytes, bool]:
    """The value of the PixelData element, and whether it is encapsulated."""
    if image.pixel_offset is None:
        return _inflated_pixel_bytes(image), False
    order = ">" if image.pixels.syntax == _BIG_ENDIAN else "<"
    try:
        with image.path.open("rb") as file:
            file.seek(image.pixel_offset)
            group, element, vr = struct.unpack(order + "HH2s", file.read(6))
            if group << 16 | element != _PIXEL_DATA:
                raise _refusal(image.path, "no pixel data")
            explicit = vr in _LONG_VRS and image.pixels.syntax != _IMPLICIT
            if explicit:
                file.seek(2, 1)
            else:
                file.seek(-2, 1)
            (length,) = struct.unpack(order + "I", file.read(4))
            data = file.read() if length == _UNDEFINED else file.read(length)
    except struct.error:
        raise _refusal(image.path, "no pixel data (the file is cut short)") from None
    except OSError as error:
        raise InputRefused(f"{image.path.name}: cannot be read ({error.strerror})") from error
    if length != _UNDEFINED and len(data) < length:
        raise _refusal(image.path, f"the file is cut short: {len(data):,} of {length:,} bytes of pixel data")
    return data, length == _UNDEFINED


def _inflated_pixel_bytes(image: Slice) -> bytes:
    try:
        data = dcmread(image.path, specific_tags=[_PIXEL_DATA]).get("PixelData")
    except DAMAGE as error:
        raise _refusal(image.path, "a damaged DICOM file") from error
    if not isinstance(data, bytes):
        raise _refusal(image.path, "no pixel data")
    return data


def _native_decoder(data: bytes, image: Slice) -> Callable[[int], Patterns]:
    pixels = image.pixels
    count = pixels.rows * pixels.columns
    expected = 2 * count * pixels.frames
    # a stray row or more means that rows, columns or bits are not what the header says
    if len(data) < expected or len(data) - expected >= 2 * pixels.columns:
        raise _refusal(
            image.path,
            f"{len(data):,} bytes of pixel data where {pixels.frames} × {pixels.rows} × {pixels.columns} "
            f"pixels of 2 bytes need {expected:,}",
        )
    order = ">u2" if pixels.syntax == _BIG_ENDIAN else "<u2"

    def decode(frame: int) -> Patterns:
        array = np.frombuffer(data, order, count, 2 * count * frame).reshape(pixels.rows, pixels.columns)
        return array.astype(np.uint16, copy=False)

    return decode


def _encapsulated_decoder(data: bytes, image: Slice) -> Callable[[int], Patterns]:
    pixels = image.pixels
    charls = _charls() if pixels.syntax in _JPEG_LS else None
    if charls is None:
        return lambda frame: _pydicom_decoded(data, image, frame)
    # CharLS searches for seconds when the data run out before an end marker: there is always one
    frames = [frame.rstrip(b"\0") + _END_OF_IMAGE for frame in _frames(data, image)]

    def decode(frame: int) -> Patterns:
        if _jpeg_ls_size(frames[frame]) != (pixels.rows, pixels.columns, 1):
            return _pydicom_decoded(data, image, frame)
        out = np.empty((pixels.rows, pixels.columns), np.uint16)
        code = charls(out.ctypes.data, out.nbytes, frames[frame], len(frames[frame]), None, None)
        if code:
            raise _refusal(image.path, f"damaged JPEG-LS data (CharLS error {code})")
        return out

    return decode


def _frames(data: bytes, image: Slice) -> list[bytes]:
    try:
        frames = list(generate_frames(data, number_of_frames=image.pixels.frames))
    except DAMAGE as error:
        raise _refusal(image.path, "damaged or cut short compressed pixel data") from error
    if len(frames) < image.pixels.frames:
        raise _refusal(image.path, f"{len(frames)} of {image.pixels.frames} compressed images")
    return frames


def _pydicom_decoded(data: bytes, image: Slice, frame: int) -> Patterns:
    pixels = image.pixels
    options: dict[str, Any] = {
        "rows": pixels.rows,
        "columns": pixels.columns,
        "number_of_frames": pixels.frames,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": pixels.bits_allocated,
        "bits_stored": pixels.bits_stored,
        "pixel_representation": int(pixels.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        array, _ = get_decoder(pixels.syntax).as_array(data, index=frame, raw=True, **options)
    except NotImplementedError as error:
        raise InputRefused(
            f"{image.path.name}: the transfer syntax {pixels.syntax} is not supported; "
            "decompress the series first, for example with dcmdjpeg or gdcmconv --raw"
        ) from error
    except (RuntimeError, *DAMAGE) as error:
        raise _refusal(image.path, "damaged or cut short compressed pixel data") from error
    if array.shape != (pixels.rows, pixels.columns) or array.dtype.itemsize != 2:
        raise _refusal(image.path, f"decoded to {array.shape} {array.dtype}, not what the header says")
    return np.ascontiguousarray(array).view(np.uint16)


def _jpeg_ls_size(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG-LS image of more than 8 bits; None for anything else.

    ISO/IEC 14495-1 C.2.2: marker SOF55 (FF F7), length, precision, lines, samples per line, components.
    """
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:
        (length,) = struct.unpack_from(">H", frame, at + 2)
        if frame[at + 1] == 0xF7:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return (rows, columns, components) if precision > 8 else None
        at += 2 + length
    return None


@cache
def _charls() -> Callable[..., int] | None:
    """CharLS's decoder from the library that ``pyjpegls`` loads; None where it does not show it.

    ``int JpegLsDecode(void* dst, size_t, const void* src, size_t, const JlsParameters*, char* message)``
    """
    spec = importlib.util.find_spec("_CharLS")
    try:
        function = ctypes.CDLL(spec.origin or "").JpegLsDecode if spec else None
    except (OSError, AttributeError):
        return None
    if function is not None:
        function.restype = ctypes.c_int
        size = ctypes.c_size_t
        function.argtypes = [ctypes.c_void_p, size, ctypes.c_char_p, size, ctypes.c_void_p, ctypes.c_char_p]
    return function


def _stored_numbers(patterns: Patterns, pixels: PixelFormat) -> NDArray[np.int16] | NDArray[np.uint16]:
    """16-bit patterns as numbers: bits above BitsStored carry nothing and are dropped."""
    spare = 16 - pixels.bits_stored
    if not pixels.signed:
        return patterns & np.uint16(0xFFFF >> spare) if spare else patterns
    if not spare:
        return patterns.view(np.int16)
    # the sign bit is moved to the top and shifted back, which repeats it
    return np.left_shift(patterns, spare).view(np.int16) >> spare


def _padding_mask(patterns: Patterns, stored: NDArray[Any], image: Slice) -> NDArray[np.bool_] | None:
    """Where PixelPaddingValue marks pixels that would not already read as air; None when nowhere.

    Padding that reads as a tissue value (some writers leave 0 there, which is water) is believed
    only outside the circle that a CT reconstructs, and only when all four corners hold it.
    """
    if image.padding is None:
        return None
    ends = np.asarray(image.padding, dtype=np.uint16)
    slope = 1.0 if image.slope is None else image.slope
    low, high = sorted((_stored_numbers(ends, image.pixels).astype(float) * slope + (image.intercept or 0.0)).tolist())
    spare_bits = bool(np.any(ends >> image.pixels.bits_stored)) if image.pixels.bits_stored < 16 else False
    if high <= AIR_HU and not spare_bits:
        return None
    if spare_bits and not image.pixels.signed:
        # written with more bits than the header grants (-2000 in a 12-bit unsigned image)
        beyond: NDArray[np.bool_] = (patterns >= ends.min()) & (patterns <= ends.max())
        return beyond
    limits = np.sort(_stored_numbers(ends, image.pixels))
    mask: NDArray[np.bool_] = (stored >= limits[0]) & (stored <= limits[1])
    if low > 3071:
        return mask
    return mask & _outside_circle(mask.shape) if mask[[0, 0, -1, -1], [0, -1, 0, -1]].all() else None


@cache
def _outside_circle(shape: tuple[int, int]) -> NDArray[np.bool_]:
    rows, columns = shape
    y, x = np.ogrid[:rows, :columns]
    radius = min(rows, columns) / 2 - 1
    outside: NDArray[np.bool_] = (y - (rows - 1) / 2) ** 2 + (x - (columns - 1) / 2) ** 2 > radius**2
    return outside
