"""The grader: a 2D residual trunk on planes through a candidate, with heads for all that is said of a nodule.

What the outline head takes for the nodule is where the other heads look closest: the mean of the fine
features inside it tells what it is made of, and its area how large it is.

Why planes and not a cube: the labelled nodules are stacks of as many slices as their outlines span. A
cube of one would end where the nodule ends and give its size away; a plane that exists is complete.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from noduscope.heads import SUBPIXELS, channels
from noduscope.model.blocks import InsideMean, conv_bn_relu, residual
from noduscope.settings import GraderSettings

VIEW_CHANNELS = 4


def build_grader(settings: GraderSettings) -> keras.Model:
    """The untrained network.

    Input ``(batch, y, x, 4)`` of `noduscope.views.encode`, edges a multiple of 8; outputs ``grade``
    ``(batch, heads.channels)`` and ``mask`` ``(batch, y/2, x/2, 4)``, both logits.
    """
    fine, middle, coarse = settings.filters
    edge = settings.view_voxels
    image = keras.Input((edge, edge, VIEW_CHANNELS), name="views")
    x = conv_bn_relu(image, fine, "stem", kernel=4, strides=2)
    x = half = residual(x, fine, "s2")
    x = conv_bn_relu(x, middle, "s4_in", strides=2)
    for i in range(settings.blocks):
        x = residual(x, middle, f"s4_{i}")
    quarter = x
    x = conv_bn_relu(x, coarse, "s8_in", strides=2)
    for i in range(settings.blocks):
        x = residual(x, coarse, f"s8_{i}")
    mask, joined = _mask_head(x, quarter, half)
    inside = layers.Conv2D(1, 1, activation="sigmoid", name="inside")(mask)
    pooled = [
        layers.GlobalAveragePooling2D(name="mean")(x),
        layers.GlobalMaxPooling2D(name="max")(x),
        InsideMean(name="mean_inside")([layers.Concatenate(name="fine")([half, joined]), inside]),
    ]
    v = layers.Concatenate(name="features")(pooled)
    v = layers.Dropout(settings.dropout, name="dropout_features")(v)
    v = layers.Dense(settings.dense, activation="relu", name="dense")(v)
    v = layers.Dropout(settings.dropout, name="dropout")(v)
    grade = layers.Dense(channels(settings.opinions), name="grade", dtype="float32")(v)
    return keras.Model(image, {"grade": grade, "mask": mask}, name="grader")


def _mask_head(x: Any, quarter: Any, half: Any) -> tuple[Any, Any]:
    """The top-down path: features of strides 8, 4 and 2 joined, one logit per pixel; and the joined features."""
    for name, skip in (("quarter", quarter), ("half", half)):
        filters = skip.shape[-1]
        x = layers.UpSampling2D(2, name=f"up_{name}")(conv_bn_relu(x, filters, f"lateral_{name}", kernel=1))
        x = conv_bn_relu(layers.Add(name=f"join_{name}")([x, skip]), filters, f"smooth_{name}")
    return layers.Conv2D(SUBPIXELS, 1, name="mask", dtype="float32")(x), x


def grade_loss(target: Any, logit: Any) -> Any:
    """Weighted binary cross-entropy with soft labels.

    Parameters
    ----------
    target : ``(batch, 2, heads)``: labels 0…1, then their weights; an unknown label has weight 0.
    logit : ``(batch, heads)``.
    """
    label, weight = target[:, 0], target[:, 1]
    loss = ops.softplus(logit) - label * logit
    return ops.sum(weight * loss) / (ops.sum(weight) + 1.0) * _GRADE_WEIGHT


def mask_loss(target: Any, logit: Any) -> Any:
    """Cross-entropy plus soft Dice against the share of readers who outlined each pixel.

    Parameters
    ----------
    target, logit : ``(batch, y/2, x/2, 4)``; a target below 0 is unknown.
    """
    known = ops.cast(target >= 0, logit.dtype)
    label = ops.maximum(target, 0.0)
    entropy = ops.softplus(logit) - label * logit
    entropy = ops.sum(known * entropy) / (ops.sum(known) + 1.0)
    p = ops.sigmoid(logit) * known
    axes = (1, 2, 3)
    overlap, total = ops.sum(p * label, axes), ops.sum(p * p, axes) + ops.sum(label * label, axes)
    dice = (2 * overlap + 1) / (total + 1)
    seen = ops.cast(ops.sum(known, axes) > 0, logit.dtype)
    return _ENTROPY_WEIGHT * entropy + ops.sum(seen * (1 - dice)) / (ops.sum(seen) + 1.0)


_GRADE_WEIGHT = 4.0
_ENTROPY_WEIGHT = 4.0
