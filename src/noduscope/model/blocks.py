"""Building blocks of the networks, in 2D or 3D as their input is. Keras layers only, so that any backend runs them."""

from __future__ import annotations

from typing import Any

from keras import layers

_CONVOLUTION = {2: layers.Conv2D, 3: layers.Conv3D}


def conv_bn_relu(x: Any, filters: int, name: str, *, kernel: int = 3, strides: int = 1, relu: bool = True) -> Any:
    """Convolution, batch normalisation (folded away at export) and ReLU on ``(batch, [z,] y, x, channels)``."""
    convolution = _CONVOLUTION[len(x.shape) - 2]
    x = convolution(filters, kernel, strides, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = layers.BatchNormalization(momentum=0.98, epsilon=1e-4, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def residual(x: Any, filters: int, name: str) -> Any:
    """Two convolutions beside an identity (He et al. 2016, basic block)."""
    y = conv_bn_relu(x, filters, f"{name}_a")
    y = conv_bn_relu(y, filters, f"{name}_b", relu=False)
    return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))
