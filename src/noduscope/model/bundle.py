"""A model bundle: one folder that holds a trained network and all that is needed to use it honestly.

::

    detector-1.2/
      manifest.json        name, version, settings, calibration, SHA-256 of every other file
      model.xml model.bin  the network for OpenVINO
      detector.weights.h5  the same weights for Keras, for fine-tuning
      card.md              data, protocol, measured figures with intervals, what it cannot do

This module owns that format. A bundle is data: nothing in it is executed, and nothing is used
before its checksum has been compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noduscope.errors import ModelError, SettingsError
from noduscope.findings import ModelUsed
from noduscope.settings import Settings, settings_from_dict, settings_to_dict

FORMAT = 1
_MANIFEST = "manifest.json"
_OWN = {"format", "name", "version", "settings", "calibration", "threshold", "files"}
_USED = {"model.xml", "model.bin", "card.md"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """From the network's logit to a probability: ``1 / (1 + exp(-(slope * logit + intercept)))`` (Platt scaling)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, logit: float) -> float:
        """Calibrated probability of a logit."""
        x = self.slope * logit + self.intercept
        return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose checksums have been verified.

    Parameters
    ----------
    settings : as it was trained: the spacing and HU range it expects, its architecture.
    threshold : probability from which a mark is reported unless the user says otherwise.
    details : what else the manifest tells, by name.
    """

    path: Path
    name: str
    version: str
    sha256: str
    settings: Settings
    calibration: Calibration
    threshold: float
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> Path:
        """The OpenVINO model."""
        return self.path / "model.xml"

    @property
    def card(self) -> str:
        """The model card, Markdown."""
        return (self.path / "card.md").read_text(encoding="utf-8")

    @property
    def used(self) -> ModelUsed:
        """What results say about it."""
        return ModelUsed(self.name, self.version, self.sha256)


def load_bundle(path: Path) -> Bundle:
    """Open a bundle and verify every file against the manifest.

    Raises
    ------
    ModelError
        When it is missing, damaged, altered, or of a format this version does not know.
    """
    text, manifest = _read_manifest(path)
    for name, expected in manifest["files"].items():
        if _sha256(path / name) != expected:
            raise ModelError(f"{path.name}: {name} is missing or not the file the manifest was written for")
    try:
        return Bundle(
            path=path,
            name=manifest["name"],
            version=manifest["version"],
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            settings=settings_from_dict(manifest["settings"]),
            calibration=Calibration(**{k: float(v) for k, v in manifest["calibration"].items()}),
            threshold=float(manifest["threshold"]),
            details={k: v for k, v in manifest.items() if k not in _OWN},
        )
    except (AttributeError, KeyError, TypeError, ValueError, SettingsError) as error:
        raise ModelError(f"{path}: the manifest does not hold what this version needs ({error})") from error


def _read_manifest(path: Path) -> tuple[str, dict[str, Any]]:
    """The manifest's text and content, its list of files checked."""
    try:
        text = (path / _MANIFEST).read_text(encoding="utf-8")
        manifest = json.loads(text)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not a model bundle: its {_MANIFEST} cannot be read ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ModelError(f"{path}: bundle format {FORMAT} is expected")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise ModelError(f"{path}: the manifest lists no files with their SHA-256")
    # a file that is used but not listed would be used unverified
    unlisted = sorted(_USED - files.keys())
    if unlisted:
        raise ModelError(f"{path}: the manifest does not list {', '.join(unlisted)}")
    for name in files:
        if Path(name).name != name:
            raise ModelError(f"{path}: the manifest names a file outside the bundle: {name!r}")
    return text, manifest


def write_bundle(path: Path, identity: tuple[str, str], content: dict[str, Any], fill: Callable[[Path], None]) -> None:
    """Write a bundle folder at once: `fill` puts the files in, the manifest is added, then it is renamed into place.

    Parameters
    ----------
    identity : name and version.
    content : ``settings``, ``calibration``, ``threshold`` and whatever else the manifest should tell.
    fill : called with a temporary folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        fill(temporary)
        files = {p.name: _sha256(p) for p in sorted(temporary.iterdir())}
        settings, calibration = settings_to_dict(content["settings"]), settings_to_dict(content["calibration"])
        manifest = {"format": FORMAT, "name": identity[0], "version": identity[1], **content}
        manifest |= {"settings": settings, "calibration": calibration, "files": files}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def shipped_weights() -> Path:
    """The folder of the bundles that come with the package."""
    return Path(__file__).resolve().parent.parent / "weights"


def find_bundles() -> list[Path]:
    """Installed bundles, shipped and in ``NODUSCOPE_MODELS``, by name and version; the latter's after equal ones."""
    folders = [shipped_weights()]
    if os.environ.get("NODUSCOPE_MODELS"):
        folders.append(Path(os.environ["NODUSCOPE_MODELS"]))
    found = [m.parent for folder in folders for m in sorted(folder.glob(f"*/{_MANIFEST}"))]
    return sorted(found, key=lambda bundle: _version(bundle.name))


def find_bundle(name: str) -> Path:
    """The newest installed bundle of a name, or the folder that `name` is a path of.

    Raises
    ------
    ModelError
        When there is none.
    """
    if (Path(name) / _MANIFEST).exists():
        return Path(name)
    found = [p for p in find_bundles() if name in (p.name, p.name.rpartition("-")[0])]
    if not found:
        names = ", ".join(p.name for p in find_bundles()) or "none"
        raise ModelError(f"no model {name!r}; installed: {names}")
    return found[-1]


def _version(folder: str) -> tuple[str, list[int]]:
    name, _, version = folder.rpartition("-")
    return name, [int(p) if p.isdigit() else 0 for p in version.split(".")]


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
