"""Figures of edits of facts: scores by layer, ways of editing side by side, side effects."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.config.declared import ArmName
from pipeline.data.roles import BASELINE
from pipeline.measures.edited_facts import (
    ACCURACIES,
    COMPARISONS,
    SCORE,
    best_on_val,
    estimates_of_edits,
    scores_of_edits,
)
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import (
    bands_in_words,
    draw_estimates,
    draw_mean_curve,
    legend_key,
)
from pipeline.views.panels import (
    COLOURS,
    caption,
    layer_axis,
    legend,
    panels,
    percent_axis,
    styles_of,
)
from pipeline.views.readings import table_of
from pipeline.views.selection import rows_told_apart, select

_PANELS = {
    "Token accuracies (EasyEdit)": tuple(ACCURACIES),
    "Probability comparisons (COUNTERFACT)": (*COMPARISONS, SCORE),
}
_NAMED = {SCORE: "harmonic mean"}
_MEAN = "#222222"
_CONTROL = "#9aa5ad"


def edits_by_layer(
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arm: str,
    control: ArmName,
    split: str = "test",
) -> Figure:
    """Plot what edits of each layer change, in EasyEdit's and in COUNTERFACT's scores.

    Args:
        scores: of samples under conditions, on the val and test split.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.
        arm: edits by `layer`; its baseline is the unedited model.
        control: random edits by `layer`.
        split: of the dataset.

    Raises:
        ValueError: no such arm or split, conditions of an arm that agree in their layer, or no fact
            that the model knows.
    """
    counted = scores_of_edits(select(scores, arm=[arm, control]), reference=arm)
    best = best_on_val(counted, [arm])[arm]
    rows = select(counted, split=split)
    edited = rows[rows["role"] != BASELINE]
    estimates = estimates_of_edits(edited, ["arm", "layer", "condition"], cluster, seed)
    chosen = estimates.loc[estimates["condition"] == best, "layer"].iloc[0]
    colours = [*COLOURS[:3], _MEAN]
    with panels(2, 6.4, 4.6) as (figure, axes):
        for axis, (title, quantities) in zip(axes, _PANELS.items(), strict=True):
            axis.axvline(chosen, color="#dddddd", lw=9, zorder=0)
            for number, (quantity, colour) in enumerate(zip(quantities, colours, strict=False)):
                drawn = rows_told_apart(select(estimates, quantity=quantity), ["arm", "layer"])
                shift = 0.06 * (number - (len(quantities) - 1) / 2)
                draw_estimates(axis, select(drawn, arm=arm), "layer", colour, shift, quantity)
                random = select(drawn, arm=control)
                style: dict[str, Any] = {"color": colour, "ls": ":", "lw": 1.4, "marker": "x"}
                axis.plot(random["layer"] + shift, random["mean"], ms=4, **style)
            handles = [
                legend_key(color=colour, marker="o", lw=2, label=_NAMED.get(quantity, quantity))
                for quantity, colour in zip(quantities, colours, strict=False)
            ]
            axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.1), ncols=2)
            percent_axis(axis)
            layer_axis(axis)
            axis.set_title(title)
            axis.set_xlabel("layer whose feed-forward layer is edited")
        axes[0].set_ylabel("share of prompts")
        caption(
            figure,
            [
                *_in_words(rows, cluster, split),
                f"Grey bar: layer {tick(chosen)}, the largest harmonic mean on the val split.",
                "Dotted: control, random edits of the same key and norm.",
            ],
        )
    return figure


def edits_compared(
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    reference: ArmName,
    arms: dict[str, str],
    split: str = "test",
) -> Figure:
    """Draw the scores of several ways of editing as bars, each at its best setting on val.

    Args:
        scores: of samples under conditions, on the val and test split.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.
        reference: the arm whose baseline is the unedited model on bare prompts.
        arms: arm -> its name in the legend.
        split: of the dataset.

    Raises:
        ValueError: no such arm or split, an arm without val prompts, or no fact that the model
            knows.
    """
    counted = scores_of_edits(select(scores, arm=[reference, *arms]), reference=reference)
    chosen = best_on_val(counted, list(arms))
    rows = select(counted, split=split)
    unedited = rows[(rows["arm"] == reference) & (rows["role"] == BASELINE)]
    shown = {"no edit": unedited["condition"].iloc[0]}
    shown |= {arms[arm]: condition for arm, condition in chosen.items()}
    estimates = estimates_of_edits(rows, ["condition"], cluster, seed)
    styles = {"no edit": {"color": _CONTROL}, **styles_of(list(shown)[1:], "hatch")}
    height = 0.8 / len(shown)
    with panels(2, 8.0, 6.0, shared=False) as (figure, axes):
        for axis, (title, quantities) in zip(axes, _PANELS.items(), strict=True):
            for number, (name, condition) in enumerate(shown.items()):
                means = select(estimates, condition=condition).set_index("quantity")
                bars = means.loc[list(quantities)]
                _bars(axis, bars, number * height, 0.9 * height, **styles[name])
            middle = (len(shown) - 1) / 2 * height
            names = [_NAMED.get(quantity, quantity) for quantity in quantities]
            axis.set_yticks(np.arange(len(quantities)) + middle, names)
            axis.tick_params(axis="y", length=0)
            axis.grid(False)
            axis.grid(True, axis="x")
            axis.invert_yaxis()
            axis.set_xlim(0, 102)
            axis.set_title(title)
            axis.set_xlabel("share of prompts (%)")
        legend(figure, {name: Patch(**style) for name, style in styles.items()})
        caption(
            figure,
            [
                *_in_words(rows, cluster, split),
                "Each at the setting with the largest harmonic mean on the val split:",
                f"{_settings(rows, arms, chosen)}.",
            ],
        )
    return figure


def side_effects_by_layer(
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    reading: str,
    split: str = "test",
) -> Figure:
    """Plot how the loss of unrelated texts changes under edits of each layer.

    Args:
        readings: tables by name.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.
        reading: of `edit_side_effects`.
        split: of the facts.

    Raises:
        ValueError: no such reading or split.
    """
    table = select(table_of(readings, reading), split=split)
    rows = table.assign(score=table["change"])
    layers = sorted(rows["layer"].unique().tolist())
    names = {"fitted": "edit of a fact", "random": "random edit, same key and norm"}
    bands = []
    with panels(1, 7.5) as (figure, (axis,)):
        axis.axhline(0, color="#444444", lw=0.8)
        for (edit, name), colour in zip(names.items(), (COLOURS[1], _CONTROL), strict=True):
            of_edit = select(rows, edit=edit)
            bands.append(
                draw_mean_curve(axis, of_edit, layers, colour, name, cluster=cluster, seed=seed)
            )
        layer_axis(axis)
        axis.set_xlabel("layer whose feed-forward layer is edited")
        axis.set_ylabel("change of the loss (nats per token)")
        axis.set_title("Loss of unrelated texts under an edit")
        axis.legend()
        caption(
            figure,
            [
                f"n = {table['fact'].nunique()} facts of the {split} split, with",
                f"{table.groupby('fact')['text'].nunique().max()} of "
                f"{table['text'].nunique()} texts each; "
                f"{bands_in_words(bands, cluster)}.",
                f"Loss without edit: {table['clean_loss'].mean():.2f} nats per token.",
                "Control: random edits.",
            ],
        )
    return figure


def _bars(axis: Axes, means: pd.DataFrame, shift: float, height: float, **style: Any) -> None:
    at = np.arange(len(means)) + shift
    axis.barh(at, 100 * means["mean"], height=height, **style)
    axis.hlines(at, 100 * means["low"], 100 * means["high"], color="#222222", lw=1.2)


def _in_words(rows: pd.DataFrame, cluster: str, split: str) -> list[str]:
    facts, neighbours = rows["fact"].nunique(), rows[rows["kind"] == "neighbour"]["probe"].nunique()
    return [
        f"{split.capitalize()} split, n = {facts} facts that the unedited model knows, with",
        f"{rows[rows['kind'] == 'paraphrase']['probe'].nunique()} paraphrases and {neighbours}",
        f"neighbours that it answers correctly. Lines: 95 % intervals over {cluster}s.",
    ]


def _settings(rows: pd.DataFrame, arms: dict[str, str], chosen: Mapping[str, str]) -> str:
    """Name the setting of each arm by its layer or strength."""
    named = []
    for arm, condition in chosen.items():
        row = rows[rows["condition"] == condition].iloc[0]
        for axis in ("layer", "strength"):
            if axis in rows and pd.notna(row[axis]):
                named.append(f"{arms[arm]} {in_words(axis)} {tick(row[axis])}")
    return ", ".join(named)
