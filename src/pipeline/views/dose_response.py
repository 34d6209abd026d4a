"""A metric against the activation that neurons are clamped at."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.config.declared import OneOrMore, ReadingName
from pipeline.views.marks import GREY, draw_reference, legend_key
from pipeline.views.neurons import called
from pipeline.views.panels import caption, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import (
    baseline_of,
    controls_of,
    fitted_of,
    label_of,
    select,
    shown_times,
)


def dose_response(
    summary: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    *,
    arm: str,
    metric: str,
    activations: ReadingName,
    most: OneOrMore = 6,
    split: str = "test",
) -> Figure:
    """Draw a metric against the activation that neurons are clamped at, one panel per neuron.

    Lines: mean over prompts of each label, with 95 % intervals. Vertical bands: the 5 to 95 %
    quantiles of the natural activation under that label, its median dotted. Grey: random neurons in
    their place. Dashed: no intervention.

    Args:
        summary: means of conditions.
        readings: tables by name.
        arm: of `neurons.arms.clamped_neurons`.
        metric: a metric.
        activations: of `neurons.readings.neuron_activations`.
        most: panels; neurons together first, then the first ones alone.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, split or reading.
    """
    means = select(summary, split=split, arm=arm, metric=metric)
    natural = table_of(readings, activations)
    clamped, random = fitted_of(means), controls_of(means)
    names = sorted(dict.fromkeys(clamped["neuron"]), key=lambda name: name.startswith("blocks."))
    labels = sorted(means["label"].unique())
    styles = styles_of(labels)
    groups = natural.drop_duplicates("neuron").set_index("neuron")["group"]
    times = shown_times(means)
    with panels(min(most, len(names)), 4.6, 3.9) as (figure, axes):
        for axis, name in zip(axes, names, strict=False):
            key = "neuron" if name in groups.index else "group"
            for label, style in styles.items():
                colour = style["color"]
                usual = natural[(natural[key] == name) & (natural["label"] == label)]["multiple"]
                low, middle, high = usual.quantile([0.05, 0.5, 0.95])
                axis.axvspan(low, high, color=colour, alpha=0.13, lw=0)
                axis.axvline(middle, color=colour, ls=":", lw=1.3)
                draw_reference(axis, baseline_of(select(means, label=label)), colour)
                _draw_dose(axis, random, name, label, times, color=GREY, lw=1.2)
                _draw_dose(axis, clamped, name, label, times, lw=2.2, **style)
            axis.set_title(called(name, groups.get(name)) if key == "neuron" else name)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("activation / mean activation")
        limits = clamped["multiple"].astype(float)
        axes[0].set_xlim(limits.min() - 0.1, limits.max() + 0.1)
        axes[0].set_ylabel(_wrapped(label_of(means)))
        keys = {label: legend_key(lw=2.2, marker="o", **style) for label, style in styles.items()}
        keys |= {
            "no intervention": legend_key(ls="--"),
            "control: random neurons": legend_key(lw=1.2),
        }
        legend(figure, keys)
        caption(figure, _dose_in_words(means, split, labels))
    return figure


def _draw_dose(
    axis: Axes, means: pd.DataFrame, name: str, label: str, times: int, **style: Any
) -> None:
    rows = means[(means["neuron"] == name) & (means["label"] == label)]
    for _, draw in rows.groupby("draw"):
        curve = draw.sort_values("multiple")
        x = curve["multiple"].astype(float)
        if style["color"] != GREY:
            low, high = times * curve["low"].astype(float), times * curve["high"].astype(float)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.2, lw=0)
        marker = "" if style["color"] == GREY else "o"
        axis.plot(x, times * curve["mean"].astype(float), marker=marker, ms=4, **style)


def _wrapped(text: str) -> str:
    """Break a long axis label once, before `against`."""
    return text.replace(" against ", "\nagainst ")


def _dose_in_words(means: pd.DataFrame, split: str, labels: Sequence[str]) -> list[str]:
    n = int(means["n"].max())
    return [
        f"{split.capitalize()} split, n = {n} prompts of each label ({', '.join(labels)}), lines:",
        "mean with 95 % interval. Neurons are clamped at multiples of their mean activation under",
        "their own label; 0 is zero ablation. Vertical bands: 5 to 95 % of the natural activation",
        "under each label, dotted: its median. Grey: random neurons of the same layer and mean",
        "activation, clamped at multiples of their own means.",
    ]
