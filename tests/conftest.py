"""Shared fixtures: where the real data lies, if it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

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
