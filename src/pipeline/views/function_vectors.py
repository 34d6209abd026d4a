"""Figures of inserted task vectors by task, and of heads' indirect effects."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.config.declared import ArmName, ChosenArmName, ShareName
from pipeline.data.roles import BASELINE
from pipeline.measures.bands import band_over
from pipeline.measures.statistics import estimate, summarise
from pipeline.views.marks import (
    GREY,
    bands_in_words,
    control_keys,
    draw_band,
    draw_controls,
    draw_curve,
    draw_reference,
    legend_key,
    ring_setting,
    setting_key,
)
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels, percent_axis
from pipeline.views.readings import table_of
from pipeline.views.selection import (
    CONTROLS,
    baseline_of,
    controls_in_words,
    fitted_of,
    label_of,
    rows_told_apart,
    select,
)

_KEYS = ["condition", "role", "source", "draw", "layer", "is_setting", "strength", "intervention"]
_SHADES = {
    "shuffled": "#8c8c8c",
    "covariance": "#737373",
    "isotropic": "#595959",
    "other_task": "#CC79A7",
    "other_heads": "#E69F00",
}
"""Colours of controls, in legend order."""


def insertion_by_layer(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arm: ChosenArmName,
    shown: ArmName,
    metric: ShareName,
    split: str = "test",
) -> Figure:
    """Plot the share of right answers against the layer of insertion, one panel per task.

    At the arm's chosen strength. Line: the task's vector, with a 95 % band; ringed: the chosen
    layer. Dashed: the same prompts without intervention, and the prompts of arm `shown`, with their
    intervals. Grey markers: controls, mean and range over their draws.

    Args:
        summary: means of conditions, for the metric's name.
        scores: of samples under conditions; their topic is the task.
        cluster: what intervals are clustered by.
        seed: of the bootstrap.
        arm: of `insertion.insert_task_vector`.
        shown: an arm without conditions, whose prompts have true shots.
        metric: a share.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric or split, or a metric that is no share.
    """
    called = _share(summary, metric)
    rows = select(scores, split=split, arm=[arm, shown], metric=metric)
    tasks = sorted(rows["topic"].unique(), key=str.casefold)
    bands, counts, drawn = [], [], []
    with panels(len(tasks), height=3.6) as (figure, axes):
        for axis, task in zip(axes, tasks, strict=True):
            inserted, demonstrated = _of_task(rows, arm, shown, task)
            means = _means(inserted, cluster, seed)
            fitted = rows_told_apart(fitted_of(means), ["layer"])
            layers = fitted["layer"].astype(int).tolist()
            draw_reference(axis, baseline_of(means.assign(arm=arm)), GREY)
            reference = _means(demonstrated, cluster, seed)
            draw_reference(axis, baseline_of(reference.assign(arm=shown)), COLOURS[2])
            draw_controls(axis, means, "layer", apart=0.2)
            band = band_over(
                fitted_of(inserted), "layer", layers, cluster=cluster, share=True, seed=seed
            )
            bands.append(band)
            draw_band(axis, layers, band, COLOURS[0], within=(0.0, 1.0))
            draw_curve(axis, layers, fitted["mean"], COLOURS[0], label=task)
            ring_setting(axis, fitted, "layer")
            counts.append(int(fitted["n"].max()))
            drawn.append(means)
            axis.set_title(f"{task}, n = {counts[-1]}")
            axis.set_xlabel("layer of insertion")
            axis.tick_params(labelbottom=True)
            layer_axis(axis)
        percent_axis(axes[0])
        for axis in axes[:: min(len(tasks), 3)]:
            axis.set_ylabel(called)
        every = pd.concat(drawn)
        keys = {
            "vector of the task": legend_key(color=COLOURS[0], lw=2.4),
            f"no vector ({arm})": legend_key(ls="--"),
            f"demonstrations ({shown})": legend_key(color=COLOURS[2], ls="--"),
        }
        legend(figure, keys | setting_key() | control_keys(every))
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {sum(counts)} prompts in {len(tasks)} tasks,",
                f"strength {fitted['strength'].iloc[0]:g}, added at the last token of the block's"
                if (fitted["intervention"] == "add").all()
                else "put in place of the last token's state at the block's",
                f"output. Line: its vector; {bands_in_words(bands, cluster)}. Dashed: without a",
                f"vector, strips: 95 % intervals. {controls_in_words(every)}",
            ],
        )
    return figure


def insertion_bars(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arms: list[ChosenArmName],
    shown: ArmName,
    metric: ShareName,
    split: str = "test",
) -> Figure:
    """Draw the share of right answers by task at the settings chosen on validation, as bars.

    A panel per arm: no vector, each control (mean over its draws, without an interval), the task's
    vector, and the prompts of arm `shown`; the last group is the mean over tasks.

    Args:
        summary: means of conditions, for the metric's name.
        scores: of samples under conditions, with `is_setting`.
        cluster: what intervals are clustered by.
        seed: of the bootstrap.
        arms: arms of `insertion.insert_task_vector`.
        shown: an arm without conditions, whose prompts have true shots.
        metric: a share.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric or split, or a metric that is no share.
    """
    called = _share(summary, metric)
    rows = select(scores, split=split, arm=[*arms, shown], metric=metric)
    tasks = sorted(rows["topic"].unique(), key=str.casefold)
    every = [*tasks, "mean of tasks"]
    notes = []
    with panels(len(arms), width=max(5.2, 0.85 * len(every)), height=3.8) as (figure, axes):
        keys: dict[str, Any] = {}
        for axis, arm in zip(axes, arms, strict=True):
            at = select(rows, arm=arm)
            setting = fitted_of(at[at["is_setting"]])
            layer, strength = setting[["layer", "strength"]].iloc[0]
            chosen = at[(at["role"] == BASELINE) | (at["at_setting"] & (at["layer"] == layer))]
            bars = {
                "no vector": (select(chosen, role=BASELINE), "#bdbdbd"),
                **{
                    f"control: {CONTROLS[source]}": (select(chosen, source=source), shade)
                    for source, shade in _SHADES.items()
                    if (chosen["source"] == source).any()
                },
                "vector of the task": (fitted_of(chosen), COLOURS[0]),
                f"demonstrations ({shown})": (select(rows, arm=shown), COLOURS[2]),
            }
            width = 0.84 / len(bars)
            for number, (name, (table, colour)) in enumerate(bars.items()):
                means = _bars(table, tasks, cluster, seed)
                x = np.arange(len(every)) + (number - (len(bars) - 1) / 2) * width
                axis.bar(x, means["mean"], width, color=colour, zorder=2)
                axis.vlines(x, means["low"], means["high"], color="#333333", lw=1.1, zorder=3)
                keys[name] = legend_key(color=colour, lw=7)
            axis.axvline(len(tasks) - 0.5, color="#999999", lw=0.8)
            axis.set_xticks(range(len(every)), [textwrap.fill(t, 11) for t in every], fontsize=10)
            axis.tick_params(axis="x", length=0, labelbottom=True)
            axis.set_title(f"{arm}: layer {layer:g}, strength {strength:g}")
            notes.append(f"{arm} {len(setting['sample'].unique())}")
        percent_axis(axes[0])
        axes[0].set_ylabel(called)
        legend(figure, keys)
        caption(
            figure,
            [
                f"{split.capitalize()} split, layer and strength chosen on validation, number of",
                f"prompts: {', '.join(notes)}. Lines: 95 % intervals over {cluster}s, of controls",
                "none: mean over draws. Last group: mean of the tasks, interval clustered by task.",
            ],
        )
    return figure


def head_effects_map(
    readings: Mapping[str, pd.DataFrame], *, reading: str, task: str = "all"
) -> Figure:
    """Draw the mean indirect effect of every head as a heat map, the top heads framed.

    Args:
        readings: tables by name.
        reading: of `function_vectors.head_effects`.
        task: a task, or `all` for the mean over tasks.

    Raises:
        ValueError: no such reading or task.
    """
    table = select(table_of(readings, reading), task=task)
    grid = table.pivot(index="layer", columns="head", values="effect")
    layers, heads = grid.shape
    most = float(grid.abs().to_numpy().max())
    p = table["p_adjusted"].dropna()
    width = float(np.clip(0.45 * heads + 3, 6, 14))
    with panels(1, width, float(np.clip(0.3 * layers + 1.4, 3.4, 9))) as (figure, (axis,)):
        image = axis.imshow(
            grid, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-most, vmax=most
        )
        figure.colorbar(image, ax=axis, label="mean change of p(answer)", pad=0.02)
        for row in table[table["is_top"]].to_dict("records"):
            corner = (row["head"] - 0.5, row["layer"] - 0.5)
            style: dict[str, Any] = {"fill": False, "ec": "#111111", "lw": 1.8, "clip_on": False}
            axis.add_patch(Rectangle(corner, 1, 1, **style))
        axis.grid(False)
        axis.set_xlabel("head")
        axis.set_ylabel("layer")
        axis.set_xticks(range(0, heads, -(-heads // 16)))
        axis.set_yticks(range(0, layers, -(-layers // 10)))
        axis.tick_params(length=0)
        what = "mean over tasks" if task == "all" else task
        axis.set_title(f"Indirect effect of each head: {what}")
        top = table[table["is_top"]].sort_values("effect", ascending=False)
        best = top.iloc[0]
        error = 1.96 * best["stderr"]
        certainty = (
            f", 95 % interval {best['effect'] - error:+.3f} to {best['effect'] + error:+.3f}. "
            f"{(p < 0.05).sum()} of {len(p)} heads are above 0 at a false discovery rate of 5 %."
            if len(p)
            else ". No head is tested: one prompt of a task has no variance."
        )
        caption(
            figure,
            [
                f"Cells: p(answer | head := its mean) - p(answer), train split, n = {best['n']}",
                f"prompts ({best['label']}), heads chosen and measured on the same prompts.",
                f"Framed: the {len(top)} top heads. Strongest: {best['layer']:.0f}."
                f"{best['head']:.0f}, {best['effect']:+.3f}{certainty}",
                "Control: the same prompts without replacement.",
            ],
        )
    return figure


def _share(summary: pd.DataFrame, metric: str) -> str:
    means = select(summary, metric=metric)
    if not means["share"].all():
        raise ValueError(f"metric {metric} is no share; valid: one such as answer_is_top")
    return label_of(means)


def _of_task(
    rows: pd.DataFrame, arm: str, shown: str, task: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a task's rows of the arm at its chosen setting, and of the arm with demonstrations."""
    of_task = select(rows, topic=task)
    inserted = select(of_task, arm=arm)
    inserted = inserted[(inserted["role"] == BASELINE) | inserted["at_setting"]]
    return inserted, select(of_task, arm=shown, role=BASELINE)


def _means(rows: pd.DataFrame, cluster: str, seed: int) -> pd.DataFrame:
    return summarise(rows, [*_KEYS, "metric"], shares={*rows["metric"]}, cluster=cluster, seed=seed)


def _bars(rows: pd.DataFrame, tasks: list[str], cluster: str, seed: int) -> pd.DataFrame:
    """Average the rows of each task and all rows; of several conditions, without an interval."""
    shares = list(rows["metric"].unique())
    means = summarise(rows, ["topic", "metric"], shares=shares, cluster=cluster, seed=seed)
    means = means.set_index("topic").loc[tasks, ["mean", "low", "high"]].astype(float)
    # Each task counts once, however many items it has.
    whole, names = means["mean"], means.index.to_series()
    overall = estimate(whole, names, proportion=False, seed=seed, within=(0.0, 1.0))
    means.loc["mean of tasks"] = [overall.mean, overall.low, overall.high]
    if rows["condition"].nunique() > 1:
        means[["low", "high"]] = np.nan
    return means
