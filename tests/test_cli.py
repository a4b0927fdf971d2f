"""The command line: what it prints, what it leaves on disk, how it ends, and what it does not load."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers_chest import NODULES, without_lungs
from noduscope import demo as demo_module
from noduscope.findings import NOT_A_MEDICAL_DEVICE
from noduscope.phantom import Phantom, write_mhd
from noduscope.report import write as write_module

FILES = {"candidates.csv", "findings.csv", "findings.json", "nodules.mrk.json", "report.html", "run.json"}
HEAVY = (
    *("tensorflow", "keras", "openvino", "SimpleITK", "numpy", "cv2"),
    *("pydicom", "scipy", "sklearn", "matplotlib", "pandas", "rich"),
)


def loaded(code: str, *arguments: object) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run code in a fresh interpreter; what it did, and which heavy packages it had loaded at its end."""
    ending = f"\nfinally:\n print('LOADED', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    body = "import sys\ntry:\n " + code.replace("\n", "\n ") + ending
    command = [sys.executable, "-W", "error", "-c", body, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    names = next(line for line in reversed(done.stderr.splitlines()) if line.startswith("LOADED"))
    return done, set(names.split()[1:])


def test_importing_the_package_loads_nothing_heavy():
    done, heavy = loaded("import noduscope\nprint(noduscope.__version__)")
    assert done.returncode == 0, done.stderr
    assert heavy == set()


@pytest.mark.parametrize("arguments", [("--help",), ("detect", "--help"), ("train", "detector", "--help")])
def test_help_loads_nothing_heavy(arguments):
    done, heavy = loaded("from noduscope.cli import main\nmain()", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert heavy == set()


def test_detect_as_a_process_prints_json_alone_and_loads_no_training_library(chest_files, blob_bundle, tmp_path):
    code = "from noduscope.cli import main\nmain()"
    done, heavy = loaded(code, "detect", chest_files["dicom"], "-o", tmp_path / "out", "--model", blob_bundle, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "noduscope.findings/1"
    assert len(found["nodules"]) == len(NODULES)
    assert not heavy & {"tensorflow", "keras", "sklearn", "matplotlib", "pandas"}
    assert "openvino" in heavy  # or the check above could not fail


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_detect_writes_the_result_folder_and_a_table(noduscope, chest_files, blob_bundle, tmp_path):
    out = tmp_path / "a" / "out"
    status, text, _ = noduscope("detect", chest_files["mhd"], "-o", out, "--model", blob_bundle)
    assert status == 0
    assert names(out) >= FILES | {"nodule-1.png", "nodule-2.png"}
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert names(out) == set(run["files"])
    assert run["platform"]["networks"] in ("f32", "bf16")
    assert "2 findings" in text
    assert str(out / "report.html") in text
    assert NOT_A_MEDICAL_DEVICE in text
    found = json.loads((out / "findings.json").read_text(encoding="utf-8"))
    assert found["model"][0]["name"] == "blobs"
    assert found["timing_s"]["total"] > 0
    assert {"read", "lungs", "detect", "measure"} <= set(found["timing_s"])
    assert names(tmp_path / "a") == {"out"}  # nothing temporary is left beside it
    # an earlier result may be replaced, and is as a whole
    status, text, _ = noduscope(
        "detect", chest_files["nifti"], "-o", out, "--model", blob_bundle, "--threshold", "1.0", "--json"
    )
    assert status == 0
    assert json.loads(text)["nodules"] == []
    assert not {n for n in names(out) if n.endswith(".png")}


def test_no_finding_is_a_result_too(noduscope, chest_files, blob_bundle, tmp_path):
    settings = tmp_path / "strict.toml"
    settings.write_text("[detect]\nthreshold = 1.0\n", encoding="utf-8")
    out = tmp_path / "out"
    status, text, _ = noduscope("detect", chest_files["mhd"], "-o", out, "--model", blob_bundle, "--settings", settings)
    assert status == 0
    assert "no finding at or above probability 1.00" in text
    with (out / "candidates.csv").open(encoding="utf-8", newline="") as rows:
        assert len(list(csv.DictReader(rows))) >= len(NODULES)


def nothing_there(folder: Path, files: dict[str, Path]) -> Path:
    return folder / "nowhere"


def empty_folder(folder: Path, files: dict[str, Path]) -> Path:
    return folder


def magnetic_resonance(folder: Path, files: dict[str, Path]) -> Path:
    import pydicom

    for file in sorted(files["dicom"].iterdir())[:8]:
        dataset = pydicom.dcmread(file)
        dataset.Modality = "MR"
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.save_as(folder / file.name)
    return folder


def picture(folder: Path, files: dict[str, Path]) -> Path:
    (folder / "chest.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return folder / "chest.png"


def two_dimensions(folder: Path, files: dict[str, Path]) -> Path:
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((64, 64), np.int16)), str(folder / "slice.mha"))
    return folder / "slice.mha"


def truncated_volume(folder: Path, files: dict[str, Path]) -> Path:
    whole = files["nifti"].read_bytes()
    (folder / "cut.nii").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.nii"


def truncated_slice(folder: Path, files: dict[str, Path]) -> Path:
    for number, file in enumerate(sorted(files["dicom"].iterdir())):
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[: len(data) // 2] if number == 20 else data)
    return folder


def truncated_zip(folder: Path, files: dict[str, Path]) -> Path:
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        for file in sorted(files["dicom"].iterdir())[:4]:
            archive.write(file, file.name)
    (folder / "cut.zip").write_bytes((folder / "whole.zip").read_bytes()[:5000])
    return folder / "cut.zip"


def renamed_text(folder: Path, files: dict[str, Path]) -> Path:
    (folder / "notes.dcm").write_text("Dear colleague, " * 40, encoding="utf-8")
    return folder / "notes.dcm"


def folder_of_renamed_text(folder: Path, files: dict[str, Path]) -> Path:
    return renamed_text(folder, files).parent


def no_lungs(folder: Path, files: dict[str, Path]) -> Path:
    return write_mhd(without_lungs(), folder / "leg.mha")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (nothing_there, "no such file or folder"),
        (empty_folder, "no chest CT found"),
        (magnetic_resonance, "MR"),
        (picture, "no chest CT found"),
        (two_dimensions, "slice.mha"),
        (truncated_volume, "cut.nii"),
        (truncated_slice, "CT0021.dcm"),
        (truncated_zip, "cut.zip"),
        (renamed_text, "notes.dcm"),
        (folder_of_renamed_text, "no chest CT found"),
        (no_lungs, "no lungs"),
    ],
)
def test_an_input_that_cannot_be_used_is_refused_in_a_sentence(
    noduscope, chest_files, blob_bundle, tmp_path, make, named
):
    (tmp_path / "in").mkdir()
    source = make(tmp_path / "in", chest_files)
    status, text, error = noduscope("detect", source, "-o", tmp_path / "out", "--model", blob_bundle)
    assert status == 3
    assert text == ""
    assert error.startswith("noduscope: ")
    assert named in error
    assert "Traceback" not in error
    assert len(error.split()) > 4
    assert names(tmp_path) == {"in"}  # no output folder, whole or half


def test_of_several_inputs_the_bad_ones_are_told_and_the_good_ones_done(noduscope, chest_files, blob_bundle, tmp_path):
    (tmp_path / "bad").mkdir()
    bad = renamed_text(tmp_path / "bad", chest_files)
    twin = tmp_path / "twin" / "chest.nii"
    twin.parent.mkdir()
    shutil.copy(chest_files["nifti"], twin)
    out = tmp_path / "out"
    inputs = [chest_files["dicom"], bad, chest_files["nifti"], twin, tmp_path / "nowhere"]
    status, text, error = noduscope("detect", *inputs, "-o", out, "--model", blob_bundle)
    assert status == 4
    # beside them the DICOM series, by its UID
    assert len(names(out) - {"findings.csv", "candidates.csv", "summary.json", "chest"}) == 1
    assert "Traceback" not in error
    for name in ("series", "notes.dcm", "chest.nii", "nowhere"):
        assert name in text
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert [bool(s["error"]) for s in summary["scans"]] == [False, True, False, True, True]
    assert "the same series as" in summary["scans"][3]["error"]
    assert summary["done"] == 2
    with (out / "findings.csv").open(encoding="utf-8", newline="") as rows:
        series = [row["seriesuid"] for row in csv.DictReader(rows)]
    assert sorted(set(series)) == sorted({summary["scans"][0]["series_uid"], "chest"})
    assert len(series) == 2 * len(NODULES)


def test_when_every_input_is_bad_the_status_is_3_and_json_is_still_json(noduscope, blob_bundle, tmp_path):
    inputs = [tmp_path / "a", tmp_path / "b"]
    status, text, _ = noduscope("detect", *inputs, "-o", tmp_path / "out", "--model", blob_bundle, "--json")
    assert status == 3
    assert json.loads(text)["done"] == 0


@pytest.mark.slow
def test_two_workers_find_what_one_does(noduscope, chest_files, blob_bundle, tmp_path):
    inputs = [chest_files["dicom"], chest_files["mhd"], tmp_path / "nowhere"]
    out = tmp_path / "out"
    status, text, _ = noduscope("detect", *inputs, "-o", out, "--model", blob_bundle, "--workers", "2", "--json")
    assert status == 4
    scans = json.loads(text)["scans"]
    assert [s["nodules"] for s in scans] == [2, 2, 0]
    assert [s["input"] for s in scans] == ["series", "chest.mhd", "nowhere"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("detect",),
        ("detect", "scan", "-o", "out", "--treshold", "0.5"),
        ("detect", "scan", "-o", "out", "--threshold", "1.5"),
        ("detect", "scan", "-o", "out", "--workers", "0"),
        ("detect", "scan"),
        ("frobnicate",),
        ("models", "show"),
    ],
)
def test_wrong_usage_is_status_2(noduscope, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    status, text, error = noduscope(*arguments)
    assert status == 2
    assert text == ""
    assert "Usage" in error
    assert names(tmp_path) == set()


def test_a_misspelt_setting_is_status_2_and_named(noduscope, chest_files, tmp_path):
    settings = tmp_path / "s.toml"
    settings.write_text("[detect]\ntreshold = 0.5\n", encoding="utf-8")
    status, _, error = noduscope("detect", chest_files["mhd"], "-o", tmp_path / "out", "--settings", settings)
    assert status == 2
    assert "unknown setting detect.treshold" in error
    assert names(tmp_path) == {"s.toml"}


def test_an_unknown_or_damaged_model_is_status_3(noduscope, chest_files, blob_bundle, tmp_path):
    status, _, error = noduscope("detect", chest_files["mhd"], "-o", tmp_path / "out", "--model", "no-such-detector")
    assert (status, "no model 'no-such-detector'" in error) == (3, True)
    copy = shutil.copytree(blob_bundle, tmp_path / "blobs-0.2")
    (copy / "model.bin").write_bytes(b"\x00" + (copy / "model.bin").read_bytes()[1:-1] + b"\x01")
    status, _, error = noduscope("detect", chest_files["mhd"], "-o", tmp_path / "out", "--model", copy)
    assert (status, "model.bin is missing or not the file" in error) == (3, True)
    assert names(tmp_path) == {"blobs-0.2"}


def test_a_folder_with_foreign_files_is_refused_and_left_alone(noduscope, chest_files, blob_bundle, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work", encoding="utf-8")
    held = snapshot(tmp_path)
    status, _, error = noduscope("detect", chest_files["mhd"], "-o", out, "--model", blob_bundle)
    assert status == 3
    assert "thesis.tex" in error
    assert snapshot(tmp_path) == held


def test_a_file_as_the_output_folder_is_refused_and_left_alone(noduscope, chest_files, blob_bundle, tmp_path):
    (tmp_path / "out").write_bytes(b"mine")
    status, _, error = noduscope("detect", chest_files["mhd"], "-o", tmp_path / "out", "--model", blob_bundle)
    assert status == 3
    assert "is a file" in error
    assert snapshot(tmp_path) == {"out": b"mine"}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as at a terminal: a shell that starts tests in the background has them ignore it."""
    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, held)


def interrupting(function: Callable[..., object], after: int = 1) -> Callable[..., object]:
    """The function, and at the end of its nth call the signal that Ctrl-C sends."""
    calls = []

    def wrapped(*arguments: object, **named: object) -> object:
        made = function(*arguments, **named)
        calls.append(1)
        if len(calls) == after:
            signal.raise_signal(signal.SIGINT)
        return made

    return wrapped


@pytest.mark.parametrize("stage", ["_draw", "_fill", "findings_json"])
@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_leaves_no_result_folder(noduscope, chest_files, blob_bundle, tmp_path, monkeypatch, stage):
    monkeypatch.setattr(write_module, stage, interrupting(getattr(write_module, stage)))
    status, text, error = noduscope("detect", chest_files["mhd"], "-o", tmp_path / "out", "--model", blob_bundle)
    assert status == 130
    assert text == ""
    assert error.startswith("noduscope: interrupted")
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_keeps_the_earlier_result(noduscope, chest_files, blob_bundle, tmp_path, monkeypatch):
    arguments = ("detect", chest_files["mhd"], "-o", tmp_path / "out", "--model", blob_bundle)
    assert noduscope(*arguments)[0] == 0
    held = snapshot(tmp_path)
    monkeypatch.setattr(write_module, "_fill", interrupting(write_module._fill))
    assert noduscope(*arguments)[0] == 130
    assert snapshot(tmp_path) == held


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_among_several_keeps_whole_folders_only(
    noduscope, chest_files, blob_bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(write_module, "_fill", interrupting(write_module._fill, after=2))
    inputs = (chest_files["mhd"], chest_files["dicom"])
    status, _, _ = noduscope("detect", *inputs, "-o", tmp_path / "out", "--model", blob_bundle)
    assert status == 130
    assert names(tmp_path / "out") == {"chest"}
    assert names(tmp_path / "out" / "chest") >= FILES


@pytest.fixture
def small_demo(chest: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with the small chest in the phantom's place."""
    monkeypatch.setattr(demo_module, "make_phantom", lambda settings: chest)


def test_demo_shows_planted_and_found_and_can_be_repeated(noduscope, small_demo, blob_bundle, tmp_path):
    out = tmp_path / "demo"
    status, text, _ = noduscope("demo", "-o", out, "--model", blob_bundle)
    assert status == 0
    assert "found 2 of 2; findings that were not planted: 0" in text
    assert names(out) == {"phantom", "planted.csv", "result"}
    with (out / "planted.csv").open(encoding="utf-8", newline="") as rows:
        planted = list(csv.DictReader(rows))
    assert [float(r["diameter_mm"]) for r in planted] == [n.diameter_mm for n in NODULES]
    status, text, _ = noduscope("demo", "-o", out, "--model", blob_bundle, "--json")
    assert status == 0
    shown = json.loads(text)
    assert [p["found"] for p in shown["planted"]] == [True, True]
    assert Path(shown["report"]).is_file()


def test_demo_leaves_foreign_files_alone(noduscope, small_demo, blob_bundle, tmp_path):
    (tmp_path / "demo" / "phantom").mkdir(parents=True)
    (tmp_path / "demo" / "phantom" / "notes.txt").write_text("mine", encoding="utf-8")
    status, _, error = noduscope("demo", "-o", tmp_path / "demo", "--model", blob_bundle)
    assert status == 3
    assert "phantom" in error
    assert snapshot(tmp_path) == {"demo/phantom/notes.txt": b"mine"}


def test_models_are_listed_shown_and_verified(noduscope, blob_bundle, monkeypatch):
    monkeypatch.setenv("NODUSCOPE_MODELS", str(blob_bundle.parent))
    status, text, _ = noduscope("models", "list", "--json")
    assert status == 0
    assert {"name": "blobs", "version": "0.1"} in [{k: m[k] for k in ("name", "version")} for m in json.loads(text)]
    assert "blobs" in noduscope("models", "list")[1]
    assert "A test's detector." in noduscope("models", "show", "blobs")[1]
    assert "blobs 0.1: all files are as the manifest says" in noduscope("models", "verify")[1]


def test_a_damaged_model_fails_verification(noduscope, blob_bundle, tmp_path, monkeypatch):
    copy = shutil.copytree(blob_bundle, tmp_path / "blobs-0.3")
    (copy / "card.md").write_text("better than it is", encoding="utf-8")
    monkeypatch.setenv("NODUSCOPE_MODELS", str(tmp_path))
    status, _, error = noduscope("models", "verify")
    assert status == 3
    assert "card.md is missing or not the file" in error


def test_the_version_is_the_package_s(noduscope):
    from noduscope import __version__

    assert noduscope("--version")[:2] == (0, f"noduscope {__version__}\n")


def test_the_package_has_no_other_public_names():
    import noduscope as package

    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        _ = package.frobnicate
    assert all(getattr(package, name) is not None for name in package.__all__)


def test_the_same_scan_gives_the_same_findings_in_every_format(noduscope, chest_files, blob_bundle, tmp_path):
    found = []
    for kind, path in chest_files.items():
        text = noduscope("detect", path, "-o", tmp_path / kind, "--model", blob_bundle, "--json")[1]
        found.append(json.loads(text)["nodules"])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert np.allclose(a["position_xyz_mm"], b["position_xyz_mm"], atol=0.02)
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-3)
