"""noduscope: find, measure and report lung nodules on chest CT. Not a medical device.

Nothing heavy is imported here; the public names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
NOT_A_MEDICAL_DEVICE = "Research software. Not a medical device; not for diagnosis or treatment."

_HOMES = {
    "Geometry": "noduscope.scan",
    "Scan": "noduscope.scan",
    "Candidate": "noduscope.findings",
    "Nodule": "noduscope.findings",
    "ScanResult": "noduscope.findings",
    "NoduscopeError": "noduscope.errors",
    "InputRefused": "noduscope.errors",
    "Settings": "noduscope.settings",
    "load_settings": "noduscope.settings",
    "read_scan": "noduscope.io.read",
    "predict": "noduscope.predict",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'noduscope' has no attribute {name!r}")
