"""Building blocks of the networks, in 2D or 3D as their input is. Keras layers only, so that any backend runs them."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

_CONVOLUTION = {2: layers.Conv2D, 3: layers.Conv3D}


def conv_bn_relu(x: Any, filters: int, name: str, *, kernel: int = 3, strides: int = 1, relu: bool = True) -> Any:
    """Convolution, batch normalisation (folded away at export) and ReLU on ``(batch, [z,] y, x, channels)``."""
    convolution = _CONVOLUTION[len(x.shape) - 2]
    x = convolution(filters, kernel, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.98, epsilon=1e-4, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


class InsideMean(layers.Layer):  # type: ignore[misc]
    """Mean of features where a weight says so, and the logarithm of how much of the plane that is.

    Takes features ``(batch, y, x, channels)`` and weights ``(batch, y, x, 1)`` in 0…1; answers
    ``(batch, channels + 1)``.
    """

    LEAST = 1e-3
    """Added to the mean weight: nothing is divided by zero where the plane holds no nodule."""

    def call(self, inputs: Any) -> Any:
        """Weighted mean over the plane."""
        features, weight = inputs
        share = ops.mean(weight, axis=(1, 2)) + self.LEAST
        inside = ops.mean(features * weight, axis=(1, 2)) / share
        return ops.concatenate([inside, ops.log(share)], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Channels and one more."""
        return (input_shape[0][0], input_shape[0][-1] + 1)


def residual(x: Any, filters: int, name: str) -> Any:
    """Two convolutions beside an identity (He et al. 2016, basic block)."""
    y = conv_bn_relu(x, filters, f"{name}_a")
    y = conv_bn_relu(y, filters, f"{name}_b", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))
