"""Figures of causal tracing: maps over layers and parts of the prompt, and curves by layer."""

import math
from collections.abc import Mapping
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ReadingName, ShareName
from pipeline.data.roles import BASELINE
from pipeline.measures.statistics import Estimate, estimate
from pipeline.measures.tracing import PARTS, clean_and_corrupted, indirect_effects
from pipeline.views.heat_maps import draw_map, grid_of, in_words, size_of, tick
from pipeline.views.marks import bands_in_words, draw_mean_curve, legend_key
from pipeline.views.panels import caption, layer_axis, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import label_of, select, shown_times

_LAYER = "layer of the restored state"
_SUBJECT = "last subject token"


def traced_maps(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    arms: dict[str, str],
    metric: str,
    parts: ReadingName,
    right: ShareName | None = None,
    split: str = "test",
) -> Figure:
    """Draw the mean indirect effect over layer and part of the prompt, one panel a component.

    Args:
        scores: of samples under conditions, with the axes as columns.
        summary: means, for the metric's name.
        readings: tables by name.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.
        arms: arms of `causal_trace`, and the titles of their panels.
        metric: a metric, such as the answer's probability; drawn in its own unit.
        parts: the reading of `prompt_parts`.
        right: only samples that score 1 in this metric without noise; None: all.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, reading or split, or no sample that scores 1 in `right`.
    """
    rows = _counted(scores, list(arms), right, split)
    listed = table_of(readings, parts)
    effects = {arm: indirect_effects(select(rows, arm=arm), listed, metric) for arm in arms}
    means = select(summary, metric=metric)
    times = shown_times(means)
    where = ", in percentage points" if times == 100 else ""
    grids = {arm: _grid(table, times) for arm, table in effects.items()}
    highest = max(10.0, *(float(grid.max(axis=None)) for grid in grids.values()))
    largest = highest if times == 100 else None
    width, height = size_of(next(iter(grids.values())), 6.4)
    with panels(len(arms), width, height) as (figure, axes):
        for axis, (arm, grid) in zip(axes, grids.items(), strict=True):
            label = _axis(means) if axis is axes[-1] else ""
            draw_map(axis, grid, label, width=width, largest=largest)
            axis.set_title(arms[arm])
            axis.set_xlabel(_LAYER)
            axis.set_ylabel("")
        axes[0].set_ylabel("restored part of the prompt")
        first = effects[next(iter(arms))]
        n, clusters = first["sample"].nunique(), first[cluster].nunique()
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {n} prompts{_which(right)},",
                f"{clusters} {cluster}s, {_draws(rows)}. Cells: {label_of(means)} with the",
                f"clean state restored, minus that of the corrupted run{where}; no effect is 0.",
                _ends(rows, next(iter(arms)), metric, cluster, seed, times),
                _early({arms[arm]: table for arm, table in effects.items()}, cluster, seed, times),
            ],
        )
    return figure


def traced_curves(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    arms: dict[str, str],
    metric: str,
    parts: ReadingName,
    shown: list[str],
    right: ShareName | None = None,
    split: str = "test",
) -> Figure:
    """Plot the mean indirect effect against the layer with bands, a line for each part.

    Arguments as for `traced_maps`; `shown` are the parts to draw.

    Raises:
        ValueError: as `traced_maps`, or no such part.
    """
    rows = _counted(scores, list(arms), right, split)
    listed = table_of(readings, parts)
    means = select(summary, metric=metric)
    times = shown_times(means)
    bands, styles = [], styles_of(shown)
    with panels(len(arms)) as (figure, axes):
        for axis, (arm, title) in zip(axes, arms.items(), strict=True):
            effects = indirect_effects(select(rows, arm=arm), listed, metric)
            effects["score"] *= times
            axis.axhline(0, color="#444444", lw=0.8)
            for part, style in styles.items():
                of_part = select(effects, restored=part)
                layers = sorted(int(layer) for layer in of_part["layer"].unique())
                options: dict[str, Any] = {"cluster": cluster, "seed": seed, "ls": style["ls"]}
                bands.append(
                    draw_mean_curve(axis, of_part, layers, style["color"], part, **options)
                )
            layer_axis(axis)
            axis.set_xlabel(_LAYER)
            axis.set_title(title)
        axes[0].set_ylabel(_axis(means))
        legend(figure, {part: legend_key(lw=2.4, **style) for part, style in styles.items()})
        n = rows["sample"].nunique()
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {n} prompts{_which(right)}, {_draws(rows)};",
                f"{bands_in_words(bands, cluster)}.",
                "Control: at 0, the corrupted run without anything restored.",
                _ends(rows, next(iter(arms)), metric, cluster, seed, times),
            ],
        )
    return figure


