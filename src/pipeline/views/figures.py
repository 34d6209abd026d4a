"""Figures: the tables of a study to one figure each.

A figure is `figure(summary, scores, *, parameters) -> Figure`. Means and intervals are those of
`summary`; `scores` gives what it does not hold: bands over a whole curve, single topics, labels.
A wanted arm, metric, split, strength, layer or position rule that the tables do not hold is a
ValueError that names those they do.
"""

from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.measures.statistics import cluster_means, simultaneous_band, summarise
from pipeline.views.marks import (
    GREY,
    control_keys,
    draw_band,
    draw_clusters,
    draw_controls,
    draw_curve,
    draw_estimates,
    draw_reference,
    label_at_right,
    legend_key,
)
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels, percent_axis
from pipeline.views.selection import (
    METRICS,
    POSITIONS,
    baseline_of,
    controls_in_words,
    counts_in_words,
    question,
    rows_told_apart,
    select,
    steered_of,
)

SEED = 0
"""Of the resampling behind bands and reference intervals."""


def effect_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    positions: dict[str, str],
    metrics: list[str],
    split: str,
    strengths: dict[str, float],
    cluster: str = "sample",
) -> Figure:
    """Share of samples that score 1 against the layer of the direction, a panel for each arm.

    `positions` and `strengths`: arm -> the position rule and the strength to show it at.

    Lines: the fitted direction with a 95 % simultaneous band over `cluster`. Dashed: the arm's
    baseline with its own interval. Markers: controls, mean and range over their draws. A metric
    that scores nothing in an arm is left out there and named in the caption.
    """
    arms = list(positions)
    summary = select(summary, split=split, arm=arms, metric=metrics)
    scores = select(scores, split=split, arm=arms, metric=metrics)
    colours = dict(zip(metrics, cycle(COLOURS), strict=False))
    unscored, shown = [], []
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            place = {"strength": strengths[arm], "positions": positions[arm]}
            shown.append(select(steered_of(select(summary, arm=arm)), **place))
            for metric, colour in colours.items():
                means = select(summary, arm=arm, metric=metric)
                steered = select(steered_of(means), **place)
                fitted = rows_told_apart(select(steered, source="fitted"), ["layer"])
                if fitted["n"].sum() == 0:
                    unscored.append(f"{METRICS.get(metric, metric)} is not scored in {arm}.")
                    continue
                layers = fitted["layer"].astype(int).tolist()
                rows = select(scores, arm=arm, metric=metric, source="fitted", **place)
                matrix = cluster_means(rows, columns="layer", cluster=cluster)[layers]
                draw_reference(axis, baseline_of(means), colour)
                draw_controls(axis, steered, "layer", colour)
                draw_band(axis, layers, simultaneous_band(matrix.to_numpy(), seed=SEED), colour)
                draw_curve(axis, layers, fitted["mean"], colour, label=metric)
            where = f"{POSITIONS[positions[arm]]}, strength {strengths[arm]:g}"
            axis.set_title(f"{question(select(scores, arm=arm))}\n{where}")
            axis.set_xlabel("layer of the direction")
            layer_axis(axis)
        percent_axis(axes[0])
        axes[0].set_ylabel(f"share of requests ({split} split)")
        steered = pd.concat(shown)
        keys = {
            METRICS.get(metric, metric): legend_key(color=colour, lw=2.4)
            for metric, colour in colours.items()
        }
        legend(figure, keys | {"no intervention": legend_key(ls="--")} | control_keys(steered))
        caption(
            figure,
            [
                f"{split.capitalize()} split, {counts_in_words(steered)}.",
                "Lines: fitted direction; bands: 95 %, simultaneous over layers.",
                "Dashed: no intervention, strip: its 95 % interval.",
                controls_in_words(steered),
                *unscored,
            ],
        )
    return figure


