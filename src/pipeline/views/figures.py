"""Figures: the tables of a study to one figure each.

A figure is `figure(summary, scores, *, parameters) -> Figure`. Means and intervals are those of
`summary`; `scores` gives what it does not hold: bands over a whole curve, single topics, labels.
A wanted arm, metric, split, strength, layer or position rule that the tables do not hold is a
ValueError that names those they do.
"""

from itertools import cycle

import numpy as np
import pandas as pd
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
    baseline_of,
    chosen_rule,
    controls_in_words,
    counts_in_words,
    question,
    rows_told_apart,
    rule_in_words,
    select,
    steered_of,
)

SEED = 0
"""Of the resampling behind bands and reference intervals."""


def effect_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    arms: list[str],
    metrics: list[str],
    split: str,
    cluster: str = "sample",
) -> Figure:
    """Share of samples that score 1 against the layer of the direction, a panel for each arm.

    Every arm at its chosen strength and position rule. Lines: the fitted direction with a 95 %
    simultaneous band over `cluster`. Dashed: the arm's baseline with its own interval. Markers:
    controls, mean and range over their draws. A metric that scores nothing in an arm is left out
    there and named in the caption.
    """
    summary = select(summary, split=split, arm=arms, metric=metrics)
    scores = select(scores, split=split, arm=arms, metric=metrics)
    colours = dict(zip(metrics, cycle(COLOURS), strict=False))
    unscored, shown = [], []
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            here = steered_of(select(summary, arm=arm, chosen=True))
            shown.append(here)
            for metric, colour in colours.items():
                means = select(summary, arm=arm, metric=metric)
                steered = select(here, metric=metric)
                fitted = rows_told_apart(select(steered, source="fitted"), ["layer"])
                if fitted["n"].sum() == 0:
                    unscored.append(f"{METRICS.get(metric, metric)} is not scored in {arm}.")
                    continue
                layers = fitted["layer"].astype(int).tolist()
                rows = select(scores, arm=arm, metric=metric, source="fitted", chosen=True)
                matrix = cluster_means(rows, columns="layer", cluster=cluster)[layers]
                draw_reference(axis, baseline_of(means), colour)
                draw_controls(axis, steered, "layer", colour)
                draw_band(axis, layers, simultaneous_band(matrix.to_numpy(), seed=SEED), colour)
                draw_curve(axis, layers, fitted["mean"], colour, label=metric)
            where = f"{rule_in_words(here)}, strength {here['strength'].iloc[0]:g}"
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
) -> Figure:
    """Mean score of the fitted direction for every strength and layer, as a heat map.

    By the arm's chosen position rule. Proportions are in per cent on a scale from 0 to 100.
    Hatched: not measured or not scored.
    """
    # The heat map alone takes seaborn, which loads scipy.stats: not for composing a study.
    import seaborn as sns

    means = select(summary, split=split, arm=arm, metric=metric)
    rule = chosen_rule(means)
    fitted = select(steered_of(means), source="fitted", positions=rule)
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
                f"Cells: {name}{unit}, fitted direction {rule_in_words(fitted)}.",
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
    layers: list[int] | None = None,
    cluster: str = "topic",
) -> Figure:
    """Mean score against strength at some layers, a panel for each arm, beside every label's own.

    Every arm by its chosen position rule. Without `layers`: up to four of those swept, evenly
    spread.
    Points: the fitted direction with its 95 % interval; faint dots: single clusters. At strength
    0 stands the arm's baseline. Dashed: each label's mean without intervention, over all arms of
    the sweep. Grey markers: controls, mean and range over their draws.
    """
    summary = select(summary, split=split, metric=metric)
    scores = select(scores, split=split, metric=metric)
    references = _references(scores, cluster)
    layers = layers or _spread(select(steered_of(summary), arm=arms)["layer"])
    rules = {arm: chosen_rule(select(summary, arm=arm)) for arm in arms}
    shown = []
    shades = colormaps["viridis"](np.linspace(0.1, 0.75, len(layers)))
    colours = {layer: to_hex(shade) for layer, shade in zip(layers, shades, strict=True)}
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            means = select(summary, arm=arm)
            baseline = baseline_of(means)
            steered = select(steered_of(means), layer=layers, positions=rules[arm])
            shown.append(steered)
            strengths = np.unique(np.append(steered["strength"], 0.0))
            spread = 0.5 * np.diff(strengths).min() / len(layers)
            for number, (layer, colour) in enumerate(colours.items()):
                shift = (number - (len(layers) - 1) / 2) * spread
                here = select(steered, layer=layer)
                fitted = rows_told_apart(select(here, source="fitted"), ["strength"])
                fitted = pd.concat([baseline.to_frame().T, fitted]).sort_values("strength")
                fitted = fitted.astype({"strength": float, "mean": float})
                samples = select(
                    scores, arm=arm, source="fitted", layer=layer, positions=rules[arm]
                )
                draw_clusters(axis, cluster_means(samples, "strength", cluster), colour, shift)
                draw_controls(axis, here, "strength", GREY, shift)
                draw_estimates(axis, fitted, "strength", colour, shift, label=f"layer {layer}")
            for _, reference in references.iterrows():
                draw_reference(axis, reference, GREY)
            where = rule_in_words(steered)
            axis.set_title(f"{question(select(scores, arm=arm))}\n{where}")
            axis.set_xlabel("strength")
            axis.set_xticks(strengths, [f"{strength:g}" for strength in strengths])
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel(METRICS.get(metric, metric))
        texts = [f"{row['label']}  {row['mean']:.1f}" for _, row in references.iterrows()]
        label_at_right(axes[len(axes) - 1], texts, references["mean"].tolist(), gap=0.055)
        drawn = pd.concat(shown)
        keys = {
            f"layer {layer}": legend_key(color=colour, lw=2, marker="o")
            for layer, colour in colours.items()
        }
        legend(figure, keys | {"no intervention": legend_key(ls="--")} | control_keys(drawn))
        caption(
            figure,
            [
                f"{split.capitalize()} split, {counts_in_words(drawn)}.",
                f"Fitted direction; bars: 95 % interval over {cluster}s;",
                f"faint dots: single {cluster}s. Dashed: no intervention, by kind of request.",
                controls_in_words(drawn),
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
