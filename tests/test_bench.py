"""The benchmark runs through, and what it counts is right. Nothing here asserts a time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("keras") is None:  # not importorskip: this process has no use for TensorFlow
    pytest.skip("the bundle is made with the train extra", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "detector": {"stem_filters": 2, "filters": [2, 4], "blocks": [1, 1], "dropout": 0.0},
    "preprocess": {"spacing_mm": 5.0},  # a small lung region: the network is not what is tested
}
MAKE_BUNDLE = """
import json, sys
from pathlib import Path
import openvino as ov
from noduscope.model.bundle import Calibration, write_bundle
from noduscope.model.detector import build_detector
from noduscope.model.ir import to_openvino
from noduscope.settings import settings_from_dict
settings = settings_from_dict(json.loads(sys.argv[2]))
model = build_detector(settings.detector)
def fill(folder):
    ov.save_model(to_openvino(model), folder / "model.xml", compress_to_fp16=False)
    model.save_weights(folder / "detector.weights.h5")
    (folder / "card.md").write_text("untrained")
write_bundle(Path(sys.argv[1]), ("detector", "0.0"),
             {"settings": settings, "calibration": Calibration(), "threshold": 0.5}, fill)
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("bench")
    bundle, out = folder / "detector-0.0", folder / "result.json"
    subprocess.run([sys.executable, "-c", MAKE_BUNDLE, bundle, json.dumps(SETTINGS)], check=True, cwd=ROOT)
    command = [sys.executable, "-m", "bench", "--quick", "--model", str(bundle), "--out", str(out)]
    command += ["--monai", "/bin/true"]  # a stand-in for the other software's interpreter
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "GFLOP" in done.stdout
    return json.loads(out.read_text())


def test_a_training_step_is_measured(figures: dict) -> None:
    step = figures["training"]
    assert 0 < step["crops"] < step["processor"]
    assert step["share"] == pytest.approx(step["crops"] / step["processor"])


def test_every_stage_has_its_references(figures: dict) -> None:
    made = {s["stage"]: [r["name"] for r in s["references"]] for s in figures["stages"]}
    assert made == {
        "read": ["SimpleITK"],
        "load network": [],
        "lungs": [],
        "label": ["scipy"],
        "resample": ["SimpleITK", "scipy"],
        "search": [made["search"][0]],
        "detect": [],
        "measure": [],
        "write": [],
        "whole process": [],
        "--help": ["bare Python"],
    }
    assert made["search"][0].startswith("Keras on ")


def test_the_references_give_our_answer(figures: dict) -> None:
    """A ratio means something only between two ways to the same answer."""
    answers = {(s["stage"], r["name"]): r.get("answer") for s in figures["stages"] for r in s["references"]}
    assert answers["read", "SimpleITK"] == "within 0 HU"
    assert answers["label", "scipy"] == "same regions"
    # two roundings against one
    assert answers["resample", "SimpleITK"] in ("within 0 HU", "within 1 HU")
    assert answers["resample", "scipy"] in ("within 0 HU", "within 1 HU")
    (logits,) = [a for (stage, _), a in answers.items() if stage == "search"]
    # bf16, which OpenVINO takes where the processor has it, keeps 8 bits of 24
    most = {"f32": 1e-2, "bf16": 0.2}[figures["network"]["precision"]]
    assert float(logits.removeprefix("logits within ")) < most


def test_the_network_s_work_is_counted_from_its_layers(figures: dict) -> None:
    """By hand, per voxel of input (stem 2, filters 2 and 4, one block each), a multiply-add being two."""
    s2, s4, s8 = 1 / 8, 1 / 64, 1 / 512
    weights = (
        s2 * (4**3 * 1 * 2 + 27 * 2 * 2)  # stem, s2
        + s4 * (27 * 2 * 2 + 2 * 27 * 2 * 2)  # s4_in, block
        + s8 * (27 * 2 * 4 + 2 * 27 * 4 * 4 + 4 * 2)  # s8_in, block, lateral
        + s4 * (27 * 2 * 2 + 2 * 5)  # head, output
    )
    network = figures["network"]
    assert network["gflop_search"] == pytest.approx(2 * weights * network["voxels"] / 1e9)
    # at half size an eighth of it, about, and what lies around each of the likeliest marks
    assert network["gflop"] > 1.05 * network["gflop_search"]
    assert network["share_of_peak"] == pytest.approx(network["gflops"] / network["matrix_peak_gflops"])


def test_the_other_detector_s_process_is_set_against_ours(figures: dict) -> None:
    whole = next(s for s in figures["stages"] if s["stage"] == "whole process")["seconds"]["median"]
    other = figures["monai"]
    assert other["ratio"] == pytest.approx(other["seconds"] / whole)
    assert other["peak_mb"] > 0


def test_processes_report_a_plausible_memory_peak(figures: dict) -> None:
    """A helper process starts them, so that the peak is their own and not the benchmark's."""
    peaks = {s["stage"]: s["peak_mb"] for s in figures["stages"] if "peak_mb" in s}
    assert 5 < peaks["--help"] < peaks["whole process"] < 4000
