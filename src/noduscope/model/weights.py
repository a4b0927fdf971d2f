"""Keeping a network's weights so that a reader never meets half of them."""

from __future__ import annotations

from pathlib import Path

import keras


def keep_weights(model: keras.Model, path: Path) -> None:
    """Write ``….weights.h5`` under a temporary name, then rename it."""
    temporary = path.with_name(f"tmp.{path.name}")  # Keras wants the ending
    model.save_weights(temporary)
    temporary.replace(path)
