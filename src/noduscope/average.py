"""The mean of several weights of one training: often better than each (Wortsman et al. 2022, "Model soups")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noduscope.errors import InputRefused, SettingsError
from noduscope.files import replace_text
from noduscope.finish import ORIGIN
from noduscope.model.detector import build_detector
from noduscope.model.weights import keep_weights
from noduscope.settings import load_settings, settings_to_toml


def average_weights(weights: Sequence[Path], settings: Path, out: Path) -> Path:
    """Make a run folder whose weights are the plain mean of the given ones; `finish_detector` takes it from there.

    Whether the mean is better is for the validation to say: the bundle's card holds its figures.

    Parameters
    ----------
    weights : ``.weights.h5`` files of one architecture, from runs that started from common weights.
    settings : ``settings.toml`` of their run.

    Raises
    ------
    InputRefused
        For fewer than two files, or one that is missing.
    SettingsError
        When `out` holds a run already.
    """
    missing = [str(w) for w in weights if not w.exists()]
    if missing or len(weights) < 2:
        raise InputRefused(f"averaging needs two or more weight files; missing: {', '.join(missing) or 'none'}")
    if (out / "settings.toml").exists():
        raise SettingsError(f"{out} holds a run already; give another folder")
    chosen = load_settings(settings)
    model = build_detector(chosen.detector)
    held = []
    for path in weights:
        model.load_weights(path)
        held.append(model.get_weights())
    model.set_weights([np.mean(layer, axis=0) for layer in zip(*held, strict=True)])
    out.mkdir(parents=True, exist_ok=True)
    keep_weights(model, out / "best.weights.h5")
    replace_text(out / ORIGIN, f"the mean of {len(weights)} weights of one training, chosen on validation")
    replace_text(out / "settings.toml", settings_to_toml(chosen))
    return out