def _counted(scores: pd.DataFrame, arms: list[str], right: str | None, split: str) -> pd.DataFrame:
    """Select the samples of a split that are right without noise."""
    rows = select(scores, split=split, arm=arms)
    if right is None:
        return rows
    before = select(rows, role=BASELINE, metric=right)
    samples = before.loc[before["score"] == 1, "sample"].unique()
    if not len(samples):
        total = rows["sample"].nunique()
        raise ValueError(f"no sample of {total} scores 1 in {right} without noise")
    return rows[rows["sample"].isin(samples)]


def _axis(means: pd.DataFrame) -> str:
    """Name an axis of effects: in points of a metric in per cent, else in the metric's unit."""
    points = shown_times(means) == 100
    name = "(percentage points)" if points else f"on {label_of(means)}"
    return fill(f"indirect effect {name}", 36)


def _grid(effects: pd.DataFrame, times: int) -> pd.DataFrame:
    grid = times * grid_of(effects, "layer", "restored", "score", effects)
    # Three digits of the largest effect; of one in points, whole numbers.
    largest = max(1e-9, float(grid.abs().max(axis=None)))
    decimals = 0 if times == 100 else 2 - math.floor(math.log10(largest))
    # Rounded, a slight loss would be printed as -0.
    grid = grid.where(grid.abs() >= 0.5 * 10.0**-decimals, 0.0)
    grid = grid if times == 100 else grid.round(decimals)
    return grid.reindex([part for part in PARTS if part in grid.index]).rename_axis(index="part")


def _draws(rows: pd.DataFrame) -> str:
    draws = rows["draw"].nunique()
    return f"mean over {draws} draws of the noise" if draws > 1 else "one draw of the noise"


def _which(right: str | None) -> str:
    return "" if right is None else f" that are {in_words(right)} without noise"


def _ends(rows: pd.DataFrame, arm: str, metric: str, cluster: str, seed: int, times: int) -> str:
    """State the score without noise and in the corrupted run."""
    ends = clean_and_corrupted(select(rows, arm=arm), metric)
    limits: dict[str, Any] = {"within": (0.0, 1.0)} if times == 100 else {}
    clean, corrupted = (
        _number(estimate(ends[column], ends[cluster], proportion=False, seed=seed, **limits), times)
        for column in ("score", "corrupted")
    )
    percent = " %" if times == 100 else ""
    return f"Without noise {clean}{percent}; corrupted {corrupted}{percent}."


def _early(effects: Mapping[str, pd.DataFrame], cluster: str, seed: int, times: int) -> str:
    """State the largest mean effect of the subject's last token, by arm."""
    largest = []
    for title, table in effects.items():
        rows = select(table, restored=_SUBJECT)
        layer = rows.groupby("layer")["score"].mean().idxmax()
        cell = rows[rows["layer"] == layer]
        best = estimate(cell["score"], cell[cluster], proportion=False, seed=seed)
        largest.append(f"{_number(best, times)} in layer {tick(layer)} ({title.lower()})")
    return f"Largest at the {_SUBJECT}, of all layers: {', '.join(largest)}."


def _number(value: Estimate, times: int) -> str:
    """Format a value with its interval, of a metric in per cent as whole numbers."""
    mean, low, high = (
        # Whole numbers have no -0.
        f"{times * part:.3g}" if times == 1 or math.isnan(part) else str(round(times * part))
        for part in (value.mean, value.low, value.high)
    )
    return f"{mean} (no interval)" if math.isnan(value.low) else f"{mean} ({low} to {high})"
