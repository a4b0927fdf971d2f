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
    ``(batch, members · heads.channels)`` and ``mask`` ``(batch, y/2, x/2, members · 4)``, both logits, one member's
    after the other's.
    """
    edge = settings.view_voxels
    image = keras.Input((edge, edge, VIEW_CHANNELS), name="views")
    answers = [_member(image, settings, f"member{i}_") for i in range(settings.members)]
    grade, mask = (
        answer[0] if len(answer) == 1 else layers.Concatenate(name=name)(list(answer))
        for name, answer in zip(("grade", "mask"), zip(*answers, strict=True), strict=True)
    )
    return keras.Model(image, {"grade": grade, "mask": mask}, name="grader")


def _member(image: Any, settings: GraderSettings, name: str) -> tuple[Any, Any]:
    """Grade and mask of one trunk; `name` begins its layers' names."""
    fine, middle, coarse = settings.filters
    x = conv_bn_relu(image, fine, f"{name}stem", kernel=4, strides=2)
    x = half = residual(x, fine, f"{name}s2")
    x = conv_bn_relu(x, middle, f"{name}s4_in", strides=2)
    for i in range(settings.blocks):
        x = residual(x, middle, f"{name}s4_{i}")
    quarter = x
    x = conv_bn_relu(x, coarse, f"{name}s8_in", strides=2)
    for i in range(settings.blocks):
        x = residual(x, coarse, f"{name}s8_{i}")
    mask, joined = _mask_head(x, quarter, half, name)
    inside = layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}inside")(mask)
    pooled = [
        layers.GlobalAveragePooling2D(name=f"{name}mean")(x),
        layers.GlobalMaxPooling2D(name=f"{name}max")(x),
        InsideMean(name=f"{name}mean_inside")([layers.Concatenate(name=f"{name}fine")([half, joined]), inside]),
    ]
    v = layers.Concatenate(name=f"{name}features")(pooled)
    v = layers.Dropout(settings.dropout, name=f"{name}dropout_features")(v)
    v = layers.Dense(settings.dense, activation="relu", name=f"{name}dense")(v)
    v = layers.Dropout(settings.dropout, name=f"{name}dropout")(v)
    return layers.Dense(channels(settings.opinions), name=f"{name}grade", dtype="float32")(v), mask


def _mask_head(x: Any, quarter: Any, half: Any, name: str) -> tuple[Any, Any]:
    """The top-down path: features of strides 8, 4 and 2 joined, one logit per pixel; and the joined features."""
    for stage, skip in ((f"{name}quarter", quarter), (f"{name}half", half)):
        filters = skip.shape[-1]
        x = layers.UpSampling2D(2, name=f"{stage}_up")(conv_bn_relu(x, filters, f"{stage}_lateral", kernel=1))
        x = conv_bn_relu(layers.Add(name=f"{stage}_join")([x, skip]), filters, f"{stage}_smooth")
    return layers.Conv2D(SUBPIXELS, 1, name=f"{name}mask", dtype="float32")(x), x


def grade_loss(target: Any, logit: Any) -> Any:
    """Weighted binary cross-entropy with soft labels, added up over the members.

    Parameters
    ----------
    target : ``(batch, 2, heads)``: labels 0…1, then their weights; an unknown label has weight 0.
    logit : ``(batch, members · heads)``.
    """
    heads = target.shape[-1]
    logit = ops.reshape(logit, (-1, logit.shape[-1] // heads, heads))
    label, weight = target[:, :1], target[:, 1:]
    loss = ops.softplus(logit) - label * logit
    return ops.sum(weight * loss) / (ops.sum(weight) + 1.0) * _GRADE_WEIGHT


def mask_loss(target: Any, logit: Any) -> Any:
    """Cross-entropy plus soft Dice against the share of readers who outlined each pixel, added up over the members.

    Parameters
    ----------
    target : ``(batch, y/2, x/2, 4)``; below 0: unknown.
    logit : ``(batch, y/2, x/2, members · 4)``.
    """
    return sum(
        _member_mask_loss(target, logit[..., first : first + SUBPIXELS])
        for first in range(0, logit.shape[-1], SUBPIXELS)
    )


def _member_mask_loss(target: Any, logit: Any) -> Any:
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
