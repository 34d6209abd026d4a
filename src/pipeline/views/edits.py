"""Figures of edits: shares of outputs that change, by arm, against an axis."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import AxisName, ShareName
from pipeline.data.roles import BASELINE
from pipeline.measures.statistics import Estimate, estimate
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import control_keys, draw_controls, draw_estimates, legend_key
from pipeline.views.panels import caption, legend, panels, percent_axis, styles_of
from pipeline.views.selection import (
    controls_in_words,
    controls_of,
    fitted_of,
    label_of,
    rows_told_apart,
    select,
    steered_of,
)


def shares_by_axis(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arms: list[str],
    metrics: list[ShareName],
    x: AxisName,
    right: ShareName | None = None,
    split: str = "test",
) -> Figure:
    """Plot shares against an axis of the conditions: one panel a metric, one line an arm.

    Lines: an arm's fitted conditions, or those of an arm of controls. Grey: controls of the former.

    Args:
        scores: of samples under conditions, with `role` and the axes as columns.
        summary: means, for the metrics' names.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.
        arms: the arms to compare, such as an edit and its controls.
        metrics: metrics with scores of 0 and 1.
        x: the horizontal axis; its values are drawn at equal distances.
        right: only samples that score 1 in this metric without intervention; None: all.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, axis or split, no sample that scores 1 in `right`, or a
            metric that is no share; or conditions of an arm that agree in x.
    """
    rows = select(scores, split=split, arm=arms)
    if x not in rows:
        raise ValueError(f"no axis {x!r}; valid: {', '.join(rows)}")
    total = rows["sample"].nunique()
    if right is not None:
        before = select(rows, role=BASELINE, metric=right)
        samples = before.loc[before["score"] == 1, "sample"].unique()
        if not len(samples):
            raise ValueError(f"no sample of {total} scores 1 in {right} without intervention")
        rows = rows[rows["sample"].isin(samples)]
    edited = pd.concat([_drawn(rows, arm, x) for arm in arms])
    styles = styles_of(arms)
    grey = controls_of(rows[rows["arm"].isin(fitted_of(rows)["arm"])])
    places = {value: place for place, value in enumerate(sorted(edited[x].dropna().unique()))}
    with panels(len(metrics)) as (figure, axes):
        for axis, metric in zip(axes, metrics, strict=True):
            scored = select(edited, metric=metric)
            if not scored["score"].dropna().isin([0, 1]).all():
                raise ValueError(f"metric {metric} is no share; valid: scores of 0 and 1")
            for number, (arm, style) in enumerate(styles.items()):
                estimates = pd.DataFrame(
                    [
                        {x: places[value], **vars(_share(group, cluster, seed))}
                        for value, group in select(scored, arm=arm).groupby(x)
                    ]
                )
                shift = min(0.08, 0.6 / len(arms)) * (number - (len(arms) - 1) / 2)
                of_arm = grey[(grey["arm"] == arm) & (grey["metric"] == metric)]
                _draw_draws(axis, of_arm, x, places, shift, style["color"])
                colour, ls = style["color"], style["ls"]
                draw_estimates(axis, estimates, x, colour, shift, arm, ls=ls)
            percent_axis(axis)
            axis.set_xticks(list(places.values()), [tick(value) for value in places])
            axis.set_xlabel(in_words(x))
            axis.set_title(label_of(select(summary, metric=metric)))
        axes[0].set_ylabel("share of samples")
        keys = {
            in_words(arm): legend_key(lw=2, marker="o", **style) for arm, style in styles.items()
        }
        legend(figure, keys | control_keys(grey) if "source" in grey else keys)
        n, clusters = rows["sample"].nunique(), rows[cluster].nunique()
        which = "" if right is None else f" of {total}: those {right} without intervention"
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {n} samples{which}.",
                f"Bars: 95 % intervals over {clusters} {cluster}s.",
                _controls_in_words(edited, grey),
            ],
        )
    return figure


def _drawn(rows: pd.DataFrame, arm: str, x: str) -> pd.DataFrame:
    """Select an arm's fitted conditions, or all of an arm of controls: one for each value of x."""
    of_arm = steered_of(rows[rows["arm"] == arm])
    fitted = fitted_of(of_arm)
    drawn = of_arm if fitted.empty else fitted
    rows_told_apart(drawn.drop_duplicates("condition").dropna(subset=x), [x])
    return drawn


def _draw_draws(
    axis: Axes,
    scored: pd.DataFrame,
    x: str,
    places: Mapping[Any, int],
    shift: float,
    colour: str,
) -> None:
    """Draw the share of each control condition in grey: mean and range over draws."""
    if scored.empty:
        return
    means = scored.groupby(["source", "condition", x])["score"].mean().rename("mean").reset_index()
    means[x] = means[x].map(places)
    draw_controls(axis, means.dropna(subset=x), x, shift=shift, apart=0.06, fill=colour)


def _controls_in_words(edited: pd.DataFrame, grey: pd.DataFrame) -> str:
    """State which lines are controls, and what the grey markers are."""
    lines = dict.fromkeys(controls_of(edited)["arm"])
    named = f"Controls: the lines {', '.join(map(in_words, lines))}." if lines else ""
    if grey.empty:
        return named or "No controls."
    return f"{named} {controls_in_words(grey)} They are filled in their line's colour.".strip()


def _share(rows: pd.DataFrame, cluster: str, seed: int) -> Estimate:
    return estimate(rows["score"], rows[cluster], proportion=True, seed=seed)
