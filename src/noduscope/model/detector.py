"""The detector: a whole-volume, anchor-free, fully convolutional 3D network.

A stem brings the volume to stride 2 at once (most of the cost lies at full resolution, little of
the information does), residual stages follow at strides 4 and 8, and one top-down path joins them. The
answer lies on a grid of stride 4: heatmap, size and offset of `noduscope.boxes`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from noduscope.boxes import CHANNELS, HEAT, OFFSET, SIZE
from noduscope.model.blocks import conv_bn_relu, residual
from noduscope.settings import DetectorSettings

_PRIOR_LOGIT = -4.6  # one cell in a hundred, so that the first steps are not spent on the background
_ALPHA, _BETA = 2.0, 4.0  # Zhou et al. 2019, eq. 1
_REGRESSION_WEIGHT = 0.2


def build_detector(settings: DetectorSettings) -> keras.Model:
    """The untrained network.

    Input ``(batch, z, y, x, 1)`` in 0…1, edges a multiple of 8; output ``(batch, z/4, y/4, x/4, 5)``.
    """
    fine, coarse = settings.filters
    image = keras.Input((None, None, None, 1), name="ct")
    x = conv_bn_relu(image, settings.stem_filters, "stem", kernel=4, strides=2)
    x = conv_bn_relu(x, settings.stem_filters, "s2")
    x = conv_bn_relu(x, fine, "s4_in", strides=2)
    for i in range(settings.blocks[0]):
        x = residual(x, fine, f"s4_{i}")
    skip = x
    x = conv_bn_relu(x, coarse, "s8_in", strides=2)
    for i in range(settings.blocks[1]):
        x = residual(x, coarse, f"s8_{i}")
    x = conv_bn_relu(x, fine, "lateral", kernel=1)
    x = layers.Add(name="join")([skip, layers.UpSampling3D(2, name="up")(x)])
    x = conv_bn_relu(x, fine, "head")
    x = layers.SpatialDropout3D(settings.dropout, name="dropout")(x)
    output = layers.Conv3D(CHANNELS, 1, name="output", dtype="float32", bias_initializer=_prior())(x)
    return keras.Model(image, output, name="detector")


def _prior() -> Any:
    """Bias of the output: the prior logit for the heatmap, zero for the rest."""

    def init(shape: Any, dtype: Any = None) -> Any:
        return ops.concatenate([ops.full((1,), _PRIOR_LOGIT, dtype), ops.zeros((shape[0] - 1,), dtype)])

    return init


def detector_loss(target: Any, output: Any) -> Any:
    """Penalty-reduced focal loss on the heatmap plus L1 on size and offset, per nodule.

    Parameters
    ----------
    target : ``(batch, z, y, x, 7)`` of `boxes.encode`.
    output : ``(batch, z, y, x, 5)``.
    """
    heat, weight, regress = target[..., 0], target[..., 1], target[..., 2]
    logit = output[..., HEAT]
    p = ops.clip(ops.sigmoid(logit), 1e-6, 1 - 1e-6)
    positive = ops.cast(heat > 0.999, p.dtype)
    hit = positive * (1 - p) ** _ALPHA * -ops.log(p)
    miss = (1 - positive) * (1 - heat) ** _BETA * p**_ALPHA * -ops.log(1 - p)
    nodules = ops.maximum(ops.sum(positive * weight), 1.0)
    focal = ops.sum(weight * (hit + miss)) / nodules
    off_size = ops.abs(output[..., SIZE] - target[..., 3])
    off_place = ops.sum(ops.abs(output[..., OFFSET] - target[..., 4:7]), axis=-1)
    l1 = ops.sum(regress * (off_size + off_place)) / ops.maximum(ops.sum(regress), 1.0)
    return focal + _REGRESSION_WEIGHT * l1
