"""What our figures draw with: controls, baselines, bands, labels that keep their distance."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.measures.statistics import Band
from pipeline.views.selection import CONTROLS

GREY = "#6b6b6b"
MARKERS = dict(zip(CONTROLS, ["^", "s", "o"], strict=True))


def draw_reference(axes: Axes, estimate: pd.Series, colour: str) -> None:
    """A dashed line at a mean, over the whole width, with its interval as a faint strip."""
    axes.axhspan(estimate["low"], estimate["high"], color=colour, alpha=0.09, lw=0)
    axes.axhline(estimate["mean"], color=colour, lw=1.5, ls=(0, (5, 3)), alpha=0.9)


def draw_band(axes: Axes, layers: list[int], band: Band, colour: str) -> None:
    """A band over a curve."""
    axes.fill_between(layers, band.low, band.high, color=colour, alpha=0.22, lw=0)


def draw_curve(axes: Axes, layers: list[int], means: pd.Series, colour: str, label: str) -> None:
    """The means that a figure is about, over everything else."""
    axes.plot(layers, means, color=colour, lw=2.4, marker=".", zorder=4, label=label)


def draw_controls(axes: Axes, steered: pd.DataFrame, x: str, colour: str, shift: float = 0) -> None:
    """Every control in `steered` against column `x`: the mean and the range of its draws."""
    for number, (source, marker) in enumerate(MARKERS.items()):
        rows = steered[steered["source"] == source]
        if rows.empty:
            continue
        draws = rows.groupby(x)["mean"].agg(["mean", "min", "max"])
        step = np.diff(draws.index).min() if len(draws) > 1 else 1
        at = draws.index.to_numpy(dtype=float) + shift + (number - 1) * 0.12 * step
        style: dict[str, Any] = {"color": colour, "alpha": 0.6, "lw": 1}
        axes.vlines(at, draws["min"], draws["max"], **style)
        every = -(-len(draws) // 16)
        axes.plot(at, draws["mean"], marker=marker, ms=4.5, mfc="white", markevery=every, **style)


def draw_estimates(
    axes: Axes, estimates: pd.DataFrame, x: str, colour: str, shift: float, label: str
) -> None:
    """Means against column `x`, joined, with a bar for each interval."""
    at = estimates[x] + shift
    axes.vlines(at, estimates["low"].astype(float), estimates["high"].astype(float), color=colour)
    axes.plot(at, estimates["mean"], color=colour, marker="o", ms=6, lw=2, zorder=4, label=label)


def draw_clusters(axes: Axes, means: pd.DataFrame, colour: str, shift: float) -> None:
    """A faint dot for every cluster (rows) under every value of x (columns)."""
    for x, column in means.items():
        axes.scatter(np.full(len(column), x) + shift, column, s=14, color=colour, alpha=0.28, lw=0)


def legend_key(**style: Any) -> Line2D:
    """A line for a legend only."""
    return Line2D([], [], **{"color": GREY, "lw": 1.5, **style})


def control_keys(steered: pd.DataFrame) -> dict[str, Line2D]:
    """Legend entries of the controls in `steered`."""
    return {
        f"control: {name}": legend_key(lw=1, marker=MARKERS[source], mfc="white", ms=5)
        for source, name in CONTROLS.items()
        if (steered["source"] == source).any()
    }


def label_at_right(axes: Axes, texts: list[str], heights: list[float], gap: float) -> None:
    """Texts beside the right edge at their heights, moved up where two come closer than `gap`.

    `gap` is a share of the axis.
    """
    bottom, top = axes.get_ylim()
    lowest = -np.inf
    for height, text in sorted(zip(heights, texts, strict=True)):
        place = max((height - bottom) / (top - bottom), lowest + gap)
        lowest = place
        at = (1.015, place)
        style: dict[str, Any] = {"va": "center", "fontsize": 11, "color": "#333333"}
        axes.annotate(text, at, xycoords="axes fraction", **style)