def strength_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    arm: str,
    metric: str,
    split: str,
    positions: str,
) -> Figure:
    """Mean score of the fitted direction for every strength and layer, as a heat map.

    Proportions are in per cent on a scale from 0 to 100. Hatched: not measured or not scored.
    """
    means = select(summary, split=split, arm=arm, metric=metric)
    fitted = select(steered_of(means), source="fitted", positions=positions)
    fitted = rows_told_apart(fitted, ["layer", "strength"])
    baseline = baseline_of(means)
    proportion = means["interval"].str.startswith("wilson").any()
    grid = fitted.astype({"layer": int}).pivot(index="strength", columns="layer", values="mean")
    grid = grid.sort_index(ascending=False) * (100 if proportion else 1)
    name = METRICS.get(metric, metric)
    unit = " (%)" if proportion else ""
    width = float(np.clip(0.42 * grid.shape[1] + 2.5, 7.5, 17))
    with panels(1, width, height=0.38 * grid.shape[0] + 1.5) as (figure, (axis,)):
        axis.set_facecolor("#ededed")
        axis.patch.set_hatch("///")
        axis.grid(False)
        sns.heatmap(
            grid,
            ax=axis,
            cmap="viridis",
            vmin=0 if proportion else None,
            vmax=100 if proportion else None,
            annot=True,
            fmt=".0f" if proportion else ".3g",
            annot_kws={"size": min(11, 24 * (width - 2) / grid.shape[1])},
            linewidths=0.6,
            cbar_kws={"label": f"{name}{unit}", "pad": 0.02},
        )
        axis.set_yticklabels([f"{strength:g}" for strength in grid.index], rotation=0)
        axis.tick_params(length=0)
        axis.set_xlabel("layer of the direction")
        axis.set_ylabel("strength")
        axis.set_title(question(select(scores, split=split, arm=arm)))
        low, mean, high = baseline[["low", "mean", "high"]] * (100 if proportion else 1)
        caption(
            figure,
            [
                f"Cells: {name}{unit}, fitted direction {POSITIONS[positions]}.",
                f"{split.capitalize()} split, {counts_in_words(fitted)}.",
                f"Without intervention: {mean:.3g}, 95 % interval {low:.3g} to {high:.3g}.",
            ],
        )
    return figure


def counts_by_condition(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    metric: str,
    split: str,
    arms: list[str],
    positions: str,
    layers: list[int] | None = None,
    cluster: str = "topic",
) -> Figure:
    """Mean score against strength at some layers, a panel for each arm, beside every label's own.

    Without `layers`: up to four of those swept, evenly spread.
    Points: the fitted direction with its 95 % interval; faint dots: single clusters. At strength
    0 stands the arm's baseline. Dashed: each label's mean without intervention, over all arms of
    the sweep. Grey markers: controls, mean and range over their draws.
    """
    summary = select(summary, split=split, metric=metric)
    scores = select(scores, split=split, metric=metric)
    references = _references(scores, cluster)
    layers = layers or _spread(select(steered_of(summary), arm=arms, positions=positions)["layer"])
    place = {"layer": layers, "positions": positions}
    shades = colormaps["viridis"](np.linspace(0.1, 0.75, len(layers)))
    colours = {layer: to_hex(shade) for layer, shade in zip(layers, shades, strict=True)}
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            means = select(summary, arm=arm)
            baseline = baseline_of(means)
            steered = select(steered_of(means), **place)
            strengths = np.unique(np.append(steered["strength"], 0.0))
            spread = 0.5 * np.diff(strengths).min() / len(layers)
            for number, (layer, colour) in enumerate(colours.items()):
                shift = (number - (len(layers) - 1) / 2) * spread
                here = select(steered, layer=layer)
                fitted = rows_told_apart(select(here, source="fitted"), ["strength"])
                fitted = pd.concat([baseline.to_frame().T, fitted]).sort_values("strength")
                fitted = fitted.astype({"strength": float, "mean": float})
                samples = select(scores, arm=arm, source="fitted", **place | {"layer": layer})
                draw_clusters(axis, cluster_means(samples, "strength", cluster), colour, shift)
                draw_controls(axis, here, "strength", GREY, shift)
                draw_estimates(axis, fitted, "strength", colour, shift, label=f"layer {layer}")
            for _, reference in references.iterrows():
                draw_reference(axis, reference, GREY)
            axis.set_title(question(select(scores, arm=arm)))
            axis.set_xlabel("strength")
            axis.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel(METRICS.get(metric, metric))
        texts = [f"{row['label']}  {row['mean']:.1f}" for _, row in references.iterrows()]
        label_at_right(axes[len(axes) - 1], texts, references["mean"].tolist(), gap=0.055)
        shown = select(steered_of(select(summary, arm=arms)), **place)
        keys = {
            f"layer {layer}": legend_key(color=colour, lw=2, marker="o")
            for layer, colour in colours.items()
        }
        legend(figure, keys | {"no intervention": legend_key(ls="--")} | control_keys(shown))
        caption(
            figure,
            [
                f"{split.capitalize()} split, {counts_in_words(shown)}.",
                f"Fitted direction {POSITIONS[positions]}; bars: 95 % interval over {cluster}s;",
                f"faint dots: single {cluster}s. Dashed: no intervention, by kind of request.",
                controls_in_words(shown),
            ],
        )
    return figure


def _spread(layers: pd.Series, most: int = 4) -> list[int]:
    swept = sorted(int(layer) for layer in layers.unique())
    places = np.linspace(0, len(swept) - 1, min(most, len(swept))).round().astype(int)
    return [swept[place] for place in places]


def _references(scores: pd.DataFrame, cluster: str) -> pd.DataFrame:
    # Arms of the same label share their baseline's samples, which count once.
    rows = select(scores, intervention="none").drop_duplicates(["sample", "repeat"])
    return summarise(rows, ["label", "metric"], cluster=cluster, seed=SEED)
