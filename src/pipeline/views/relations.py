"""Figures of linear relations: faithfulness and causality, relation by relation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, ShareName
from pipeline.data.roles import BASELINE
from pipeline.measures.relations import at_chosen, shares_by_label
from pipeline.views.heat_maps import draw_map, size_of
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select, steered_of

_LIGHT = "#b8c4cc"
_MARKERS = ("o", "s", "^")


def relation_bars(
    readings: Mapping[str, pd.DataFrame],
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    reading: str,
    arm: str,
    random: ArmName,
    target_state: ArmName,
    metric: str,
    correct: ShareName,
) -> Figure:
    """Draw each relation's faithfulness and causality with their controls as bars.

    Args:
        readings: tables by name.
        scores: of samples under conditions, on the val and test split.
        cluster: a dataset column whose values are resampled together.
        seed: of the bootstrap.
        reading: of `relation_predictions`.
        arm: of `relation_edit` by the relation.
        random: the arm of random edits of the same norm.
        target_state: the arm of the target's states.
        metric: whether the top token is the target's.
        correct: whether the top token is the answer's; its baseline says which samples count.

    Raises:
        ValueError: no such reading, arm or metric.
    """
    faithful, constant = _faithful(readings, reading, cluster, seed)
    counted = _counted(scores, metric, correct)
    edited, drawn = _causal(counted, arm, random, cluster, seed)
    states = at_chosen(steered_of(select(counted, arm=target_state)), ["layer"])
    state = shares_by_label(states, cluster, seed)
    names = [name for name in faithful.index if name in edited.index]
    with panels(2, 5.6, 0.55 * len(names) + 1.2, shared=False) as (figure, (left, right)):
        series = [(constant, _LIGHT), (faithful, COLOURS[0])]
        _bars(left, names, series, faithful)
        left.set_title("Faithfulness")
        left.set_xlabel("prediction is the model's top token (%)")
        _bars(right, names, [(drawn, _LIGHT), (edited, COLOURS[1]), (state, GREY)], edited)
        right.set_title("Causality")
        right.set_xlabel("top token becomes the target (%)")
        legend(
            figure,
            {
                "linear relation": legend_key(color=COLOURS[0], lw=8),
                "edit by its inverse": legend_key(color=COLOURS[1], lw=8),
                "target's state": legend_key(color=GREY, lw=8),
                "constant answer; random edit": legend_key(color=_LIGHT, lw=8),
            },
        )
        caption(
            figure,
            [
                "Test split, prompts that the model answers correctly, n beside the names. Layer",
                "and factor, layer and rank are those of the best val mean of each relation.",
                f"Lines: 95 % intervals over {cluster}s. Controls in light grey: the map without",
                "its subject (factor 0); an edit of the same norm in a random direction.",
                _left_out(readings, reading, names),
            ],
        )
    return figure


def relation_scatter(
    readings: Mapping[str, pd.DataFrame],
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    reading: str,
    arm: str,
    random: ArmName,
    metric: str,
    correct: ShareName,
) -> Figure:
    """Draw faithfulness against causality, a point for each relation.

    Arguments as for `relation_bars`, without the arm of the target's states.

    Raises:
        ValueError: as `relation_bars`.
    """
    faithful, _ = _faithful(readings, reading, cluster, seed)
    edited, drawn = _causal(_counted(scores, metric, correct), arm, random, cluster, seed)
    names = [name for name in faithful.index if name in edited.index]
    at = [(faithful["mean"][name], edited["mean"][name]) for name in names]
    with panels(1, 7.5, 5.4) as (figure, (axis,)):
        axis.grid(True, axis="both")
        axis.axline((0, 0), (1, 1), color=_LIGHT, lw=1, ls="--")
        for number, name in enumerate(names):
            x, y = 100 * faithful.loc[name], 100 * edited.loc[name]
            colour = COLOURS[number % len(COLOURS)]
            style: dict[str, Any] = {"color": colour, "lw": 1.2, "alpha": 0.55}
            axis.hlines(y["mean"], x["low"], x["high"], **style)
            axis.vlines(x["mean"], y["low"], y["high"], **style)
            marker = _MARKERS[number // len(COLOURS) % len(_MARKERS)]
            # Larger than those that lie on top of it.
            size = 8 + 5 * at[number + 1 :].count(at[number])
            style = {"color": colour, "marker": marker, "ms": size, "ls": "", "label": name}
            axis.plot(x["mean"], y["mean"], zorder=4, **style)
        keys = axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        for key in keys.get_lines():
            key.set_markersize(8)
        axis.set_xlim(-4, 104)
        axis.set_ylim(-4, 104)
        axis.set_xlabel("faithfulness: prediction is the model's top token (%)")
        axis.set_ylabel("causality: top token becomes the target (%)")
        chance = 100 * float(drawn["mean"].max())
        correlated = float(faithful["mean"][names].corr(edited["mean"][names]))
        caption(
            figure,
            [
                f"n = {len(names)} relations, test split; {int(faithful['n'][names].min())} to "
                f"{int(faithful['n'][names].max())} prompts each that the model answers correctly.",
                f"Lines: 95 % intervals over {cluster}s. Layers, factors and ranks chosen on the",
                f"val split. Control: random edits of the same norm reach at most {chance:.3g} %.",
                f"Correlation over relations: {correlated:.2f}."
                if len(names) > 2 and np.isfinite(correlated)
                else "",
            ],
        )
    return figure


def relation_by_layer(readings: Mapping[str, pd.DataFrame], *, reading: str) -> Figure:
    """Draw faithfulness by relation and layer as a heat map, each cell at its best val factor.

    Raises:
        ValueError: no such reading.
    """
    rows = _predictions(readings, reading)
    pairs = rows.assign(
        relation=rows["label"], label=rows["label"] + "\n" + rows["layer"].astype(str)
    )
    best = at_chosen(pairs, ["beta"])
    grid = 100 * best.pivot_table(index="relation", columns="layer", values="score", sort=False)
    order = grid.mean(axis=1).sort_values(ascending=False).index
    counts = best.groupby("relation")["sample"].nunique()
    grid = grid.loc[order].rename(index=lambda name: f"{name} ({counts[name]})")
    grid = grid.reindex(columns=sorted(grid.columns)).rename_axis(index="relation (n)")
    width, height = size_of(grid, 17.0)
    still = at_chosen(rows[rows["beta"] == 0], ["layer"])
    constant = 100 * float(still.groupby("label")["score"].mean().max())
    with panels(1, width + 1.2, height) as (figure, (axis,)):
        draw_map(axis, grid, "faithfulness (%)", width=width, largest=100.0)
        axis.set_title("From which layers is a relation linear?")
        axis.set_xlabel("layer whose output is mapped")
        caption(
            figure,
            [
                "Cells: share of test prompts whose prediction is the model's top token, among",
                "those that it answers correctly; factor chosen on the val split. Control: a",
                f"constant answer reaches at most {constant:.3g} %.",
            ],
        )
    return figure


def _predictions(readings: Mapping[str, pd.DataFrame], reading: str) -> pd.DataFrame:
    table = table_of(readings, reading)
    return table[table["correct"] == 1].assign(score=table["agrees"])


def _faithful(
    readings: Mapping[str, pd.DataFrame], reading: str, cluster: str, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimate faithfulness by relation, of the chosen map and of the best constant answer."""
    rows = _predictions(readings, reading)
    best = at_chosen(rows, ["layer", "beta"])
    constant = at_chosen(rows[rows["beta"] == 0], ["layer"])
    faithful, control = (shares_by_label(each, cluster, seed) for each in (best, constant))
    return faithful.sort_values("mean", ascending=False), control


