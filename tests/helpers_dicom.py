"""Small DICOM series for tests: any geometry, any layout of the stored numbers, any transfer syntax."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSNearLossless,
    generate_uid,
)

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def small_chest(shape=(8, 40, 36), seed=0):
    """int16 HU with air, lung, tissue and a little bone; no two slices alike."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 12, shape)
    z, y, x = np.indices(shape)
    hu[(np.abs(y - shape[1] / 2) < shape[1] / 4) & (np.abs(x - shape[2] / 2) < shape[2] / 4)] = -850
    hu[:, :2] = -1000
    hu[:, -3] = 700
    hu += 3 * z
    return np.clip(np.rint(hu), -1024, 3000).astype(np.int16)


@dataclass
class Layout:
    """How HU are stored: rescale, bits, sign, transfer syntax."""

    slope: float | None = 1.0
    intercept: float | None = -1024.0
    bits_stored: int = 16
    signed: bool = False
    syntax: str = ExplicitVRLittleEndian
    near: int = 0


@dataclass
class Place:
    """Where the slices lie."""

    spacing_xyz: tuple[float, float, float] = (0.7, 0.8, 2.0)
    origin: tuple[float, float, float] = (-100.0, -120.0, -300.0)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    @property
    def axes(self):
        """Columns: row direction, column direction, normal."""
        row, column = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.stack([row, column, np.cross(row, column)], axis=1)

    def positions(self, count):
        """ImagePositionPatient of every slice."""
        return np.array(self.origin) + np.arange(count)[:, None] * self.spacing_xyz[2] * self.axes[:, 2]


def write_series(
    folder: Path,
    hu,
    *,
    layout: Layout | None = None,
    place: Place | None = None,
    positions: Sequence | None = None,
    uid: str | None = None,
    edit: Callable[[Dataset, int], None] | None = None,
) -> str:
    """Write one file per slice, in shuffled name order, and return the SeriesInstanceUID."""
    layout, place, uid = layout or Layout(), place or Place(), uid or generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    positions = place.positions(len(hu)) if positions is None else positions
    names = np.random.default_rng(len(hu)).permutation(len(hu))
    for i, plane in enumerate(hu):
        ds = slice_dataset(plane, layout, place, positions[i])
        ds.SeriesInstanceUID = uid
        ds.InstanceNumber = int(names[i])
        if edit:
            edit(ds, i)
        save(ds, folder / f"{names[i]:04d}-{str(uid)[-6:]}.dcm")
    return uid


def slice_dataset(plane, layout: Layout, place: Place, position) -> Dataset:
    """One CT image, its pixel data encoded."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = layout.syntax
    ds.SOPClassUID = CT_IMAGE
    ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID = "Secret^Name", "SECRET-ID"
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SeriesDescription = "chest"
    ds.StudyInstanceUID = "1.2.3"
    ds.FrameOfReferenceUID = "1.2.4"
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.10f}"[:16] for v in place.orientation]
    ds.PixelSpacing = [place.spacing_xyz[1], place.spacing_xyz[0]]
    ds.SliceThickness = 99
    if layout.slope is not None:
        ds.RescaleSlope = layout.slope
    if layout.intercept is not None:
        ds.RescaleIntercept = layout.intercept
    stored = np.rint((plane.astype(float) - (layout.intercept or 0)) / (layout.slope or 1)).astype(np.int64)
    set_pixels(ds, stored, layout)
    return ds


def set_pixels(ds: Dataset, stored, layout: Layout) -> None:
    """Set the image pixel module of (rows, columns) or (frames, rows, columns) numbers, encoded."""
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, layout.bits_stored, layout.bits_stored - 1
    ds.PixelRepresentation = int(layout.signed)
    patterns = (stored & ((1 << layout.bits_stored) - 1)).astype(np.uint16)
    if layout.syntax in NATIVE:
        ds.PixelData = patterns.astype(">u2" if layout.syntax == ExplicitVRBigEndian else "<u2").tobytes()
        ds["PixelData"].VR = "OW"
        return
    if layout.syntax == JPEGLosslessSV1:
        frames = patterns.reshape(-1, *patterns.shape[-2:])
        ds.PixelData = encapsulate([jpeg_lossless(frame) for frame in frames])
        ds["PixelData"].VR = "OB"
        return
    numbers = stored.astype(np.int16 if layout.signed else np.uint16)
    options = {"jls_error": layout.near} if layout.syntax == JPEGLSNearLossless else {}
    ds.compress(layout.syntax, numbers, generate_instance_uid=False, **options)


def jpeg_lossless(frame) -> bytes:
    """JPEG lossless (process 14, first-order prediction), as GDCM encodes it."""
    import SimpleITK as sitk  # noqa: N813

    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.dcm")
        writer.SetFileName(str(path))
        writer.Execute(sitk.GetImageFromArray(frame))
        ds = dcmread(path)
        assert ds.file_meta.TransferSyntaxUID == JPEGLosslessSV1
        return next(generate_frames(ds.PixelData, number_of_frames=1))


def save(ds: Dataset, path: Path) -> None:
    """Write a dataset as a DICOM file."""
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
