"""The FROC curve as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from noduscope.evaluate.froc import RATES
from noduscope.evaluate.matching import Floats

_TICKS = ("1/8", "1/4", "1/2", "1", "2", "4", "8")
_BLUE = "#1f5fa8"


@dataclass(frozen=True, slots=True, eq=False)
class FrocPicture:
    """What the picture shows.

    Parameters
    ----------
    rates, sensitivity : the curve, shape (k,), false positives per scan and share found.
    low, high : its band, shape (k,); NaN where there is none.
    points : sensitivity at `RATES`, shape (7,).
    title, note : a line above, and a line below the axes.
    """

    rates: Floats
    sensitivity: Floats
    low: Floats
    high: Floats
    points: Floats
    title: str
    note: str


def draw_froc(picture: FrocPicture, path: Path) -> None:
    """Write the curve, its band and the seven CPM points as PNG."""
    # imported here and without pyplot: half a second that only a picture costs, and no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7.2, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(picture.rates, picture.low, picture.high, color=_BLUE, alpha=0.15, lw=0, label="95 % interval")
    axes.plot(picture.rates, picture.sensitivity, color=_BLUE, lw=2, label="sensitivity")
    axes.plot(RATES, picture.points, "o", color=_BLUE, ms=6, clip_on=False, zorder=3, label="the seven CPM points")
    for rate, value in zip(RATES, picture.points, strict=True):
        if isfinite(value):
            # below the curve, where a rising line leaves room; above it near the floor
            up = value < 0.12
            place = (0, 9) if up else (7, -13)
            axes.annotate(f"{value:.3f}", (rate, value), place, textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xlim(RATES[0] / 1.12, RATES[-1] * 1.12)
    axes.set_xticks(RATES, _TICKS)
    axes.minorticks_off()
    axes.set_ylim(0, 1.02)
    axes.set_yticks([i / 10 for i in range(11)])
    axes.grid(color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("false positives per scan")
    axes.set_ylabel("sensitivity")
    axes.set_title(picture.title, loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    figure.supxlabel(picture.note, x=0.01, ha="left", fontsize=8, color="#555555")
    figure.savefig(path, format="png", metadata={"Software": None})
