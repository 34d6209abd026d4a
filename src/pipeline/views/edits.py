"""Figures of edits: shares of outputs that change, by arm, against an axis."""

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import AxisName, MetricName
from pipeline.data.roles import BASELINE
from pipeline.measures.statistics import Estimate, estimate
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import draw_estimates, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels, percent_axis
from pipeline.views.selection import label_of, select, steered_of


def shares_by_axis(
    scores: pd.DataFrame,
    summary: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arms: list[str],
    metrics: list[str],
    x: AxisName,
    right: MetricName | None = None,
    split: str = "test",
) -> Figure:
    """Plot shares against an axis of the conditions: one panel a metric, one line an arm.

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
            metric that is no share.
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
    edited = steered_of(rows)
    places = {value: place for place, value in enumerate(sorted(edited[x].dropna().unique()))}
    with panels(len(metrics)) as (figure, axes):
        for axis, metric in zip(axes, metrics, strict=True):
            scored = select(edited, metric=metric)
            if not scored["score"].dropna().isin([0, 1]).all():
                raise ValueError(f"metric {metric} is no share; valid: scores of 0 and 1")
            for number, arm in enumerate(arms):
                estimates = pd.DataFrame(
                    [
                        {x: places[value], **vars(_share(group, cluster, seed))}
                        for value, group in select(scored, arm=arm).groupby(x)
                    ]
                )
                shift = 0.08 * (number - (len(arms) - 1) / 2)
                draw_estimates(axis, estimates, x, COLOURS[number], shift, arm)
            percent_axis(axis)
            axis.set_xticks(list(places.values()), [tick(value) for value in places])
            axis.set_xlabel(in_words(x))
            axis.set_title(label_of(select(summary, metric=metric)))
        axes[0].set_ylabel("share of samples")
        keys = {
            in_words(arm): legend_key(color=COLOURS[number], lw=2, marker="o")
            for number, arm in enumerate(arms)
        }
        legend(figure, keys)
        n, clusters = rows["sample"].nunique(), rows[cluster].nunique()
        which = "" if right is None else f" of {total}: those {right} without intervention"
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {n} samples{which}.",
                f"Bars: 95 % intervals over {clusters} {cluster}s.",
                f"Controls: all lines but {in_words(arms[0])}.",
            ],
        )
    return figure


def _share(rows: pd.DataFrame, cluster: str, seed: int) -> Estimate:
    return estimate(rows["score"], rows[cluster], proportion=True, seed=seed)
