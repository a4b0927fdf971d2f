"""DICOM objects made by a process of their own.

highdicom takes most of a second to load and another half for the objects, all of it under the interpreter
lock. Begun before the scan is read, the process has loaded by the time there is a result, and works while
the pictures are drawn.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

import numpy as np

from noduscope.findings import ScanResult
from noduscope.report.dicom import DicomFiles, dicom_files, load
from noduscope.scan import Scan


class DicomProcess:
    """A waiting process for one result; `files` is `dicom_files` done there.

    Left without a result it ends with the ``with`` block, or with the program, however that ends.

    Parameters
    ----------
    begin : False for a scan that is not DICOM, of which no object is made: no process then loads for nothing.
    """

    def __init__(self, *, begin: bool = True) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if not begin:
            return
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with contextlib.suppress(OSError):
            # in a session of its own Ctrl-C does not reach it; it ends when its input does
            self._process = subprocess.Popen(command, start_new_session=True, **pipes)  # type: ignore[call-overload]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def files(self, result: ScanResult, *, cad: bool = False) -> DicomFiles:
        """See `dicom_files`, which stands in where the process does not answer."""
        try:
            if self._process is not None:
                answer, _ = self._process.communicate(pickle.dumps((_parts(result), cad)))
                made: DicomFiles = pickle.loads(answer)  # noqa: S301  (our own process wrote it)
                return made
        except (OSError, ValueError, EOFError, pickle.PickleError):
            pass
        return dicom_files(result, cad=cad)


def serve() -> None:
    """The other end: load, wait for a result on standard input, answer on standard output."""
    load()
    gc.freeze()  # a million objects that stay need not be searched for garbage
    data = sys.stdin.buffer.read()
    if data:
        parts, cad = pickle.loads(data)  # noqa: S301  (our own process wrote it)
        sys.stdout.buffer.write(pickle.dumps(dicom_files(_whole(parts), cad=cad)))


def _parts(result: ScanResult) -> dict[str, Any]:
    """What DICOM objects say of a result; the voxels, a hundred megabytes, stay here."""
    scan = result.scan
    kept = ("nodules", "candidates", "threshold", "models", "warnings")
    return {"geometry": scan.geometry, "source": scan.source, **{name: getattr(result, name) for name in kept}}


def _whole(parts: dict[str, Any]) -> ScanResult:
    """The result again, its scan and lungs empty."""
    geometry, source = parts.pop("geometry"), parts.pop("source")
    hu = np.broadcast_to(np.int16(0), geometry.shape_zyx)
    return ScanResult(scan=Scan(hu, geometry, source), lungs=np.broadcast_to(np.uint8(0), geometry.shape_zyx), **parts)
