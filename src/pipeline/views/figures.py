"""Figures of steering studies, drawn from the tables of scores.

Means and intervals come from `summary`; simultaneous bands, single topics and labels come from
`scores`.

An arm, metric, split, strength, layer or position rule that is not in the tables raises a
ValueError that names the valid ones.
"""

from textwrap import fill
from typing import Annotated

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.config.declared import ChosenArmName, MetricsOfOneScale, ValueOnAxis
from pipeline.data.roles import BASELINE
from pipeline.measures.bands import band_over
from pipeline.measures.statistics import cluster_means, summarise
from pipeline.views.heat_maps import in_words, map_of_means
from pipeline.views.marks import (
    GREY,
    bands_in_words,
    control_keys,
    draw_band,
    draw_clusters,
    draw_columns,
    draw_controls,
    draw_curve,
    draw_estimates,
    draw_reference,
    label_at_right,
    legend_key,
    ring_setting,
    setting_key,
)
from pipeline.views.panels import caption, layer_axis, legend, panels, percent_axis, styles_of
from pipeline.views.selection import (
    baseline_in_words,
    baseline_of,
    chosen_rule,
    controls_in_words,
    counts_in_words,
    fitted_of,
    label_of,
    question,
    rows_told_apart,
    rule_in_words,
    select,
    steered_of,
)


def effect_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arms: list[ChosenArmName],
    metrics: MetricsOfOneScale,
    split: str,
) -> Figure:
    """Plot the mean score against the direction's layer, one panel per arm.

    Each arm is at its chosen strength and position rule. Lines: the fitted direction with a 95 %
    band over `cluster`, simultaneous over layers. Dashed: the arm's baseline with its interval.
    Ringed: the setting chosen on validation prompts. Grey markers: controls, mean and range over
    their draws. A metric without scores in an arm is omitted there and named in the caption.
    Several metrics must all be in per cent.
    """
    summary = select(summary, split=split, arm=arms, metric=metrics)
    scores = select(scores, split=split, arm=arms, metric=metrics)
    styles = styles_of(metrics)
    unscored, shown, bands, several = [], [], [], len(metrics) > 1
    percent = bool(summary["percent"].all())
    if several and not percent:
        raise ValueError(
            f"metrics {', '.join(metrics)} have no common scale; valid: one, or all in per cent"
        )
    titles = _titles(scores, arms)
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            compared = steered_of(select(summary, arm=arm, at_setting=True))
            shown.append(compared)
            for metric, style in styles.items():
                colour, ls = style["color"], style["ls"]
                means = select(summary, arm=arm, metric=metric)
                steered = select(compared, metric=metric)
                fitted = rows_told_apart(fitted_of(steered), ["layer"])
                if fitted["n"].sum() == 0:
                    unscored.append(f"{label_of(means)} is not scored in {arm}.")
                    continue
                layers = fitted["layer"].astype(int).tolist()
                rows = fitted_of(select(scores, arm=arm, metric=metric, at_setting=True))
                draw_reference(axis, baseline_of(means), colour if several else GREY)
                marker = colour if several else "white"
                draw_controls(axis, steered, "layer", fill=marker)
                band = band_over(
                    rows,
                    "layer",
                    layers,
                    cluster=cluster,
                    share=bool(means["share"].iloc[0]),
                    bounded=percent,
                    seed=seed,
                )
                bands.append(band)
                draw_band(axis, layers, band, colour, within=(0.0, 1.0) if percent else None)
                draw_curve(axis, layers, fitted["mean"], colour, label=metric, ls=ls)
                ring_setting(axis, fitted, "layer")
            setting = f"{rule_in_words(compared)}, strength {compared['strength'].iloc[0]:g}"
            axis.set_title(f"{titles[arm]}\n{setting}")
            axis.set_xlabel("layer of the direction")
            layer_axis(axis)
        if percent:
            percent_axis(axes[0])
        named = f"share of requests ({split} split)" if several and percent else label_of(summary)
        axes[0].set_ylabel(fill(named, 40))
        steered = pd.concat(shown)
        keys = {
            label_of(select(summary, metric=metric)): legend_key(lw=2.4, **style)
            for metric, style in styles.items()
        }
        keys |= {"no intervention": legend_key(ls="--")} | setting_key()
        legend(figure, keys | control_keys(steered))
        caption(
            figure,
            [
                f"{split.capitalize()} split, {counts_in_words(steered)}.",
                f"Lines: fitted direction; {bands_in_words(bands, cluster)}.",
                "Dashed: no intervention, strip: its 95 % interval.",
                controls_in_words(steered),
                "Markers of controls stand side by side at their layer.",
                *(["They are filled in their metric's colour."] if several else []),
                *unscored,
            ],
        )
    return figure


def _titles(scores: pd.DataFrame, arms: list[str]) -> dict[str, str]:
    """Describe each arm in words, by its name too if words alone do not tell arms apart."""
    titles = {arm: question(select(scores, arm=arm)) for arm in arms}
    if len(set(titles.values())) == len(arms):
        return titles
    return {
        arm: f"{in_words(arm).capitalize()}, {text[0].lower()}{text[1:]}"
        for arm, text in titles.items()
    }


