"""The exported graph computes what Keras computes, layer by layer; what it could not is refused."""

from __future__ import annotations

import os

import numpy as np
import openvino as ov
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")

from keras import layers  # noqa: E402

from noduscope.errors import ModelError  # noqa: E402
from noduscope.model.detector import build_detector  # noqa: E402
from noduscope.model.ir import to_openvino  # noqa: E402
from noduscope.settings import DetectorSettings  # noqa: E402


def stirred(model, seed: int = 0):
    """The model with every weight, also the normalisations' running ones, away from where it started."""
    rng = np.random.default_rng(seed)
    values = []
    for variable in model.variables:
        if "seed" in variable.path:
            values.append(np.asarray(keras.ops.convert_to_numpy(variable)))
            continue
        noise = rng.uniform(0.5, 1.5, variable.shape)
        spread = rng.normal(0, 0.15, variable.shape)
        values.append(noise if "variance" in variable.path or "gamma" in variable.path else spread)
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value.astype(variable.dtype))
    return model


def both(model, *shape: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Keras's outputs and OpenVINO's for one random input, in float32 on both sides."""
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    expected = model(image, training=False)
    expected = keras.tree.flatten(expected)
    # by itself OpenVINO takes bf16 where the processor has it; here the graph is compared, not the arithmetic
    compiled = ov.Core().compile_model(to_openvino(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled([image])
    return [keras.ops.convert_to_numpy(e) for e in expected], [answer[o] for o in compiled.outputs]


def assert_same(model, *shape: int) -> None:
    expected, made = both(model, *shape)
    assert len(expected) == len(made)
    for e, m in zip(expected, made, strict=True):
        assert m.shape == e.shape
        assert e.std() > 1e-3  # a constant would hide every mistake
        assert np.abs(m - e).max() <= 1e-4 * max(1.0, np.abs(e).max())


@pytest.mark.parametrize("shape", [(1, 16, 24, 32, 1), (2, 24, 16, 16, 1)])
def test_the_detector_is_the_same_in_both(shape):
    assert_same(stirred(build_detector(DetectorSettings(4, (6, 8), (1, 1)))), *shape)


def test_a_net_of_every_known_layer_in_three_dimensions():
    image = keras.Input((8, 12, 16, 2))
    x = layers.Conv3D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.BatchNormalization()(x)
    y = layers.Conv3D(4, 3, padding="same", dilation_rate=2, use_bias=False)(x)
    x = layers.Add()([x, y, layers.ReLU()(y)])
    x = layers.UpSampling3D((2, 1, 2))(layers.SpatialDropout3D(0.5)(x))
    x = layers.Concatenate()([x, layers.Conv3D(3, 1)(x)])
    x = layers.Conv3D(5, (2, 3, 1), padding="valid")(x)
    pooled = layers.Concatenate()([layers.GlobalAveragePooling3D()(x), layers.GlobalMaxPooling3D()(x)])
    score = layers.Dense(3, activation="sigmoid")(layers.Dropout(0.5)(layers.Dense(6, activation="relu")(pooled)))
    plain = layers.Dense(2, use_bias=False)(pooled)
    assert_same(stirred(keras.Model(image, [x, score, plain])), 2, 8, 12, 16, 2)


def test_a_net_of_every_known_layer_in_two_dimensions():
    image = keras.Input((12, 16, 1))
    x = layers.Conv2D(4, 4, strides=2, padding="same", activation="sigmoid")(image)
    x = layers.SpatialDropout2D(0.2)(layers.BatchNormalization()(x))
    x = layers.UpSampling2D(2)(x)
    mean, most = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
    assert_same(stirred(keras.Model(image, [x, layers.Add()([mean, most])])), 1, 12, 16, 1)


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("LeakyReLU", {}, "LeakyReLU"),
        ("Conv3D", {"filters": 2, "kernel_size": 1, "activation": "tanh"}, "activation tanh"),
        ("Conv3D", {"filters": 2, "kernel_size": 1, "groups": 2}, "groups = 2"),
        ("ReLU", {"max_value": 6.0}, "max_value"),
        ("ReLU", {"negative_slope": 0.1}, "negative_slope"),
        ("BatchNormalization", {"scale": False}, "scale = False"),
        ("BatchNormalization", {"axis": 2}, "axis = 2"),
        ("GlobalMaxPooling3D", {"keepdims": True}, "keepdims"),
        ("Concatenate", {"axis": 1}, "axis = 1"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(kind, options, named):
    image = keras.Input((4, 4, 4, 2))
    made = getattr(layers, kind)(**options)([image, image] if kind == "Concatenate" else image)
    with pytest.raises(ModelError, match=named):
        to_openvino(keras.Model(image, made))


def test_bilinear_upsampling_is_refused():
    image = keras.Input((4, 4, 2))
    with pytest.raises(ModelError, match="interpolation"):
        to_openvino(keras.Model(image, layers.UpSampling2D(2, interpolation="bilinear")(image)))
