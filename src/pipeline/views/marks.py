"""Drawing primitives: controls, baselines, bands, and non-overlapping labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pipeline.measures.bands import Band, band_over
from pipeline.measures.statistics import FEWEST
from pipeline.views.selection import CONTROLS

GREY = "#6b6b6b"
RING: dict[str, Any] = {"mfc": "none", "mew": 1.6, "color": "black", "lw": 0}
"""Style of a circle around a point that stands out."""
MARKERS = dict(zip(CONTROLS, ["^", "s", "o", "D", "v", "P"], strict=True))


def draw_reference(axes: Axes, estimate: pd.Series, colour: str) -> None:
    """Draw a dashed line at a mean, over the whole width, with its interval as a faint strip."""
    axes.axhspan(estimate["low"], estimate["high"], color=colour, alpha=0.09, lw=0)
    axes.axhline(estimate["mean"], color=colour, lw=1.5, ls=(0, (5, 3)), alpha=0.9)


def draw_band(
    axes: Axes,
    layers: Sequence[int | float],
    band: Band,
    colour: str,
    *,
    within: tuple[float, float] | None,
) -> None:
    """Draw a band around a curve, clipped to the range of possible values, if there is one."""
    low, high = (np.clip(edge, *(within or (None, None))) for edge in (band.low, band.high))
    axes.fill_between(layers, low, high, color=colour, alpha=0.22, lw=0)


def bands_in_words(bands: Sequence[Band], cluster: str, x: str = "layer") -> str:
    """State for a caption what the bands of a figure's curves over the axis x are."""
    each = x.replace("_", " ")
    every = each if each.endswith("s") else f"{each}s"
    pointwise = np.concatenate([band.pointwise for band in bands]) if bands else np.array([])
    few = f"fewer than {FEWEST} {cluster}s are scored, or few of them decide the mean"
    if not pointwise.any():
        return f"bands: 95 %, simultaneous over {every}"
    if pointwise.all():
        return f"bands: 95 % at each {each} by itself, as {few}"
    return f"bands: 95 %, simultaneous over {every}, but at each {each} by itself where {few}"


def draw_curve(
    axes: Axes,
    layers: Sequence[int | float],
    means: pd.Series,
    colour: str,
    label: str,
    *,
    ls: Any = "-",
) -> None:
    """Draw the main curve of a figure on top of everything else."""
    axes.plot(layers, means, color=colour, ls=ls, lw=2.4, marker=".", zorder=4, label=label)


def ring_setting(axes: Axes, fitted: pd.DataFrame, x: str, shift: float = 0) -> None:
    """Ring the point of the setting chosen on validation prompts, if it is in the table."""
    chosen = fitted[fitted["is_setting"].astype(bool)]
    if len(chosen):
        ring = axes.plot(chosen[x] + shift, chosen["mean"], marker="o", ms=12, zorder=6, **RING)
        # Whole at 0 and 100 % too.
        ring[0].set_clip_on(False)


def draw_spread(
    axes: Axes, rows: pd.DataFrame, x: str, column: str, colour: str, alpha: float = 0.35
) -> None:
    """Draw the central 95 % of a column's values at each value of x, if there are rows."""
    if rows.empty:
        return
    bounds = rows.groupby(x)[column].quantile([0.025, 0.975]).unstack()
    axes.fill_between(bounds.index, *bounds.to_numpy().T, color=colour, alpha=alpha, lw=0)


def draw_mean_curve(
    axes: Axes,
    scores: pd.DataFrame,
    layers: list[int],
    colour: str,
    label: str,
    *,
    cluster: str,
    seed: int,
    within: tuple[float, float] | None = None,
    bounded: bool = False,
    ls: Any = "-",
) -> Band:
    """Draw the mean of scores by layer with its band, and return the band; see `band_over`."""
    band = band_over(
        scores, "layer", layers, cluster=cluster, share=False, bounded=bounded, seed=seed
    )
    draw_band(axes, layers, band, colour, within=within)
    draw_curve(axes, layers, pd.Series(band.mean), colour, label=label, ls=ls)
    return band


def draw_controls(
    axes: Axes,
    steered: pd.DataFrame,
    x: str,
    *,
    shift: float = 0,
    apart: float = 0.12,
    fill: str = "white",
) -> None:
    """Draw each control in `steered` against column `x` in grey: mean and range of its draws.

    Sources are offset along x by `apart`; their markers are filled with a colour.
    """
    sources = [source for source in MARKERS if (steered["source"] == source).any()]
    for number, source in enumerate(sources):
        rows, marker = steered[steered["source"] == source], MARKERS[source]
        draws = rows.groupby(x)["mean"].agg(["mean", "min", "max"])
        at = draws.index.to_numpy(dtype=float) + shift + (number - (len(sources) - 1) / 2) * apart
        style: dict[str, Any] = {"color": GREY, "alpha": 0.75, "lw": 1}
        axes.vlines(at, draws["min"], draws["max"], **style)
        step = -(-len(draws) // 16)
        axes.plot(at, draws["mean"], marker=marker, ms=4.5, mfc=fill, markevery=step, **style)


def draw_estimates(
    axes: Axes,
    estimates: pd.DataFrame,
    x: str,
    colour: str,
    shift: float,
    label: str,
    *,
    ls: Any = "-",
) -> None:
    """Draw means against column `x` as a line with error bars."""
    at = estimates[x] + shift
    axes.vlines(at, estimates["low"].astype(float), estimates["high"].astype(float), color=colour)
    line: dict[str, Any] = {"color": colour, "ls": ls, "marker": "o", "ms": 6, "lw": 2}
    axes.plot(at, estimates["mean"], zorder=4, label=label, **line)


def draw_clusters(axes: Axes, means: pd.DataFrame, colour: str, shift: float) -> None:
    """Draw a faint dot for every cluster (rows) and value of x (columns)."""
    for x, column in means.items():
        axes.scatter(np.full(len(column), x) + shift, column, s=14, color=colour, alpha=0.28, lw=0)


def draw_columns(axes: Axes, names: list[str]) -> None:
    """Draw named columns of width 1 at 0, 1, ... for a categorical x axis."""
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    for column in range(0, len(names), 2):
        axes.axvspan(column - 0.5, column + 0.5, color="#f3f3f3", lw=0, zorder=0)


def setting_key() -> dict[str, Line2D]:
    """Create the legend entry of `ring_setting`."""
    return {"the setting chosen": legend_key(marker="o", ms=12, **RING)}


def legend_key(**style: Any) -> Line2D:
    """Create a line for a legend only."""
    return Line2D([], [], **{"color": GREY, "lw": 1.5, **style})


def control_keys(steered: pd.DataFrame) -> dict[str, Line2D]:
    """Create legend entries of the controls in `steered`."""
    return {
        f"control: {name}": legend_key(lw=1, marker=MARKERS[source], mfc="white", ms=5)
        for source, name in CONTROLS.items()
        if (steered["source"] == source).any()
    }


def label_at_right(axes: Axes, texts: list[str], heights: list[float], gap: float) -> None:
    """Write texts right of the axes at their heights, moved up if closer than `gap`.

    `gap` is a share of the axis.
    """
    bottom, top = axes.get_ylim()
    lowest = -np.inf
    for height, text in sorted(zip(heights, texts, strict=True)):
        height_share = max((height - bottom) / (top - bottom), lowest + gap)
        lowest = height_share
        at = (1.015, height_share)
        style: dict[str, Any] = {"va": "center", "fontsize": 11, "color": "#333333"}
        axes.annotate(text, at, xycoords="axes fraction", **style)