def _counted(scores: pd.DataFrame, metric: str, correct: str) -> pd.DataFrame:
    """Select the scores of a metric on prompts that the unedited model answers correctly."""
    baseline = select(scores, metric=correct, role=BASELINE)
    right = baseline.loc[baseline["score"] == 1, "sample"]
    rows = select(scores, metric=metric)
    return rows[rows["sample"].isin(right)]


def _causal(
    counted: pd.DataFrame, arm: str, random: str, cluster: str, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimate causality by relation: of the edit, and of the random edit at its settings."""
    edited = at_chosen(steered_of(select(counted, arm=arm)), ["layer", "rank"])
    settings = edited[["label", "layer", "rank"]].drop_duplicates()
    rows = select(steered_of(select(counted, arm=random)), split="test")
    drawn = rows.merge(settings, on=["label", "layer", "rank"])
    return shares_by_label(edited, cluster, seed), shares_by_label(drawn, cluster, seed)


def _bars(
    axis: Axes,
    names: list[str],
    series: list[tuple[pd.DataFrame, str]],
    counted: pd.DataFrame,
) -> None:
    """Draw a group of horizontal bars with intervals for each name."""
    height = 0.8 / len(series)
    for number, (estimates, colour) in enumerate(series):
        rows = 100 * estimates.reindex(names)
        at = np.arange(len(names)) + (number - (len(series) - 1) / 2) * height
        axis.barh(at, rows["mean"], height=0.9 * height, color=colour)
        axis.hlines(at, rows["low"], rows["high"], color="#222222", lw=1.2)
    axis.grid(False)
    axis.grid(True, axis="x")
    axis.set_yticks(range(len(names)), [f"{name} ({int(counted['n'][name])})" for name in names])
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set_xlim(0, 102)


def _left_out(readings: Mapping[str, pd.DataFrame], reading: str, names: list[str]) -> str:
    """Name the relations without correct answers on both splits."""
    others = [name for name in table_of(readings, reading)["label"].unique() if name not in names]
    return f"Without correct answers: {', '.join(others)}." if others else ""
