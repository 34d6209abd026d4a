"""Curves of arms over an axis of their conditions, at values of another axis chosen on val rows."""

from typing import Annotated

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, AxisName, OneOf, Range
from pipeline.measures.bands import Band, band_over
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import bands_in_words, draw_band, draw_curve, legend_key
from pipeline.views.panels import caption, layer_axis, legend, panels, percent_axis, styles_of
from pipeline.views.selection import (
    baseline_of,
    counts_in_words,
    label_of,
    rows_told_apart,
    select,
    shown_times,
    steered_of,
)


def arms_by_axis(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    cluster: str,
    seed: int,
    *,
    arms: list[str],
    metric: str,
    x: AxisName,
    chosen: AxisName,
    controls: list[ArmName] | None = None,
    goal: Annotated[str, OneOf("raise", "lower")] = "raise",
    at_least: Annotated[float, Range(0)] = 0.0,
) -> Figure:
    """Plot the test mean of each arm over an axis, at the value of another axis chosen on val rows.

    The value of axis `chosen` has the best mean over all of x on the val split; it is the arm's,
    also for its control.

    Args:
        summary: means of conditions on the val and the test split.
        scores: of samples under conditions.
        cluster: a dataset column whose values are resampled together.
        seed: of the bootstrap.
        arms: one curve each.
        metric: the metric of the scores.
        x: the horizontal axis, of numbers.
        chosen: the axis with the value that val rows choose.
        controls: one arm for each of `arms`, or none.
        goal: `raise` or `lower` the metric.
        at_least: the smallest value of `chosen` to choose from.

    Raises:
        ValueError: an unknown goal, another number of controls, no such arm, metric, split or axis,
            or conditions that also differ in another axis.
    """
    if goal not in ("raise", "lower"):
        raise ValueError(f"goal {goal!r} is unknown; valid: raise, lower")
    if controls and len(controls) != len(arms):
        raise ValueError(f"{len(controls)} controls of {len(arms)} arms; valid: one for each")
    for axis_name in (x, chosen):
        if axis_name not in summary:
            raise ValueError(f"no axis {axis_name!r}; valid: {', '.join(summary)}")
    test = select(summary, split="test", arm=arms, metric=metric)
    share, percent = bool(test["share"].iloc[0]), bool(test["percent"].all())
    within = (0.0, 1.0) if percent else None
    bands: list[Band] = []
    choices: list[str] = []
    keys, unit = {}, " %" if percent else ""
    styles = styles_of(arms, once=bool(controls))
    with panels(1, 8.5) as (figure, (axis,)):
        for number, arm in enumerate(arms):
            value = _chosen(summary, arm, metric, chosen, goal, at_least)
            colour, ls = styles[arm]["color"], styles[arm]["ls"]
            named = [arm, *(controls[number : number + 1] if controls else [])]
            for each in named:
                means = steered_of(select(summary, split="test", arm=each, metric=metric))
                means = rows_told_apart(select(means, **{chosen: value}), [x])
                at = means[x].tolist()
                if each != arm:
                    axis.plot(at, means["mean"], color=colour, lw=1.5, ls="--")
                    continue
                rows = steered_of(select(scores, split="test", arm=each, metric=metric))
                band = band_over(
                    select(rows, **{chosen: value}),
                    x,
                    at,
                    cluster=cluster,
                    share=share,
                    bounded=percent,
                    seed=seed,
                )
                bands.append(band)
                draw_band(axis, at, band, colour, within=within)
                draw_curve(axis, at, pd.Series(band.mean), colour, label=each, ls=ls)
            reference = baseline_of(select(test, arm=arm))["mean"] * shown_times(test)
            choices.append(f"{in_words(arm)} {tick(value)} (unedited: {reference:.3g}{unit})")
            keys[in_words(arm)] = legend_key(lw=2.4, **styles[arm])
        if percent:
            percent_axis(axis)
        axis.set_xlabel(in_words(x))
        axis.set_ylabel(label_of(test))
        if "layer" in x:
            layer_axis(axis)
        if controls:
            keys["control of the same colour"] = legend_key(ls="--")
        legend(figure, keys)
        caption(
            figure,
            [
                f"Test split, {counts_in_words(steered_of(test))};",
                f"{bands_in_words(bands, cluster, x)}.",
                f"{in_words(chosen).capitalize()}, chosen on the val split among those from "
                f"{at_least:g} on: {', '.join(choices)}.",
                f"Dashed: {', '.join(map(in_words, controls))}." if controls else "No control.",
            ],
        )
    return figure


def _chosen(
    summary: pd.DataFrame, arm: str, metric: str, chosen: str, goal: str, at_least: float
) -> float:
    """Return the value of an axis with the best mean on the val split, the first if several.

    Raises:
        ValueError: no value is as large as `at_least`.
    """
    means = steered_of(select(summary, split="val", arm=arm, metric=metric))
    means = means[means[chosen] >= at_least]
    if means.empty:
        raise ValueError(f"at_least {at_least:g}: no {chosen} of arm {arm} is as large")
    by_value = means.groupby(chosen)["mean"].mean()
    return float(by_value.idxmax() if goal == "raise" else by_value.idxmin())
