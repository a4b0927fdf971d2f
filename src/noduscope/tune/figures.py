"""Two pictures of a study: every trial as a line through its settings, and how much each setting matters."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from noduscope.tune.space import Parameter, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STOPPED = "0.8"  # grey


def parallel_picture(space: Space, trials: Sequence[FrozenTrial]) -> bytes:
    """PNG of parallel coordinates: finished trials coloured by their score, those stopped early in grey.

    Parameters
    ----------
    trials : at least one of them finished.
    """
    finished = sorted((t for t in trials if t.state == TrialState.COMPLETE), key=_score)
    low, high = _score(finished[0]), _score(finished[-1])
    figure = Figure(figsize=(2.5 + 1.7 * len(space.parameters), 4.4), layout="constrained")
    axes = figure.subplots()
    for t in trials:
        if t.state == TrialState.PRUNED:
            axes.plot(_heights(space, t), color=_STOPPED, lw=0.8)
    for t in finished:
        share = (_score(t) - low) / (high - low) if high > low else 1.0
        width = 3.0 if t is finished[-1] else 1.2
        axes.plot([*_heights(space, t), share], color=colormaps["viridis"](share), lw=width, alpha=0.9)
    for x, parameter in enumerate(space.parameters):
        _scale(axes, x, _marks(parameter))
    _scale(axes, len(space.parameters), {0.0: f"{low:.3f}", 1.0: f"{high:.3f}"} if high > low else {1.0: f"{high:.3f}"})
    names = [p.name.replace(".", ".\n") for p in space.parameters]
    axes.set_xticks(range(len(names) + 1), [*names, "score"])
    axes.set(yticks=[], ylim=(-0.1, 1.1), xlim=(-0.3, len(names) + 0.5))
    stopped = sum(t.state == TrialState.PRUNED for t in trials)
    axes.set_title(f"{len(finished)} trials finished, {stopped} stopped early (grey); the best is thick", fontsize=10)
    axes.spines[:].set_visible(False)
    return _png(figure)


def importance_picture(importance: Mapping[str, float]) -> bytes:
    """PNG of bars: each setting's share of the variance of the scores."""
    names = sorted(importance, key=lambda name: importance[name])
    figure = Figure(figsize=(6.5, 1.2 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, [importance[n] for n in names], color="tab:blue")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the scores' variance", xlim=(0, 1.08))
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _score(trial: FrozenTrial) -> float:
    return trial.value if trial.value is not None else float("-inf")


def _heights(space: Space, trial: FrozenTrial) -> list[float]:
    drawn = space.drawn(trial.params)
    return [p.share(drawn[p.name]) for p in space.parameters]


def _marks(parameter: Parameter) -> dict[float, str]:
    """What is written beside an axis: every value of a choice, the ends of a range."""
    if parameter.how != "choice":
        return {parameter.share(v): f"{v:.3g}" for v in parameter.values}
    return {parameter.share(v): _short(v) for v in parameter.values}


def _short(value: Any) -> str:
    return "–".join(str(v) for v in value) if isinstance(value, tuple) else str(value)


def _scale(axes: Axes, x: int, marks: Mapping[float, str]) -> None:
    axes.plot([x, x], [0, 1], color="black", lw=1, zorder=0)
    for y, text in marks.items():
        axes.text(
            x + 0.04, y, text, fontsize=8, va="center", bbox={"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8}
        )


def _png(figure: Figure) -> bytes:
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()
