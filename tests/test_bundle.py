"""Model bundles: what is written is read back, and what was touched since is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_model import write_blob_bundle
from noduscope.errors import ModelError
from noduscope.model import bundle as bundle_module
from noduscope.model.bundle import Calibration, find_bundle, find_bundles, load_bundle, write_bundle
from noduscope.model.engine import Engine
from noduscope.settings import DetectorSettings, Settings


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blob_bundle(tmp_path_factory.mktemp("models") / "blobs-0.1", threshold=0.4)


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy" / written.name))


def edit(folder: Path, **changes: Any) -> None:
    """Change the manifest; a value of ... removes the key."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text(encoding="utf-8")) | changes
    kept = {k: v for k, v in manifest.items() if v is not ...}
    file.write_text(json.dumps(kept), encoding="utf-8")


def small_files(folder: Path) -> None:
    for name in ("model.xml", "model.bin", "card.md", "detector.weights.h5"):
        (folder / name).write_text(f"the {name}", encoding="utf-8")


def test_a_bundle_says_what_was_put_in(tmp_path: Path):
    settings = dataclasses.replace(Settings(), detector=DetectorSettings(filters=(8, 12), dropout=0.3))
    content = {"settings": settings, "calibration": Calibration(0.7, -1.25), "threshold": 0.35}
    write_bundle(tmp_path / "new" / "detector-2.1", ("detector", "2.1"), content, small_files)
    bundle = load_bundle(tmp_path / "new" / "detector-2.1")
    assert (bundle.name, bundle.version, bundle.threshold) == ("detector", "2.1", 0.35)
    assert bundle.settings == settings
    assert bundle.calibration == Calibration(0.7, -1.25)
    assert bundle.card == "the card.md"
    assert bundle.used.sha256 == bundle.sha256
    assert len(bundle.sha256) == 64
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["detector-2.1"]


def test_its_network_runs(written: Path):
    """One bright block in the dark is marked at its own cell."""
    ct = np.full((1, 32, 32, 32, 1), 0.1, np.float32)
    ct[0, 12:16, 16:20, 8:12] = 0.8
    (output,) = Engine(load_bundle(written).network)(ct)
    assert output.shape == (1, 8, 8, 8, 5)
    assert np.unravel_index(output[0, ..., 0].argmax(), (8, 8, 8)) == (3, 4, 2)
    # 60 * (0.7 - 0.30): the cell is 0.7 brighter than all around it
    assert output[0, 3, 4, 2, 0] == pytest.approx(24.0, rel=0.02)


def test_another_version_is_another_hash(tmp_path: Path, written: Path):
    other = write_blob_bundle(tmp_path / "blobs-0.2", "0.2", threshold=0.4)
    assert load_bundle(other).sha256 != load_bundle(written).sha256


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "card.md"])
def test_a_changed_byte_is_refused(copy: Path, name: str):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(ModelError, match=f"{name} is missing or not the file"):
        load_bundle(copy)


def test_a_missing_file_is_refused(copy: Path):
    (copy / "model.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.bin is missing"):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "..", "a/b"])
def test_a_file_outside_the_bundle_is_refused(copy: Path, name: str):
    (copy.parent / "x").write_text("x", encoding="utf-8")
    files = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))["files"]
    edit(copy, files={**files, name: bundle_module._sha256(copy.parent / "x")})
    with pytest.raises(ModelError, match=r"outside the bundle|is missing or not"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "bundle format 1 is expected"),
        ({"format": ...}, "bundle format 1 is expected"),
        ({"files": ...}, "lists no files"),
        ({"files": ["model.xml"]}, "lists no files"),
        ({"files": {"model.xml": None}}, "lists no files"),
        ({"files": {}}, r"does not list card\.md, model\.bin, model\.xml"),
        ({"name": ...}, "does not hold what this version needs"),
        ({"threshold": "high"}, "does not hold what this version needs"),
        ({"calibration": {"steepness": 1.0}}, "does not hold what this version needs"),
        ({"calibration": {"slope": "steep"}}, "does not hold what this version needs"),
        ({"settings": {"detector": {"layers": 3}}}, r"unknown setting detector\.layers"),
        ({"settings": []}, "does not hold what this version needs"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(copy: Path, changes: dict[str, Any], named: str):
    edit(copy, **changes)
    with pytest.raises(ModelError, match=named):
        load_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_no_manifest_at_all_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError):
        load_bundle(tmp_path)


def test_writing_that_fails_leaves_the_old_bundle_and_nothing_else(copy: Path):
    def fail(folder: Path) -> None:
        (folder / "model.xml").write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    content = {"settings": Settings(), "calibration": Calibration(), "threshold": 0.5}
    with pytest.raises(KeyboardInterrupt):
        write_bundle(copy, ("blobs", "0.1"), content, fail)
    assert load_bundle(copy).threshold == 0.4
    assert [p.name for p in copy.parent.iterdir()] == [copy.name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions shipped, one from ``NODUSCOPE_MODELS``; the working folder holds none."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    content = {"settings": Settings(), "calibration": Calibration(), "threshold": 0.5}
    for folder, version in ((shipped, "1.9"), (shipped, "1.10"), (own, "1.2")):
        write_bundle(folder / f"detector-{version}", ("detector", version), content, small_files)
    write_bundle(own / "grader-0.1", ("grader", "0.1"), content, small_files)
    monkeypatch.setattr(bundle_module, "shipped_weights", lambda: shipped)
    monkeypatch.setenv("NODUSCOPE_MODELS", str(own))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_bundles_are_found_by_name_version_or_folder(installed: Path):
    assert find_bundle("detector") == installed / "shipped" / "detector-1.10"  # 1.10 comes after 1.9 and 1.2
    assert find_bundle("detector-1.9") == installed / "shipped" / "detector-1.9"
    assert find_bundle("detector-1.2") == installed / "own" / "detector-1.2"
    assert find_bundle("grader") == installed / "own" / "grader-0.1"
    assert find_bundle(str(installed / "own" / "detector-1.2")) == installed / "own" / "detector-1.2"
    assert [p.name for p in find_bundles()] == ["detector-1.2", "detector-1.9", "detector-1.10", "grader-0.1"]


def test_one_s_own_bundle_goes_before_the_shipped_one_of_the_same_version(installed: Path):
    shutil.copytree(installed / "shipped" / "detector-1.10", installed / "own" / "detector-1.10")
    assert find_bundle("detector") == installed / "own" / "detector-1.10"


def test_without_the_variable_only_the_shipped_ones_are_there(installed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NODUSCOPE_MODELS")
    with pytest.raises(ModelError, match=r"no model 'grader'; installed: detector-1\.9, detector-1\.10"):
        find_bundle("grader")


def test_a_probability_grows_with_the_logit_and_never_leaves_its_range():
    calibration = Calibration(0.5, -1.0)
    assert calibration.probability(2.0) == 0.5  # 0.5 * 2 - 1 = 0
    values = [calibration.probability(x) for x in (-1e6, -1e3, -3.0, 0.0, 3.0, 1e3, 1e6)]
    assert values == sorted(values)
    assert values[0] == 0.0
    assert values[-1] == 1.0


def test_what_ships_with_the_package_is_as_its_manifest_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NODUSCOPE_MODELS", raising=False)
    for path in find_bundles():
        bundle = load_bundle(path)
        assert path.name == f"{bundle.name}-{bundle.version}"
        assert 0 < bundle.threshold < 1
