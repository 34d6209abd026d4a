"""Figures of probes: what is read at every layer, and a plane of predicted numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import LegendColumn
from pipeline.measures.bands import Band
from pipeline.views.marks import GREY, bands_in_words, draw_mean_curve, legend_key
from pipeline.views.panels import caption, layer_axis, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import select

FITTED, SHUFFLED = "fitted", "shuffled"
_MARKERS = ("^", "s", "o")


def probe_by_layer(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    reading: str,
    score: str = "accuracy",
    reference: str = "most common class",
    by: LegendColumn | None = None,
    split: str = "test",
) -> Figure:
    """Plot a probe's mean score and its selectivity against the layer.

    Left: the fitted probe with a 95 % band over layers, each control in grey (mean and range of its
    draws), and the score without a probe as a dashed line. Right: score - mean score of the
    controls `shuffled`, paired by sample; left out if there are none.

    Args:
        prompts: the dataset, for its extra columns.
        readings: tables by name.
        cluster: a dataset column whose values are resampled together.
        seed: of the bootstrap.
        reading: a table with `sample`, `layer`, `source`, `draw`, `score`, `reference`, `fit_score`
            and, if that is not of the train split, `chosen_on`.
        score: what the score is called.
        reference: what the column `reference` is the score of.
        by: a column of the dataset; a curve for each of its values.
        split: of the dataset.

    Raises:
        ValueError: no such reading, column or split.
    """
    table = with_columns(prompts, select(table_of(readings, reading), split=split), cluster, by)
    layers = sorted(table["layer"].unique().tolist())
    bands: list[Band] = []
    keys: dict[str, Any] = {}
    groups = [("probe", table)] if by is None else list(table.groupby(by, sort=True))
    styles = styles_of(value for value, _ in groups)
    selective = bool((table["source"] == SHUFFLED).any())
    with panels(1 + selective, 6.2, 4.6, shared=False) as (figure, axes):
        left = axes[0]
        for value, rows in groups:
            style = styles[value]
            colour = style["color"]
            fitted = rows[rows["source"] == FITTED]
            curves = [(fitted, True), (_selectivity(rows), False)]
            for axis, (scores, bounded) in zip(axes, curves, strict=False):
                within = (0.0, 1.0) if bounded else (-1.0, 1.0)
                options: dict[str, Any] = {
                    "cluster": cluster,
                    "seed": seed,
                    "within": within,
                    "bounded": bounded,
                    "ls": style["ls"],
                }
                bands.append(draw_mean_curve(axis, scores, layers, colour, str(value), **options))
            known = fitted["reference"].mean()
            left.axhline(known, color=colour if by else GREY, lw=1.5, ls=(0, (5, 3)), alpha=0.9)
            count = f"n = {fitted['sample'].nunique()}"
            keys[f"{by}: {value}, {count}" if by else "probe"] = legend_key(lw=2.4, **style)
        keys |= draw_sources(left, table, layers)
        keys[reference] = legend_key(ls=(0, (5, 3)))
        left.set_ylim(-0.03, 1.03)
        left.set_title(f"Probe: {score}")
        left.set_ylabel(f"mean {score}")
        for right in axes[1:]:
            right.axhline(0, color=GREY, lw=1)
            right.set_title("Selectivity: probe - shuffled")
            right.set_ylabel(f"difference in {score}")
        for axis in axes:
            axis.set_xlabel("layer whose input is read")
            layer_axis(axis)
        legend(figure, keys)
        best = table[table["source"] == FITTED].groupby("layer")["fit_score"].mean().idxmax()
        at_best = table[(table["source"] == FITTED) & (table["layer"] == best)]["score"].mean()
        chosen_on = table["chosen_on"].iloc[0] if "chosen_on" in table else "train"
        chosen = "on" if split == chosen_on else "without"
        n = f"n = {table['sample'].nunique()} prompts of {table[cluster].nunique()} {cluster}s"
        caption(
            figure,
            [
                f"{split.capitalize()} split, {n}, which {fitted_on(split)}.",
                f"Lines: mean over prompts; {bands_in_words(bands, cluster)}, resampled over",
                f"{cluster}s. {sources_in_words(table)} Layer {best}, chosen {chosen} this split:",
                f"{at_best:.2f}.",
            ],
        )
    return figure


def _selectivity(rows: pd.DataFrame) -> pd.DataFrame:
    """Subtract the mean score of the controls `shuffled` from the probe's, paired by sample."""
    fitted = rows[rows["source"] == FITTED]
    by_sample = rows[rows["source"] == SHUFFLED].groupby(["sample", "layer"])["score"].mean()
    control = by_sample.reindex(pd.MultiIndex.from_frame(fitted[["sample", "layer"]]))
    return fitted.assign(score=fitted["score"].to_numpy() - control.to_numpy())


def fitted_on(split: str) -> str:
    """State whether probes were fitted on a split."""
    return "the probes were fitted on" if split == "train" else "no probe was fitted on"


def sources_in_words(table: pd.DataFrame) -> str:
    """State for a caption what the grey of `draw_sources` is."""
    if (table["source"] == FITTED).all():
        return "No controls."
    return "Grey: controls, mean and range of draws."


def with_columns(prompts: pd.DataFrame, table: pd.DataFrame, *columns: str | None) -> pd.DataFrame:
    """Add columns of the dataset to a reading.

    Raises:
        ValueError: no such column.
    """
    named = [column for column in dict.fromkeys(columns) if column is not None]
    for column in named:
        if column not in prompts:
            raise ValueError(f"no column {column!r} in the dataset; it has: {', '.join(prompts)}")
    named = [column for column in named if column != "sample"]
    return table.drop(columns=named, errors="ignore").merge(prompts[["sample", *named]])


def draw_sources(axis: Axes, table: pd.DataFrame, layers: list[int]) -> dict[str, Any]:
    """Draw each control in grey, the mean and the range of its draws; return the legend's keys."""
    keys = {}
    others = sorted(set(table["source"]) - {FITTED})
    for marker, source in zip(_MARKERS, others, strict=False):
        rows = table[table["source"] == source]
        draws = rows.groupby(["layer", "draw"])["score"].mean().unstack().loc[layers]
        style: dict[str, Any] = {"color": GREY, "alpha": 0.75, "lw": 1}
        axis.vlines(layers, draws.min(axis=1), draws.max(axis=1), **style)
        step = -(-len(layers) // 16)
        shape: dict[str, Any] = {"marker": marker, "ms": 4.5, "mfc": "white"}
        axis.plot(layers, draws.mean(axis=1), markevery=step, **shape, **style)
        keys[f"control: {source}"] = legend_key(lw=1, **shape)
    return keys
