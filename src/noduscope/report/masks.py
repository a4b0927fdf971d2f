"""The outlines as one label volume on the scan's grid, for inputs that have no patient to file them under."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from noduscope.findings import ScanResult


def label_volume(result: ScanResult) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Nodule ids on the scan's grid ``(z, y, x)``, 0 outside; where outlines overlap the more probable one's."""
    kind = np.uint8 if max((n.id for n in result.nodules), default=0) < 256 else np.uint16
    labels = np.zeros(result.scan.geometry.shape_zyx, kind)
    for nodule in reversed(result.nodules):
        if nodule.mask is not None:
            labels[nodule.mask.box][nodule.mask.mask] = nodule.id
    return labels


def write_labels(result: ScanResult, folder: Path) -> str:
    """Write the label volume, compressed, in the input's own kind of file where that is NIfTI.

    Returns
    -------
    The file's name: ``nodules.nii.gz`` for NIfTI input, else ``nodules.nrrd``.
    """
    import SimpleITK as sitk  # noqa: N813, PLC0415 -- a sixth of a second that DICOM input does not need

    name = "nodules.nii.gz" if result.scan.source.reader == "nifti" else "nodules.nrrd"
    geometry = result.scan.geometry
    image = sitk.GetImageFromArray(label_volume(result))
    image.SetSpacing(geometry.spacing_xyz_mm)
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(folder / name), useCompression=True)
    return name
