"""A result as DICOM objects of the patient's own study: segmentation, structured report, CAD marks.

highdicom costs 0.4 s to load, so that it is loaded only where there is something to write with it.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from noduscope.findings import ScanResult
from noduscope.scan import ScanWarning

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from noduscope.report.dicom_source import SourceSeries

_log = logging.getLogger(__name__)
SEGMENTATION, REPORT, CAD = "segmentation.dcm", "report.dcm", "cad.dcm"


@dataclass(frozen=True, slots=True)
class DicomFiles:
    """The objects by file name, and what the user must know where some could not be made."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[ScanWarning, ...] = ()


class MakeDicom(Protocol):
    """`dicom_files`, or what does the same elsewhere."""

    def __call__(self, result: ScanResult, *, cad: bool = False) -> DicomFiles:
        """The DICOM objects of a result."""


def load() -> None:
    """Load all that making the objects needs, beforehand."""
    from highdicom._standard_utils import get_module_attribute_map  # noqa: PLC0415

    import noduscope.report.dicom_seg  # noqa: PLC0415
    import noduscope.report.dicom_sr  # noqa: F401, PLC0415

    # the standard's tables, 22 MB of JSON, which highdicom reads and keeps when it makes its first object
    get_module_attribute_map()


def dicom_files(result: ScanResult, *, cad: bool = False) -> DicomFiles:
    """The DICOM objects of a result, in the scan's study, for its patient.

    Parameters
    ----------
    cad : also the marks as a Chest CAD SR, ``cad.dcm``.

    Returns
    -------
    DicomFiles
        ``report.dcm`` always, ``segmentation.dcm`` where a nodule has an outline. Nothing, and a warning
        ``no-dicom-results`` that says why, where the scan is not DICOM or its files are gone or have changed.
    """
    if result.scan.source.reader != "dicom" or not result.scan.source.files:
        return DicomFiles(warnings=(_not_from_files(result),))
    # headers of real scanners break many a small rule; their values are kept as they are
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _made(result, cad)


def _made(result: ScanResult, cad: bool) -> DicomFiles:
    from noduscope.report.dicom_source import read_source  # noqa: PLC0415

    source = read_source(result.scan, _planes(result))
    if isinstance(source, ScanWarning):
        return DicomFiles(warnings=(source,))
    try:
        return DicomFiles(_objects(result, source, cad))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # what highdicom raises on headers it cannot take over; the rest of the result must not be lost to that
        _log.debug("DICOM results could not be made", exc_info=error)
        text = "No DICOM segmentation and report were written: the scan's headers do not allow it."
        return DicomFiles(warnings=(ScanWarning("no-dicom-results", text),))


def _objects(result: ScanResult, source: SourceSeries, cad: bool) -> dict[str, bytes]:
    from noduscope.report.dicom_codes import Told  # noqa: PLC0415
    from noduscope.report.dicom_seg import segmentation  # noqa: PLC0415
    from noduscope.report.dicom_sr import measurement_report  # noqa: PLC0415

    told = Told(result)
    outlines = segmentation(told, source)
    made = {REPORT: measurement_report(told, source, outlines)}
    if outlines is not None:
        made[SEGMENTATION] = outlines
    if cad:
        from noduscope.report.dicom_cad import cad_report  # noqa: PLC0415

        made[CAD] = cad_report(told, source)
    return {name: _bytes(dataset) for name, dataset in made.items()}


def _planes(result: ScanResult) -> set[int]:
    """The planes of the scan that a finding lies on."""
    planes = {n.slice_number - 1 for n in result.nodules}
    for nodule in result.nodules:
        if nodule.mask is not None:
            planes.update(range(nodule.mask.box[0].start, nodule.mask.box[0].stop))
    return planes


def _not_from_files(result: ScanResult) -> ScanWarning:
    reader = result.scan.source.reader
    why = (
        "its source files are not known" if reader == "dicom" else f"a scan read as {reader} names no patient or study"
    )
    return ScanWarning("no-dicom-results", f"No DICOM segmentation and report were written: {why}.")


def _bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    save: Callable[..., None] = dataset.save_as
    save(buffer, enforce_file_format=True)
    return buffer.getvalue()
