"""Curves of a score over one axis of a grid of conditions."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import AxisName
from pipeline.measures.bands import band_over
from pipeline.measures.contrasts import contrast
from pipeline.measures.statistics import estimate
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import GREY, draw_band, draw_curve, draw_reference, legend_key
from pipeline.views.panels import caption, legend, panels, percent_axis, styles_of
from pipeline.views.selection import fitted_of, label_of, select

_NAMES = {
    "top_k": "top-k",
    "top_p": "top-p",
    "times": "times that the end is replaced",
    "forced": "end replaced by",
}
_NO_LIMIT = {"top_k": (0, "all")}
"""Axes whose smallest number means no limit: its value, which is drawn last, and its name."""


def curves_by_axis(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arm: str,
    metric: str,
    x: AxisName,
    line: AxisName,
    panel: AxisName | None = None,
    split: str | None = "test",
) -> Figure:
    """Plot the mean score over an axis of an arm's conditions, a line for each value of another.

    Bands: 95 %, simultaneous over the values of `x`. The caption states the effect of each axis
    from its first to its last value, all other axes equal.

    Args:
        summary: means of conditions, with the metric's label.
        scores: of samples under conditions, with `role` and the axes as columns.
        cluster: the column whose values are resampled together.
        seed: of the bootstrap.
        arm: the arm of the conditions.
        metric: the metric of the scores.
        x: the horizontal axis, numeric.
        line: the axis of the lines.
        panel: the axis of the panels; None: one panel.
        split: of the dataset; None: all.

    Raises:
        ValueError: no such arm, metric, split or axis, or conditions that also differ in another
            axis.
    """
    means = select(summary, arm=arm, metric=metric)
    rows = select(scores, arm=arm, metric=metric)
    rows = rows if split is None else select(rows, split=split)
    axes_of_grid = [x, line, *([panel] if panel else [])]
    for name in axes_of_grid:
        if name not in rows:
            raise ValueError(f"no axis {name!r}; valid: {', '.join(rows)}")
    grid = fitted_of(rows)
    again = grid.duplicated([*axes_of_grid, "sample", "repeat"])
    if again.any():
        raise ValueError(
            f"conditions of arm {arm} agree in {', '.join(axes_of_grid)}; valid: one each"
        )
    percent, share = bool(means["percent"].iloc[0]), bool(means["share"].iloc[0])
    baseline = select(rows, role="baseline")
    limits: dict[str, Any] = {"within": (0.0, 1.0)} if percent else {}
    reference = estimate(
        baseline["score"], baseline[cluster], proportion=share, seed=seed, **limits
    )
    styles = styles_of(_values(grid, line))
    shown = _values(grid, panel) if panel else [None]
    with panels(len(shown)) as (figure, axes):
        for axis, value in zip(axes, shown, strict=True):
            cells = grid if panel is None else grid[grid[panel] == value]
            draw_reference(axis, pd.Series(vars(reference)), GREY)
            for level, style in styles.items():
                curve = cells[cells[line] == level]
                at = _values(curve, x)
                band = band_over(
                    curve, x, at, cluster=cluster, share=share, bounded=percent, seed=seed
                )
                colour, ls = style["color"], style["ls"]
                draw_band(axis, at, band, colour, within=(0.0, 1.0) if percent else None)
                draw_curve(axis, at, pd.Series(band.mean), colour, label=str(level), ls=ls)
            axis.set_xlabel(_axis(x))
            axis.set_xticks(_values(grid, x))
            if panel:
                axis.set_title(_named(panel, value))
        if percent:
            percent_axis(axes[0])
        axes[0].set_ylabel(label_of(means))
        keys = {_named(line, level): legend_key(lw=2.4, **style) for level, style in styles.items()}
        legend(figure, keys | {"baseline": legend_key(ls="--")})
        clusters = grid[cluster].nunique()
        per_mean = grid.groupby(axes_of_grid)["score"].agg(["count", "size"])
        repeats = grid["repeat"].nunique()
        n_unscored = (per_mean["size"] - per_mean["count"]).max()
        caption(
            figure,
            [
                f"{_splits(grid)}, n = {per_mean['count'].max()} completions per mean: {clusters}",
                f"{cluster}s, {repeats} completion{'s' if repeats > 1 else ''} of each prompt;",
                f"{f'up to {n_unscored}' if n_unscored else 'none'} unscored.",
                f"Bands: 95 % over {cluster}s, simultaneous over {_axis(x)}.",
                "Dashed: baseline, the study's decoding.",
                *(
                    _effect(grid, name, axes_of_grid, cluster, share, percent, seed)
                    for name in axes_of_grid
                ),
            ],
        )
    return figure


def _values(rows: pd.DataFrame, axis: str) -> list[Any]:
    """Return the values of an axis in order, "no limit" last."""
    unlimited = _NO_LIMIT.get(axis, (None,))[0]
    return sorted(rows[axis].dropna().unique().tolist(), key=lambda v: (v == unlimited, v))


def _named(axis: str, value: object) -> str:
    unlimited, name = _NO_LIMIT.get(axis, (None, ""))
    return f"{_axis(axis)} {name if value == unlimited else tick(value)}"


def _axis(axis: str) -> str:
    return _NAMES.get(axis, in_words(axis))


def _splits(rows: pd.DataFrame) -> str:
    names = list(rows["split"].unique())
    if len(names) == 1:
        return f"{names[0].capitalize()} split"
    return f"{', '.join(names[:-1])} and {names[-1]} splits".capitalize()


def _effect(
    grid: pd.DataFrame,
    axis: str,
    axes: list[str],
    cluster: str,
    share: bool,
    percent: bool,
    seed: int,
) -> str:
    """State the change from an axis' first to its last value, all else equal."""
    values = _values(grid, axis)
    # Prompts differ between the values of a column of the dataset, so that there are no pairs.
    if len(values) < 2 or grid.groupby("sample")[axis].nunique().max() < 2:
        return ""
    others = [name for name in axes if name != axis]
    low, high = values[0], values[-1]
    change = contrast(grid, axis, low, high, others=others, cluster=cluster, share=share, seed=seed)
    mean, lower, upper = np.array([change.mean, change.low, change.high]) * (100 if percent else 1)
    unit = " points" if percent else ""
    unlimited, name = _NO_LIMIT.get(axis, (None, ""))
    end = name if high == unlimited else tick(high)
    return (
        f"{_axis(axis).capitalize()} {tick(low)} to {end}, all else equal: {mean:+.3g}{unit} "
        f"({lower:+.3g} to {upper:+.3g})."
    )
