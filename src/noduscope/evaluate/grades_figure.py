"""The pictures of a grades evaluation and the page that shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from noduscope.evaluate.grades_summary import Evaluation
from noduscope.evaluate.scores import Floats, Ranking, percentile_interval

Curves = Mapping[str, tuple[Floats, Floats, Floats]]

# colours that stay apart for colour-blind readers (Okabe & Ito 2008)
_STYLE: dict[str, dict[str, Any]] = {
    "model": {"color": "#0072B2", "lw": 2.2, "label": "model", "zorder": 3},
    "size_only": {"color": "#E69F00", "lw": 1.6, "label": "size only"},
    "brock": {"color": "#009E73", "lw": 1.6, "label": "Brock"},
    "treat_all": {"color": "#777777", "lw": 1.2, "ls": "--", "label": "act on all"},
}
_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall (sensitivity)",
    "specificity": "specificity",
    "f1": "F1",
    "auc": "AUC",
    "average_precision": "average precision",
    "brier": "Brier score (lower is better)",
    "ece": "calibration error, ECE (lower is better)",
}
_GRADES = {
    "model": "model",
    "size_only": "size only",
    "brock": "Brock",
    "majority": "majority",
    "diameter": "diameter itself",
}


def draw_grades(evaluation: Evaluation, metrics: dict[str, Any], curves: Curves) -> dict[str, bytes]:
    """PNG bytes by file name: ROC, reliability diagram, decision curve, confusion matrices."""
    return {
        "roc.png": _png(_roc, 1, evaluation),
        "reliability.png": _png(_reliability, 1, metrics),
        "decision_curve.png": _png(_decision, 1, metrics, curves),
        "confusion.png": _png(_confusions, 3, metrics),
    }


def page(metrics: dict[str, Any], pictures: Mapping[str, bytes]) -> bytes:
    """One self-contained HTML page."""
    text = resources.files("noduscope.evaluate").joinpath("grades_page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["estimate"] = _estimate
    encoded = {name.removesuffix(".png"): base64.b64encode(data).decode() for name, data in pictures.items()}
    return environment.from_string(text).render(m=metrics, images=encoded, names=_NAMES, grades=_GRADES).encode()


def _estimate(found: dict[str, float | None], digits: int = 3) -> str:
    """``0.912 (0.880-0.941)``; a dash where the value is not defined."""
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:.{digits}f}"
    between = "–" if low >= 0 else " to "
    return f"{value:.{digits}f} ({low:.{digits}f}{between}{high:.{digits}f})"


def _png(draw: Any, panels: int, *content: Any) -> bytes:
    figure = Figure(figsize=(5.0 * panels if panels == 1 else 3.6 * panels, 4.6 if panels == 1 else 3.6), dpi=130)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(axes if panels > 1 else axes[0], *content)
    buffer = io.BytesIO()
    # without the software's name the same result gives the same bytes
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _tidy(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _roc(axes: Axes, evaluation: Evaluation) -> None:
    grid = np.linspace(0, 1, 201)
    labels = evaluation.labels
    one = np.ones((1, len(labels)))
    for name, style in _STYLE.items():
        if name not in evaluation.graded:
            continue
        ranking = Ranking.of(labels, evaluation.graded[name].probabilities)
        tp, fp = (np.r_[0.0, counts[0]] for counts in ranking.counts(one))
        label = f"{style['label']}, AUC {ranking.auc(one)[0]:.3f}"
        axes.plot(fp / fp[-1], tp / tp[-1], **(style | {"label": label}))
        if name == "model":
            low, high = percentile_interval(evaluation.bootstrap.replicates_of(ranking.sensitivity_at(grid)))
            axes.fill_between(grid, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.plot([0, 1], [0, 1], color="#aaaaaa", lw=1, ls=":")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _tidy(axes, "1 - specificity", "sensitivity")
    axes.legend(loc="lower right", frameon=False)


def _reliability(axes: Axes, metrics: dict[str, Any]) -> None:
    bins = metrics["reliability"]
    predicted = [b["predicted"] for b in bins]
    observed = np.array([b["observed"]["value"] for b in bins])
    low = np.array([b["observed"]["low"] if b["observed"]["low"] is not None else np.nan for b in bins])
    high = np.array([b["observed"]["high"] if b["observed"]["high"] is not None else np.nan for b in bins])
    total = max(b["n"] for b in bins)
    for b in bins:
        # the share of cases, as a low skyline under the diagram
        axes.bar(
            (b["lower"] + b["upper"]) / 2,
            0.18 * b["n"] / total,
            width=0.92 * (b["upper"] - b["lower"]),
            color="#bbbbbb",
            alpha=0.5,
            lw=0,
        )
    axes.plot([0, 1], [0, 1], color="#aaaaaa", lw=1, ls=":")
    bars = np.clip([observed - low, high - observed], 0, None)
    axes.errorbar(predicted, observed, yerr=bars, fmt="o-", color="#0072B2", ms=5, lw=1.4, capsize=2.5)
    ece, brier = metrics["metrics"]["ece"], metrics["metrics"]["brier"]
    axes.text(0.03, 0.97, f"ECE {_estimate(ece)}\nBrier {_estimate(brier)}", transform=axes.transAxes, va="top")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    _tidy(axes, "mean predicted probability", "share malignant")


def _decision(axes: Axes, metrics: dict[str, Any], curves: Curves) -> None:
    prevalence = metrics["malignant"] / metrics["n"]
    for name, style in _STYLE.items():
        if name not in curves:
            continue
        value, low, high = curves[name]
        thresholds = np.arange(1, len(value) + 1) / 100
        axes.plot(thresholds, value, **style)
        if name == "model":
            axes.fill_between(thresholds, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.axhline(0, color="#777777", lw=1.2, ls=":", label="act on none")
    axes.set(xlim=(0, 1), ylim=(-0.15 * prevalence, 1.1 * prevalence))
    _tidy(axes, "probability from which one would act", "net benefit")
    axes.legend(loc="upper right", frameon=False)


def _confusions(axes: Any, metrics: dict[str, Any]) -> None:
    for axis, (name, point) in zip(axes, metrics["operating_points"].items(), strict=True):
        cells = point["confusion"]
        matrix = np.array([[cells["tn"], cells["fp"]], [cells["fn"], cells["tp"]]], dtype=float)
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(matrix):
            colour = "white" if share[row, column] > 0.55 else "black"
            text = f"{count:.0f}\n{share[row, column]:.0%}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=11)
        thresholds = point["thresholds"]
        span = f"{thresholds[0]:.2f}" if len(thresholds) == 1 else f"{min(thresholds):.2f} to {max(thresholds):.2f}"
        title = {"given": "given threshold", "validation": "chosen threshold"}.get(name, name.replace("_", " ") + " %")
        axis.set_title(f"{title}\n{span}", fontsize=10)
        axis.set_xticks([0, 1], ["benign", "malignant"])
        axis.set_yticks([0, 1], ["benign", "malignant"], rotation=90, va="center")
        axis.set_xlabel("called")
    axes[0].set_ylabel("is")
