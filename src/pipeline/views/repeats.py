"""Curves of accuracy against the number of completions of a prompt."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import AxisName
from pipeline.data.roles import BASELINE
from pipeline.measures.bands import band_over
from pipeline.measures.contrasts import contrast
from pipeline.measures.statistics import estimate
from pipeline.views.heat_maps import in_words, tick
from pipeline.views.marks import GREY, draw_band, draw_curve, draw_reference, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels, percent_axis
from pipeline.views.readings import table_of
from pipeline.views.selection import fitted_of, rows_told_apart, select

_RULES = {
    "any": "any of n (exact check)",
    "vote": "majority vote",
    "best": "largest mean log-probability",
}


def accuracy_curves(
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    reading: str,
    arm: str,
    axis: AxisName,
    split: str = "test",
) -> Figure:
    """Plot accuracy against the number n of completions, a panel per label and value of an axis.

    Args:
        readings: tables by name.
        cluster: the column whose values are resampled together.
        seed: of the bootstrap.
        reading: of `repeated_answers.accuracy_by_n`.
        arm: the arm of the completions.
        axis: the axis in which its conditions differ, such as temperature.
        split: of the dataset.

    Raises:
        ValueError: no such reading, arm, axis or split.
    """
    table = select(table_of(readings, reading), split=split, arm=arm)
    if axis not in table:
        raise ValueError(f"no axis {axis!r}; valid: {', '.join(table)}")
    sampled, baseline = fitted_of(table), select(table, role=BASELINE, rule="any", n=1)
    conditions = sampled.drop_duplicates(["condition", axis])
    rows_told_apart(conditions, [axis])
    shown = [
        (label, value)
        for label in sampled["label"].unique()
        for value in sorted(sampled[axis].unique())
    ]
    ns = sorted(sampled["n"].unique().tolist())
    colours = dict(zip(_RULES, COLOURS, strict=False))
    with panels(len(shown), width=4.6, height=3.9) as (figure, axes):
        for panel, (label, value) in zip(axes, shown, strict=True):
            rows = sampled[(sampled["label"] == label) & (sampled[axis] == value)]
            once = select(baseline, label=label)
            reference = estimate(once["score"], once[cluster], proportion=False, seed=seed)
            draw_reference(panel, pd.Series(vars(reference)), GREY)
            by_chance = rows.loc[(rows["rule"] == "any") & (rows["n"] == 1), "score"].mean()
            panel.axhline(by_chance, color=GREY, lw=1.2, ls=":")
            for rule, colour in colours.items():
                curve = rows[rows["rule"] == rule]
                band = band_over(
                    curve, "n", ns, cluster=cluster, share=False, bounded=True, seed=seed
                )
                draw_band(panel, ns, band, colour, within=(0.0, 1.0))
                draw_curve(panel, ns, pd.Series(band.mean), colour, label=rule)
            panel.set_title(f"{label}, {in_words(axis)} {tick(value)}")
            panel.set_xscale("log", base=2)
            panel.set_xticks(ns, [str(n) for n in ns])
            panel.set_xlabel("completions n")
        percent_axis(axes[0])
        for number, panel in enumerate(axes):
            if number % min(len(shown), 3) == 0:
                panel.set_ylabel("right answers")
        keys = {
            name: legend_key(color=colours[rule], lw=2.4, marker=".")
            for rule, name in _RULES.items()
        }
        keys["baseline, one completion"] = legend_key(ls="--")
        legend(figure, keys | {"chance": legend_key(ls=":")})
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {sampled['sample'].nunique()} prompts"
                f" ({_counts(sampled)}), {sampled['repeats'].iloc[0]} completions of each;",
                f"mean over all subsets of n of them. Bands: 95 % over {cluster}s, simultaneous",
                "over n. Dotted: one completion, or one of n by chance.",
                "Dashed: one completion by the study's decoding.",
                f"Change from n = {ns[0]} to {ns[-1]} in points:",
                "; ".join(
                    _gains(sampled, axis, label, value, ns, cluster, seed) for label, value in shown
                )
                + ".",
            ],
        )
    return figure


def _counts(sampled: pd.DataFrame) -> str:
    counts = sampled.groupby("label", sort=False)["sample"].nunique()
    return ", ".join(f"{label} {count}" for label, count in counts.items())


def _gains(
    sampled: pd.DataFrame,
    axis: str,
    label: str,
    value: float,
    ns: list[int],
    cluster: str,
    seed: int,
) -> str:
    gains = []
    for rule in ("vote", "best"):
        rows = select(sampled, label=label, rule=rule).assign(repeat=0)
        change = contrast(
            rows[rows[axis] == value],
            "n",
            ns[0],
            ns[-1],
            others=[],
            cluster=cluster,
            share=False,
            seed=seed,
        )
        mean, low, high = (100 * number for number in (change.mean, change.low, change.high))
        gains.append(f"{_RULES[rule]} {mean:+.1f} ({low:+.1f} to {high:+.1f})")
    return f"{label}, {in_words(axis)} {tick(value)}, {', '.join(gains)}"
