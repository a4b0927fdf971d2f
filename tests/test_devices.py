"""Number formats and devices of a training: which are chosen, and that mixed precision leaves float32 weights."""

from __future__ import annotations

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")

from noduscope.boxes import TARGET_CHANNELS  # noqa: E402
from noduscope.errors import SettingsError  # noqa: E402
from noduscope.model import devices  # noqa: E402
from noduscope.model.detector import build_detector, detector_loss  # noqa: E402
from noduscope.model.devices import choose_precision, use_all_devices  # noqa: E402
from noduscope.model.engine import Engine  # noqa: E402
from noduscope.model.ir import to_openvino  # noqa: E402
from noduscope.settings import DetectorSettings  # noqa: E402

SMALL = DetectorSettings(stem_filters=4, filters=(6, 8), blocks=(1, 1), dropout=0.0)


class Processor:
    """An OpenVINO core on a processor with or without units for bfloat16."""

    def __init__(self, *formats: str) -> None:
        self.formats = formats

    def get_property(self, device: str, name: str) -> tuple[str, ...]:
        return self.formats


@pytest.mark.parametrize(
    ("gpus", "processor", "expected"),
    [
        ([8.0, 9.0], (), "mixed_bfloat16"),
        ([9.0, 7.5], ("BF16",), "mixed_float16"),  # one of them is too old
        ([], ("FP32", "BF16"), "mixed_bfloat16"),
        ([], ("FP32", "INT8"), "float32"),
    ],
)
def test_auto_takes_what_the_machine_has_units_for(monkeypatch, gpus, processor, expected):
    monkeypatch.setattr(devices, "_gpu_capabilities", lambda: gpus)
    monkeypatch.setattr(devices.ov, "Core", lambda: Processor(*processor))
    assert choose_precision("auto") == expected


def test_a_given_precision_is_taken_and_a_wrong_one_refused():
    assert choose_precision("mixed_float16") == "mixed_float16"
    with pytest.raises(SettingsError, match="float32, mixed_bfloat16, mixed_float16"):
        choose_precision("float64")


class Distribution:
    """What of Keras distribution is called."""

    def __init__(self, count: int) -> None:
        self.count, self.chosen = count, None

    def list_devices(self) -> list[str]:
        return [f"gpu:{i}" for i in range(self.count)]

    def DataParallel(self) -> str:
        return "data parallel"

    def set_distribution(self, chosen: str) -> None:
        self.chosen = chosen


@pytest.mark.parametrize(("count", "chosen"), [(1, None), (4, "data parallel")])
def test_on_jax_a_batch_is_spread_over_all_devices(monkeypatch, count: int, chosen: str | None):
    distribution = Distribution(count)
    monkeypatch.setattr(devices.keras.config, "backend", lambda: "jax")
    monkeypatch.setattr(devices.keras, "distribution", distribution)
    assert use_all_devices(8) == count
    assert distribution.chosen == chosen


def test_a_batch_that_the_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(devices.keras.config, "backend", lambda: "jax")
    monkeypatch.setattr(devices.keras, "distribution", Distribution(3))
    with pytest.raises(SettingsError, match="3 devices cannot share a batch of 8"):
        use_all_devices(8)


def test_on_tensorflow_one_gpu_is_used_and_the_log_says_how_to_use_all(monkeypatch, caplog):
    monkeypatch.setattr(devices.keras.config, "backend", lambda: "tensorflow")
    monkeypatch.setattr(devices, "_gpu_capabilities", lambda: [8.0, 8.0])
    assert use_all_devices(8) == 1
    assert "one of 2 GPUs" in caplog.text
    assert "KERAS_BACKEND=jax" in caplog.text


@pytest.mark.slow
def test_mixed_precision_trains_and_leaves_float32_weights_that_export():
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_detector(SMALL)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in model.layers} >= {"bfloat16", "float32"}
    model.compile("adam", loss=detector_loss, jit_compile=False)
    rng = np.random.default_rng(0)
    image = rng.random((2, 16, 16, 16, 1)).astype(np.float32)
    target = np.zeros((2, 4, 4, 4, TARGET_CHANNELS), np.float32)
    target[..., 1] = 1.0
    before = [np.array(w) for w in model.get_weights()]
    losses = [float(model.train_on_batch(image, target)) for _ in range(2)]
    assert np.isfinite(losses).all()
    after = model.get_weights()
    assert {str(w.dtype) for w in after} == {"float32"}
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    (cells,) = Engine(to_openvino(model))(image)
    # bfloat16 keeps eight bits of a number
    assert cells == pytest.approx(np.asarray(model(image, training=False), np.float32), abs=0.1)