def strength_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    arm: ChosenArmName,
    metric: str,
    split: str,
) -> Figure:
    """Draw the mean score of the fitted direction by strength and layer as a heat map.

    At the arm's chosen position rule. Shares are in per cent on a scale from 0 to 100. Hatched: not
    measured or not scored. Framed: the setting chosen on validation prompts.
    """
    means = select(summary, split=split, arm=arm, metric=metric)
    fitted = select(fitted_of(means), positions=chosen_rule(means))
    fitted = rows_told_apart(fitted, ["layer", "strength"])
    chosen = fitted[fitted["is_setting"]]
    framed = list(zip(chosen["layer"], chosen["strength"], strict=True))
    with map_of_means(fitted, "layer", "strength", framed) as (figure, axis, called):
        axis.set_xlabel("layer of the direction")
        axis.set_title(question(select(scores, split=split, arm=arm)))
        caption(
            figure,
            [
                f"Cells: {called}, fitted direction {rule_in_words(fitted)}.",
                f"{split.capitalize()} split, {counts_in_words(fitted)}.",
                baseline_in_words(means),
                "Framed: the setting chosen.",
            ],
        )
    return figure


def counts_by_condition(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    metric: str,
    split: str,
    arms: list[ChosenArmName],
    layers: list[Annotated[int, ValueOnAxis("layer")]] | None = None,
) -> Figure:
    """Plot the mean score against strength at some layers, one panel per arm, with label baselines.

    Each arm is at its chosen position rule. Default `layers`: up to four of those swept, evenly
    spaced.

    Points: the fitted direction with its 95 % interval; faint dots: single clusters. Each strength
    is a column with the layers side by side; strength 0 is the arm's baseline. Dashed: each label's
    mean without intervention, over all arms of the sweep. Ringed: the setting chosen, if its layer
    is shown. Grey markers: controls, mean and range over their draws.
    """
    summary = select(summary, split=split, metric=metric)
    scores = select(scores, split=split, metric=metric)
    shares = [metric] if summary["share"].any() else []
    references = _references(scores, shares, cluster, seed)
    layers = layers or _spread(select(steered_of(summary), arm=arms)["layer"])
    shown_means = pd.concat([_at_chosen_rule(select(summary, arm=arm), layers) for arm in arms])
    strengths = np.unique(np.append(shown_means["strength"], 0.0)).tolist()
    shades = colormaps["viridis"](np.linspace(0.1, 0.75, len(layers)))
    colours = {layer: to_hex(shade) for layer, shade in zip(layers, shades, strict=True)}
    # Layers share 0.7 of a column's width; sources of controls share a layer's part.
    part = 0.7 / len(layers)
    shifts = (np.arange(len(layers)) - (len(layers) - 1) / 2) * part
    with panels(len(arms)) as (figure, axes):
        for axis, arm in zip(axes, arms, strict=True):
            baseline = baseline_of(select(summary, arm=arm))
            steered = select(shown_means, arm=arm)
            samples = fitted_of(select(scores, arm=arm, positions=steered["positions"].iloc[0]))
            for shift, (layer, colour) in zip(shifts, colours.items(), strict=True):
                at_layer = select(steered, layer=layer)
                fitted = rows_told_apart(fitted_of(at_layer), ["strength"])
                unsteered = baseline.to_frame().T.assign(strength=0.0)
                fitted = pd.concat([unsteered, fitted]).astype({"mean": float})
                fitted = _in_columns(fitted, strengths)
                dots = _in_columns(select(samples, layer=layer), strengths)
                dots = cluster_means(dots, "column", cluster)
                draw_clusters(axis, dots, colour, shift)
                drawn_at = _in_columns(at_layer, strengths)
                draw_controls(axis, drawn_at, "column", shift=shift, apart=0.3 * part)
                draw_estimates(axis, fitted, "column", colour, shift, label=f"layer {layer}")
                ring_setting(axis, fitted, "column", shift)
            for _, reference in references.iterrows():
                draw_reference(axis, reference, GREY)
            rule = rule_in_words(steered)
            axis.set_title(f"{question(select(scores, arm=arm))}\n{rule}")
            axis.set_xlabel("strength")
            draw_columns(axis, [f"{strength:g}" for strength in strengths])
        if min(shown_means["mean"].min(), references["mean"].min()) >= 0:
            axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel(label_of(summary))
        texts = [f"{row['label']}  {row['mean']:.1f}" for _, row in references.iterrows()]
        label_at_right(axes[len(axes) - 1], texts, references["mean"].tolist(), gap=0.055)
        keys = {
            f"layer {layer}": legend_key(color=colour, lw=2, marker="o")
            for layer, colour in colours.items()
        }
        keys |= {"no intervention": legend_key(ls="--")}
        if fitted_of(shown_means)["is_setting"].any():
            keys |= setting_key()
        legend(figure, keys | control_keys(shown_means))
        caption(
            figure,
            [
                f"{split.capitalize()} split, {counts_in_words(shown_means)}.",
                f"Fitted direction; bars: 95 % interval over {cluster}s; faint dots: single",
                f"{cluster}s. All that stands in a column has its strength.",
                "Dashed: no intervention, by kind of request.",
                controls_in_words(shown_means),
            ],
        )
    return figure


def _at_chosen_rule(means: pd.DataFrame, layers: list[int]) -> pd.DataFrame:
    return select(steered_of(means), layer=layers, positions=chosen_rule(means))


def _in_columns(table: pd.DataFrame, strengths: list[float]) -> pd.DataFrame:
    """Sort rows by strength and add the index of each strength's `column`."""
    table = table.astype({"strength": float}).sort_values("strength")
    return table.assign(column=table["strength"].map(strengths.index))


def _spread(layers: pd.Series, most: int = 4) -> list[int]:
    swept = sorted(int(layer) for layer in layers.unique())
    indices = np.linspace(0, len(swept) - 1, min(most, len(swept))).round().astype(int)
    return [swept[index] for index in indices]


def _references(scores: pd.DataFrame, shares: list[str], cluster: str, seed: int) -> pd.DataFrame:
    # Arms with the same label share baseline samples, which count once.
    rows = select(scores, role=BASELINE).drop_duplicates(["sample", "repeat"])
    return summarise(rows, ["label", "metric"], shares=shares, cluster=cluster, seed=seed)
