"""Heat maps of a score over two axes of an arm's conditions."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, AxisName, Label
from pipeline.data.roles import BASELINE
from pipeline.measures.statistics import wilson
from pipeline.views.heat_maps import draw_map, grid_of, in_words, map_of_means, size_of, tick
from pipeline.views.panels import caption, panels
from pipeline.views.selection import (
    baseline_in_words,
    controls_of,
    counts_in_words,
    fitted_of,
    label_of,
    rows_told_apart,
    select,
    shown_times,
    steered_of,
)

_PAIR = ["sample", "repeat"]
"""Key that pairs a condition's score with the baseline's."""


def axes_map(
    summary: pd.DataFrame,
    *,
    arm: str,
    metric: str,
    x: AxisName,
    y: AxisName,
    split: str = "test",
    label: Label | None = None,
    control: ArmName | None = None,
) -> Figure:
    """Draw the mean score of every condition of an arm over two axes as a heat map.

    Shares are in per cent on a scale from 0 to 100. Hatched: not measured or not scored. The
    baseline and the range of the controls, of this arm or of another, are in the caption.

    Args:
        summary: means of conditions, with `role`, `percent`, `metric_label` and the axes.
        arm: the arm of the conditions.
        metric: the metric of the means.
        x: the horizontal axis.
        y: the vertical axis.
        split: of the dataset.
        label: of the prompts, if the arm runs on several labels.
        control: another arm whose conditions are controls of this one's.

    Raises:
        ValueError: no such arm, metric, split, label or axis, prompts of several labels, or
            conditions that also differ in another axis.
    """
    means = select(summary, split=split, arm=arm, metric=metric)
    means = means if label is None else select(means, label=label)
    labels = sorted(means["label"].unique())
    if len(labels) > 1:
        raise ValueError(f"arm {arm} has prompts of several labels; give one: {', '.join(labels)}")
    _check_axes(means, x, y)
    mapped = rows_told_apart(fitted_of(means), [x, y])
    others = means if control is None else select(summary, split=split, arm=control, metric=metric)
    others = others if label is None else select(others, label=label)
    controls = controls_of(others)["mean"] * shown_times(means)
    with map_of_means(mapped, x, y) as (figure, axis, called):
        axis.set_title(f"{label_of(means)}: {in_words(arm)}")
        caption(
            figure,
            [
                f"Cells: {called}, mean; hatched: not measured.",
                f"{split.capitalize()} split, prompts labelled {labels[0]}, "
                f"{counts_in_words(mapped)}.",
                baseline_in_words(means),
                "No controls in this arm."
                if controls.empty
                else f"{'Controls' if control is None else in_words(control).capitalize()}: "
                f"{controls.min():.3g} to {controls.max():.3g}.",
            ],
        )
    return figure


def fixed_and_broken(
    scores: pd.DataFrame,
    *,
    arm: str,
    metric: str,
    x: AxisName,
    y: AxisName,
    control: ArmName | None = None,
    split: str = "test",
) -> Figure:
    """Draw two maps: share of wrong answers that become right, and of right ones that become wrong.

    fixed = P(score 1 | baseline 0), broken = P(score 0 | baseline 1), on the same samples and
    repeats. The share fixed by the best of many conditions, or by any of them, is biased upward by
    selection; the same numbers of a control arm show by how much.

    Args:
        scores: of samples under conditions, with `role` and the axes as columns.
        arm: the arm of the conditions.
        metric: a metric with scores of 0 and 1.
        x: the horizontal axis.
        y: the vertical axis.
        control: another arm over the same axes, such as one with states of other prompts.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, split or axis, a sample with several baselines, scores
            other than 0 and 1, or conditions that also differ in another axis.

    Source: Biran et al. 2024.
    """
    changes, unscored = _changes(scores, arm, metric, split, x, y)
    sides = [
        ("Fixed", "wrong", "become right", changes[changes["before"] == 0]),
        ("Broken", "right", "become wrong", changes[changes["before"] == 1]),
    ]
    grids = [100 * grid_of(rows, x, y, "changed", changes) for *_, rows in sides]
    # Both maps share one colour scale, so that colours are comparable.
    largest = max(10.0, *(float(np.nan_to_num(grid).max()) for grid in grids))
    width, height = size_of(grids[0], 8.5)
    with panels(2, width, height) as (figure, axes):
        for axis, grid, (title, which, become, rows) in zip(axes, grids, sides, strict=True):
            label = f"{which} answers that {become} (%)"
            draw_map(axis, grid, label, width=width, largest=largest)
            axis.set_title(f"{title}: n = {len(rows.drop_duplicates(_PAIR))} {which} answers")
        sentences = [
            f"{split.capitalize()} split, {in_words(arm)}, n in the titles, {unscored}",
            "unscored pairs left out. Wrong and right: without intervention.",
            f"Fixed: {_best_in_words(sides[0][-1], x, y)}",
        ]
        if control is None:
            sentences.append("No control.")
        else:
            others, _ = _changes(scores, control, metric, split, x, y)
            fixed = _best_in_words(others[others["before"] == 0], x, y)
            sentences.append(f"Control, {in_words(control)}: {fixed}")
        caption(figure, [*sentences, "Hatched: not measured."])
    return figure


def _changes(
    scores: pd.DataFrame, arm: str, metric: str, split: str, x: str, y: str
) -> tuple[pd.DataFrame, int]:
    """Pair an arm's scores with the baseline's (`before`), and count pairs lacking a score."""
    rows = select(scores, split=split, arm=arm, metric=metric)
    _check_axes(rows, x, y)
    baseline, edited = select(rows, role=BASELINE), steered_of(rows)
    for table, keys in ((baseline, _PAIR), (edited, [x, y, *_PAIR])):
        if table.duplicated(keys).any():
            raise ValueError(f"arm {arm} has several scores of one {', '.join(keys)}; valid: one")
    paired = edited.merge(baseline[[*_PAIR, "score"]].rename(columns={"score": "before"}), on=_PAIR)
    scored = paired.dropna(subset=["score", "before"])
    other = scored.loc[~scored["score"].isin([0, 1]), "score"]
    if len(other):
        raise ValueError(f"metric {metric} has the score {other.iloc[0]:g}; valid: 0 and 1")
    return scored.assign(changed=scored["score"] != scored["before"]), len(paired) - len(scored)


def _best_in_words(wrong: pd.DataFrame, x: str, y: str) -> str:
    """State how many wrong answers the best condition and any condition fix."""
    if wrong.empty:
        return "no answer is wrong."
    n = len(wrong.drop_duplicates(_PAIR))
    fixed = wrong.groupby([x, y])["changed"].sum()
    if not fixed.any():
        return f"none of {n} by any of {len(fixed)} conditions."
    best = fixed.idxmax()
    anywhere = int(wrong.groupby(_PAIR)["changed"].any().sum())
    low, high = (100 * float(bound) for bound in wilson(anywhere / n, n))
    return (
        f"at most {fixed.max()} of {n} by one condition ({in_words(x)} {tick(best[0])}, "
        f"{in_words(y)} {tick(best[1])}), {anywhere} by any of {len(fixed)} "
        f"({100 * anywhere / n:.0f} %, 95 % interval {low:.0f} to {high:.0f})."
    )


def _check_axes(table: pd.DataFrame, x: str, y: str) -> None:
    for axis in (x, y):
        if axis not in table:
            raise ValueError(f"no axis {axis!r}; valid: {', '.join(table)}")
