"""Shared fixtures: the real data where it is there, a small chest in three formats, a detector without training."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from noduscope.phantom import Phantom

# machines differ in speed; a slow example is not a wrong one
settings.register_profile("noduscope", deadline=None)
settings.load_profile("noduscope")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real scans and tables (``NODUSCOPE_DATA`` or ``../shared/data``); skips when absent."""
    folder = Path(os.environ.get("NODUSCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "scans" / "nodules.csv").exists():
        pytest.skip(f"needs the real data (no {folder}); set NODUSCOPE_DATA")
    return folder


@pytest.fixture(scope="session")
def chest() -> Phantom:
    """Two lungs of ellipsoids with a nodule in each."""
    from helpers_chest import make_chest

    return make_chest()


@pytest.fixture(scope="session")
def chest_files(chest: Phantom, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The chest as ``dicom`` (folder), ``mhd`` and ``nifti`` (files); read only."""
    from noduscope.phantom import write_dicom, write_mhd, write_nifti

    folder = tmp_path_factory.mktemp("chest")
    return {
        "dicom": write_dicom(chest, folder / "series"),
        "mhd": write_mhd(chest, folder / "chest.mhd"),
        "nifti": write_nifti(chest, folder / "chest.nii"),
    }


@pytest.fixture(scope="session")
def blob_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle that marks what is denser than its surroundings."""
    from helpers_model import write_blob_bundle

    return write_blob_bundle(tmp_path_factory.mktemp("models") / "blobs-0.1")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def noduscope(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``noduscope(*arguments)`` as the shell would call it: exit status, standard output, standard error."""
    from noduscope.cli import main

    # the command sets up its logger for a process of its own; what it changed is put back afterwards
    log = logging.getLogger("noduscope")
    monkeypatch.setattr(log, "handlers", log.handlers)
    monkeypatch.setattr(log, "propagate", log.propagate)
    monkeypatch.setattr(log, "level", log.level)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["noduscope", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        text = capsys.readouterr()
        return status, text.out, text.err

    return run
