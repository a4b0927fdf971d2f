"""Several graders as one network: their trunks side by side (deep ensembles: Lakshminarayanan et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from noduscope.errors import InputRefused, SettingsError
from noduscope.files import replace_text
from noduscope.finish import ORIGIN
from noduscope.heads import NODULE
from noduscope.model.bundle import load_bundle
from noduscope.model.grader import build_grader
from noduscope.model.weights import keep_weights
from noduscope.settings import Settings, load_settings, settings_to_toml
from noduscope.train_grader import WEIGHTS


@dataclass(frozen=True, slots=True)
class _Trained:
    """A trained grader: what it is called, its weights, and the settings that it was trained with."""

    name: str
    weights: Path
    settings: Settings

    @classmethod
    def read(cls, folder: Path) -> _Trained:
        """Of a training's run folder or of a bundle."""
        if not (folder / WEIGHTS).is_file():
            raise InputRefused(f"{folder} holds no {WEIGHTS}: give a grader's bundle or the folder of a finished run")
        if (folder / "manifest.json").is_file():
            return cls(folder.name, folder / WEIGHTS, load_bundle(folder).settings)
        return cls("a run", folder / WEIGHTS, load_settings(folder / "settings.toml"))

    def load(self) -> keras.Model:
        """The network."""
        model = build_grader(self.settings.grader)
        model.load_weights(self.weights)
        return model


def ensemble_graders(graders: Sequence[Path], out: Path) -> Path:
    """Make a finished run folder of one grader that has the trunks of several; `finish_grader` takes it from there.

    Its answers are the mean over all trunks, but for one: whether a candidate is a nodule the first grader alone says.
    Which network tells nodules best from what a detector marks wrongly is chosen on validation; the mean
    with one that was not chosen would undo that.

    Parameters
    ----------
    graders : bundles or run folders, of one architecture and one split.

    Returns
    -------
    `out`, with ``grader.weights.h5``, ``settings.toml`` (`GraderSettings.members` is the number of trunks), and
    where the weights come from.

    Raises
    ------
    InputRefused
        For fewer than two graders, or one without weights.
    SettingsError
        When they do not fit together, or `out` holds a run already.
    """
    if len(graders) < 2:
        raise InputRefused(f"two or more graders are needed; got {len(graders)}")
    if (out / "settings.toml").exists():
        raise SettingsError(f"{out} holds a run already; give another folder")
    parts = [_Trained.read(g) for g in graders]
    first = parts[0].settings
    for folder, part in zip(graders, parts, strict=True):
        same = replace(part.settings.grader, members=first.grader.members) == first.grader
        if not same or part.settings.split != first.split:
            raise SettingsError(f"{folder} has another architecture or split than {graders[0]}")
    members = sum(p.settings.grader.members for p in parts)
    settings = replace(first, grader=replace(first.grader, members=members))
    model = build_grader(settings.grader)
    trunks = [(own, i) for p in parts for own in [p.load()] for i in range(p.settings.grader.members)]
    for place, (own, i) in enumerate(trunks):
        copy_trunk(own, f"member{i}_", model, f"member{place}_")
        share = members / first.grader.members if place < first.grader.members else 0.0
        scale_nodule(model.get_layer(f"member{place}_grade"), share)
    out.mkdir(parents=True, exist_ok=True)
    keep_weights(model, out / WEIGHTS)
    names = " and ".join(f"{p.settings.grader.members} of {p.name}" for p in parts)
    replace_text(
        out / ORIGIN, f"{members} trunks side by side ({names}), nodule or not answered by those of the first alone"
    )
    replace_text(out / "settings.toml", settings_to_toml(settings))
    return out


def copy_trunk(source: keras.Model, own: str, target: keras.Model, new: str) -> None:
    """The weights of the layers whose names begin with `own` to those that begin with `new`."""
    for layer in source.layers:
        if layer.name.startswith(own) and layer.weights:
            target.get_layer(new + layer.name.removeprefix(own)).set_weights(layer.get_weights())


def scale_nodule(head: keras.layers.Dense, share: float) -> None:
    """Multiply a trunk's answer to nodule or not, so that the mean over all trunks holds this share of it."""
    kernel, bias = head.get_weights()
    kernel[:, NODULE] *= share
    bias[NODULE] *= share
    head.set_weights([kernel, bias])
