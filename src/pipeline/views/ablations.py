"""Figures of the effect of feature ablation on lists."""

from collections.abc import Mapping
from itertools import cycle
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.model.sites import Site
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels, styles_of
from pipeline.views.results import RULE_WORDS

AXES = {
    "n_items_mean": "items per list, change",
    "n_items_variance": "variance of items per list, change",
    "diversity_mean": "distinct items / all items of a topic, change",
    "diversity_variance": "variance of the share of items no other list has, change",
}
SERIES = {
    ("attributed", "firing"): (f"attributed, {RULE_WORDS['firing']}", COLOURS[1], "o"),
    ("attributed", "recorded"): (f"attributed, {RULE_WORDS['recorded']}", COLOURS[0], "o"),
    ("random", "firing"): (f"random, {RULE_WORDS['firing']}", GREY, "s"),
    ("random", "recorded"): (f"random, {RULE_WORDS['recorded']}", GREY, "^"),
    ("none", "all"): ("reconstruction alone", COLOURS[2], "D"),
}
"""(source, position rule) -> name, colour and marker."""

BESIDE = (*COLOURS[3:], "#000000")
"""Colours of the reference conditions."""

ROW = 0.55
"""Height of an autoencoder's row, in inches."""


def ablation_effects(table: pd.DataFrame, references: pd.DataFrame, column: str) -> Figure:
    """Draw ablated minus base for one of `AXES`, one row per autoencoder, with 95 % intervals.

    Args:
        table: `site`, `source`, `positions`, `column`, `mean`, `low`, `high`.
        references: `name`, `column`, `mean` of the reference conditions. All are in the caption;
            those near the effects are dashed lines too.
        column: the measure to draw.
    """
    rows = table[table["column"] == column]
    sites = sorted(set(rows["site"]), key=_component_and_layer)
    with panels(1, width=9.5, height=ROW * len(sites) + 1.6) as (figure, (axes,)):
        for index, key in enumerate(SERIES):
            series_rows = rows[(rows["source"] == key[0]) & (rows["positions"] == key[1])]
            shift = (index - (len(SERIES) - 1) / 2) * 0.15
            _series(axes, series_rows, sites, key, shift)
        axes.axvline(0, color=GREY, lw=1)
        largest = float(rows[["low", "high"]].astype(float).abs().max().max())
        of_column = references[references["column"] == column]
        near = of_column[of_column["mean"].abs() <= 2 * largest]
        keys = {
            name: legend_key(color=colour, marker=marker, mfc=_face(key), lw=0)
            for key, (name, colour, marker) in SERIES.items()
        }
        for name, mean, colour in zip(near["name"], near["mean"], cycle(BESIDE), strict=False):
            axes.axvline(mean, color=colour, lw=1.5, ls=(0, (5, 3)))
            keys[name] = legend_key(color=colour, ls=(0, (5, 3)))
        axes.set_yticks(range(len(sites)), sites)
        axes.set_ylim(len(sites) - 0.5, -0.6)
        axes.grid(axis="x")
        axes.set_xlabel(AXES[column])
        measure = AXES[column].removesuffix(", change")
        axes.set_title(fill(f"Ablating an autoencoder's features: {measure}", 72))
        legend(figure, keys)
        caption(
            figure,
            [
                "Ablated minus base, mean over topics; bars: 95 % intervals, topics resampled.",
                f"n = {int(rows['n'].max())} topics. Attributed: the features of each site that",
                "raise logit(blank) - logit(line break) most after the last item; random: draws of",
                "as many other active ones. Where recorded: at their places in the recorded list;",
                "wherever active: wherever they fire but at the first token. Without autoencoders: "
                + ", ".join(
                    f"{name} {mean:+.2g}"
                    for name, mean in zip(of_column["name"], of_column["mean"], strict=True)
                )
                + ".",
            ],
        )
    return figure


def _series(
    axes: Axes, own: pd.DataFrame, sites: list[str], key: tuple[str, str], shift: float
) -> None:
    _, colour, marker = SERIES[key]
    # A source may have no rows, which are then of no type.
    at = own["site"].map(sites.index).astype(float) + shift
    axes.hlines(at, own["low"].astype(float), own["high"].astype(float), color=colour, lw=1.5)
    axes.plot(own["mean"], at, marker, color=colour, mfc=_face(key), ms=6, lw=0, zorder=4)


def _face(key: tuple[str, str]) -> str:
    return "white" if key[0] == "random" else SERIES[key][1]


def _component_and_layer(site: str) -> tuple[str, int]:
    parsed = Site.parse(site)
    return parsed.component, parsed.layer


def attribution_check(checked: pd.DataFrame, ranks: Mapping[str, float], formula: str) -> Figure:
    """Plot attribution against the effect of ablation, one panel with its own scale per site.

    Args:
        checked: `site`, `attribution`, `effect`.
        ranks: Spearman's correlation by site.
        formula: of the metric, for the caption.
    """
    with panels(len(ranks), width=3.6, height=3.2, shared=False) as (figure, axes):
        for axis, (site, rank) in zip(axes, ranks.items(), strict=True):
            of_site = checked[checked["site"] == site]
            axis.axline((0, 0), slope=1, color=GREY, lw=1, ls="--")
            axis.plot(
                of_site["attribution"], of_site["effect"], "o", ms=4, alpha=0.6, color=COLOURS[0]
            )
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(MaxNLocator(4))
            axis.set_title(f"{site}\nrank correlation {rank:.2f}", fontsize=11)
            axis.set_xlabel("attribution", fontsize=11)
        figure.supylabel("change of the metric when ablated", fontsize=12)
        largest = int(checked.groupby("site").size().max())
        caption(
            figure,
            [
                "Attribution: gradient times activation. Dashed: equal. Each panel has its own",
                f"scale. Metric: {formula}. The",
                f"{largest} (sample, position, feature) of each site with the largest attribution.",
            ],
        )
    return figure


def list_anatomy(types: pd.DataFrame) -> Figure:
    """Plot the share of list items followed by a filler blank, by item counted from the end.

    Args:
        types: `label`, `from_end` (0 is the last item) and `blank`, whether a filler blank follows.
    """
    with panels(1, width=8.0) as (figure, (axes,)):
        styles = styles_of(types["label"])
        for label, of_label in types.groupby("label", sort=False):
            shares = of_label.groupby("from_end")["blank"].agg(["mean", "size"])
            shown = shares[shares["size"] >= 0.5 * shares["size"].max()]
            line: dict[str, Any] = {"marker": "o", "lw": 2, "ms": 5, **styles[label]}
            axes.plot(shown.index, shown["mean"], label=label, **line)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("item, counted from the list's last")
        axes.set_ylabel("share followed by a filler blank")
        axes.set_title("Where do filler blanks come in a list?")
        axes.legend(title="list asked for", loc="upper left")
        lists = types.drop_duplicates(["label", "sample"]).groupby("label", sort=False).size()
        caption(
            figure,
            [
                "n = "
                + ", ".join(f"{count} {label}" for label, count in lists.items())
                + " lists.",
                "Positions that fewer than half of the lists have are left out.",
            ],
        )
    return figure
