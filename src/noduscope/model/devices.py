"""Which number format and which devices a training uses, on whatever machine it finds itself."""

from __future__ import annotations

import logging

import keras
import openvino as ov

from noduscope.errors import SettingsError

log = logging.getLogger(__name__)

AUTO = "auto"
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_BFLOAT16_SINCE = 8.0
"""CUDA compute capability from which GPUs multiply bfloat16 natively (Ampere)."""


def choose_precision(wanted: str) -> str:
    """The Keras dtype policy to train with; ``auto`` takes the mixed one that the machine is fast in.

    Weights are float32 with every policy. bfloat16 has float32's range, so it is preferred where there are
    units for it; float16 needs Keras to scale the loss, which it does by itself.

    Raises
    ------
    SettingsError
        For a policy that is none.
    """
    if wanted != AUTO:
        if wanted not in POLICIES:
            raise SettingsError(f"train_detector.precision must be {AUTO}, {', '.join(POLICIES)}; got {wanted!r}")
        return wanted
    gpus = _gpu_capabilities()
    if gpus:
        return "mixed_bfloat16" if min(gpus) >= _BFLOAT16_SINCE else "mixed_float16"
    # of the backends only TensorFlow gains by bfloat16 on a processor
    native = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "mixed_bfloat16" if native and keras.config.backend() == "tensorflow" else "float32"


def use_all_devices(batch_size: int) -> int:
    """Spread each batch over all devices, as far as the backend can; how many are used.

    Keras distributes on JAX; on TensorFlow one GPU is used, and the log says so.

    Raises
    ------
    SettingsError
        When the batch cannot be divided among the devices.
    """
    if keras.config.backend() != "jax":
        count = len(_gpu_capabilities())
        if count > 1:
            log.warning("one of %d GPUs is used; with KERAS_BACKEND=jax all are", count)
        return 1
    count = len(keras.distribution.list_devices())
    if batch_size % count:
        raise SettingsError(f"{count} devices cannot share a batch of {batch_size}; set train_detector.batch_size")
    if count > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    return count


def _gpu_capabilities() -> list[float]:
    """CUDA compute capability of each GPU that the backend sees."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(g).get("compute_capability", (0, 0)) for g in gpus]
        return [float(f"{major}.{minor}") for major, minor in details]
    if keras.config.backend() == "jax":
        import jax  # noqa: PLC0415

        return [float(d.compute_capability) for d in jax.devices() if d.platform == "gpu"]
    return []
