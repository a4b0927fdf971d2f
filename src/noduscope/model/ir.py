"""From a Keras model to OpenVINO: layer by layer, on any Keras backend, without TensorFlow.

Only the few layer types that our networks use are known; any other is an error. Batch
normalisation is folded into the convolution before it, dropout disappears.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
from keras import layers
from openvino import opset13 as ops

from noduscope.errors import ModelError
from noduscope.model.blocks import InsideMean


def to_openvino(model: Any) -> ov.Model:
    """An OpenVINO model with the same weights and channel order (channels last outside, first inside).

    Parameters
    ----------
    model : a functional Keras model of one input ``(batch, z, y, x, channels)`` and any number of outputs.

    Raises
    ------
    ModelError
        When it holds a layer that is not known here.
    """
    made: dict[str, Any] = {}
    (image,) = model.inputs
    parameter = ops.parameter([-1, *[-1 if n is None else n for n in image.shape[1:]]], np.float32, name="ct")
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            made[layer.output.name] = _channels_first(parameter, len(image.shape))
            continue
        arguments = layer.input if isinstance(layer.input, list) else [layer.input]
        made[layer.output.name] = _node(layer, [made[a.name] for a in arguments])
    results = [_channels_last(made[o.name], len(o.shape)) for o in model.outputs]
    return ov.Model(results, [parameter], model.name)


def _channels_first(node: Any, rank: int) -> Any:
    return ops.transpose(node, np.array([0, rank - 1, *range(1, rank - 1)]))


def _channels_last(node: Any, rank: int) -> Any:
    if rank < 3:
        return node
    return ops.transpose(node, np.array([0, *range(2, rank), 1]))


def _node(layer: Any, inputs: list[Any]) -> Any:
    """The OpenVINO node of one layer."""
    what = f"layer {layer.name} ({type(layer).__name__})"
    build = next((b for kind, b in _BUILDERS.items() if isinstance(layer, kind)), None)
    if build is None:
        raise ModelError(f"{what} cannot be exported")
    for option, expected in _EXPECTED.items():
        if getattr(layer, option, expected) != expected:
            raise ModelError(f"{what}: {option} = {getattr(layer, option)!r} cannot be exported")
    return build(layer, inputs)


def _array(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    from keras import ops as keras_ops  # noqa: PLC0415

    return np.asarray(keras_ops.convert_to_numpy(value), dtype=np.float32)


def _conv(layer: Any, inputs: list[Any]) -> Any:
    kernel = _array(layer.kernel)
    spatial = kernel.ndim - 2
    weights = np.ascontiguousarray(kernel.transpose(spatial + 1, spatial, *range(spatial)))
    pads = [0] * spatial
    node = ops.convolution(
        inputs[0], weights, list(layer.strides), pads, pads, list(layer.dilation_rate),
        "same_upper" if layer.padding == "same" else "valid",
    )  # fmt: skip
    if layer.use_bias:
        node = ops.add(node, _array(layer.bias).reshape(1, -1, *[1] * spatial))
    return _activated(layer, node)


def _dense(layer: Any, inputs: list[Any]) -> Any:
    node = ops.matmul(inputs[0], _array(layer.kernel), False, False)
    return _activated(layer, ops.add(node, _array(layer.bias)[None]) if layer.use_bias else node)


def _activated(layer: Any, node: Any) -> Any:
    name = layer.activation.__name__
    known: dict[str, Callable[[Any], Any]] = {"linear": lambda n: n, "relu": ops.relu, "sigmoid": ops.sigmoid}
    if name not in known:
        raise ModelError(f"layer {layer.name}: activation {name} cannot be exported")
    return known[name](node)


def _batch_norm(layer: Any, inputs: list[Any]) -> Any:
    scale = _array(layer.gamma) / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    shift = _array(layer.beta) - _array(layer.moving_mean) * scale
    shape = (1, -1, *[1] * (len(layer.output.shape) - 2))
    return ops.add(ops.multiply(inputs[0], scale.reshape(shape)), shift.reshape(shape))


def _add(layer: Any, inputs: list[Any]) -> Any:
    node = inputs[0]
    for other in inputs[1:]:
        node = ops.add(node, other)
    return node


def _upsampling(layer: Any, inputs: list[Any]) -> Any:
    scales = np.array(layer.size, dtype=np.float32)
    axes = np.arange(2, 2 + len(scales))
    return ops.interpolate(
        inputs[0], scales, "nearest", "scales", axes=axes,
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip


def _mean(layer: Any, inputs: list[Any]) -> Any:
    return ops.reduce_mean(inputs[0], np.arange(2, len(layer.input.shape)), False)


def _max(layer: Any, inputs: list[Any]) -> Any:
    return ops.reduce_max(inputs[0], np.arange(2, len(layer.input.shape)), False)


def _inside_mean(layer: Any, inputs: list[Any]) -> Any:
    features, weight = inputs
    axes = np.array([2, 3])
    share = ops.add(ops.reduce_mean(weight, axes, False), np.float32(layer.LEAST))
    inside = ops.divide(ops.reduce_mean(ops.multiply(features, weight), axes, False), share)
    return ops.concat([inside, ops.log(share)], 1)


_EXPECTED: dict[str, Any] = {
    "axis": -1,
    "center": True,
    "data_format": "channels_last",
    "groups": 1,
    "interpolation": "nearest",
    "keepdims": False,
    "max_value": None,
    "negative_slope": 0.0,
    "scale": True,
    "threshold": 0.0,
}
"""Options whose other values would change what a layer computes, and what the builders below take them to be."""

_BUILDERS: dict[Any, Callable[[Any, list[Any]], Any]] = {
    (layers.Conv3D, layers.Conv2D): _conv,
    layers.BatchNormalization: _batch_norm,
    layers.ReLU: lambda _, inputs: ops.relu(inputs[0]),
    layers.Add: _add,
    layers.Concatenate: lambda _, inputs: ops.concat(inputs, 1),
    (layers.UpSampling3D, layers.UpSampling2D): _upsampling,
    (layers.SpatialDropout3D, layers.SpatialDropout2D, layers.Dropout): lambda _, inputs: inputs[0],
    (layers.GlobalAveragePooling3D, layers.GlobalAveragePooling2D): _mean,
    (layers.GlobalMaxPooling3D, layers.GlobalMaxPooling2D): _max,
    layers.Dense: _dense,
    InsideMean: _inside_mean,
}
