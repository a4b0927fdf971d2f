"""The phantom as files: a DICOM CT series, MetaImage or NIfTI.

Everything is written under a temporary name beside its target and renamed when complete, so that an
interrupted run leaves no half-written scan.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noduscope.errors import InputRefused
from noduscope.scan import Scan

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DATE, _TIME = "20240101", "120000"


class HasScan(Protocol):
    """Anything that carries a scan, such as a phantom."""

    @property
    def scan(self) -> Scan:
        """The scan to write."""


def write_dicom(phantom: HasScan | Scan, folder: Path | str) -> Path:
    """Write an uncompressed CT Image Storage series of a fictitious patient, one file per slice.

    The identifiers follow from the voxels, the geometry and the source, so the same phantom gives
    the same files.

    Parameters
    ----------
    phantom : what to write; its slices must be stacked along the head-foot index axis.
    folder : is made; it must not hold anything yet.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputRefused
        When the folder already holds files.

    Notes
    -----
    Attributes after DICOM PS3.3 A.3 (CT Image IOD): all of type 1 and 2 are there.
    """
    scan, folder = _scan_of(phantom), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputRefused(f"{folder} already exists and is not an empty folder; name a new one for the DICOM series")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        part = Path(name) / "series"
        part.mkdir()
        template = _series(scan)
        for k, plane in enumerate(scan.hu):
            _fill_slice(template, scan, k, plane)
            template.save_as(part / f"CT{k + 1:04d}.dcm", enforce_file_format=True)
        if folder.exists():
            folder.rmdir()
        shutil.move(part, folder)
    return folder


def write_mhd(phantom: HasScan | Scan, path: Path | str) -> Path:
    """Write MetaImage: ``.mhd`` with its ``.raw`` beside it, or a single ``.mha``.

    Raises
    ------
    InputRefused
        For another ending.
    """
    return _write_volume(_scan_of(phantom), Path(path), (".mhd", ".mha"))


def write_nifti(phantom: HasScan | Scan, path: Path | str) -> Path:
    """Write NIfTI-1, ``.nii`` or ``.nii.gz``.

    Raises
    ------
    InputRefused
        For another ending.
    """
    return _write_volume(_scan_of(phantom), Path(path), (".nii", ".nii.gz"))


def _scan_of(phantom: HasScan | Scan) -> Scan:
    """The scan itself."""
    return phantom if isinstance(phantom, Scan) else phantom.scan


def _write_volume(scan: Scan, path: Path, endings: tuple[str, ...]) -> Path:
    """Write one volume by SimpleITK; the header that names the raw file is put in place last."""
    import SimpleITK as sitk  # noqa: N813, PLC0415

    if not path.name.lower().endswith(endings):
        raise InputRefused(f"cannot write {path.name}: its name must end in {' or '.join(endings)}")
    geometry = scan.geometry
    image = sitk.GetImageFromArray(np.ascontiguousarray(scan.hu))
    image.SetSpacing(geometry.spacing_xyz_mm)
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(geometry.direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as name:
        part = Path(name) / path.name
        sitk.WriteImage(image, str(part))
        for file in sorted(part.parent.iterdir(), key=lambda f: f == part):
            file.replace(path.parent / file.name)
    return path


def _series(scan: Scan) -> Dataset:
    """The dataset that all slices share."""
    from pydicom.dataset import Dataset, FileMetaDataset  # noqa: PLC0415
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian  # noqa: PLC0415

    ds, geometry = Dataset(), scan.geometry
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    x, y, z = geometry.spacing_xyz_mm
    stem = hashlib.sha256(scan.hu.tobytes()).hexdigest() + repr((geometry, scan.source.series_uid))
    own = UID(scan.source.series_uid)
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"],
        "SOPClassUID": CTImageStorage,
        **dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"), _DATE),
        **dict.fromkeys(("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"), _TIME),
        "AccessionNumber": "",
        "Modality": "CT",
        "Manufacturer": "noduscope",
        "ManufacturerModelName": "phantom",
        "ReferringPhysicianName": "",
        "StudyDescription": "Synthetic chest, no patient",
        "SeriesDescription": "Chest phantom, soft kernel",
        "PatientName": "Phantom^Chest",
        "PatientID": "PHANTOM",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "BodyPartExamined": "CHEST",
        "SliceThickness": f"{z:.6g}",
        "KVP": "120",
        "PatientPosition": "HFS",
        "ConvolutionKernel": "SOFT",
        "StudyInstanceUID": _uid(stem, "study"),
        "SeriesInstanceUID": own if own.is_valid else _uid(stem, "series"),
        "FrameOfReferenceUID": _uid(stem, "frame"),
        "StudyID": "1",
        "SeriesNumber": 1,
        "AcquisitionNumber": 1,
        "PositionReferenceIndicator": "",
        "ImageOrientationPatient": [_decimal(v) for v in geometry.axes[:, :2].T.ravel()],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": geometry.shape_zyx[1],
        "Columns": geometry.shape_zyx[2],
        "PixelSpacing": [_decimal(y), _decimal(x)],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "WindowCenter": "-600",
        "WindowWidth": "1500",
        "RescaleIntercept": "0",
        "RescaleSlope": "1",
        "RescaleType": "HU",
    }
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def _fill_slice(ds: Dataset, scan: Scan, k: int, plane: NDArray[np.int16]) -> None:
    """Put slice k into the shared dataset."""
    from pydicom.uid import UID  # noqa: PLC0415

    position = scan.geometry.to_world((k, 0, 0))
    uid = UID(_uid(ds.SeriesInstanceUID, str(k)))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.InstanceNumber = k + 1
    ds.ImagePositionPatient = [_decimal(v) for v in position]
    ds.SliceLocation = _decimal(float(position @ scan.geometry.axes[:, 2]))
    ds.PixelData = np.ascontiguousarray(plane, dtype="<i2").tobytes()
    ds["PixelData"].VR = "OW"


def _uid(stem: str, part: str) -> str:
    """A UID of the UUID arc (PS3.5 B.2) that follows from its sources."""
    return f"2.25.{int(hashlib.sha256(f'{stem}|{part}'.encode()).hexdigest()[:32], 16)}"


def _decimal(value: float) -> str:
    """A DICOM decimal string: at most 16 characters."""
    return f"{round(float(value), 6) + 0.0:.10g}"
