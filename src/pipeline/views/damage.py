"""Benefit of interventions against their damage on unrelated text, over strengths."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import ArmName, NeedsText, OneOf
from pipeline.measures.pareto import pareto_front
from pipeline.measures.scale import TEXT_METRIC
from pipeline.measures.statistics import paired_difference
from pipeline.views.marks import GREY, MARKERS, control_keys, draw_reference, legend_key
from pipeline.views.panels import caption, legend, panels, percent_axis, styles_of
from pipeline.views.selection import (
    BASELINE,
    CONTROLS,
    POSITIONS,
    baseline_of,
    controls_of,
    fitted_of,
    label_of,
    select,
)

_LINEAR = 0.01
"""Damage up to here is drawn on a linear scale, more on a logarithmic one."""
_SAME = ["intervention", "positions", "layer"]


def benefit_and_damage(
    summary: pd.DataFrame,
    scores: Annotated[pd.DataFrame, NeedsText()],
    seed: int,
    *,
    metric: str,
    goals: dict[ArmName, Annotated[str, OneOf("raise", "lower")]],
    split: str = "test",
) -> Figure:
    """Draw a metric against the loss of unrelated text, a point for each strength of each arm.

    Damage: mean cross-entropy of the study's texts minus that without intervention, nats a token.
    The Pareto front marks the settings that no other setting of its panel equals or beats in both.
    Conditions whose loss was not measured are left out: see `settings.on_texts`.

    Args:
        summary: means of conditions.
        scores: of samples, those of the texts included.
        seed: of the bootstrap over texts.
        metric: the benefit.
        goals: arm -> `raise` or `lower` the metric; arms on the same prompts share a panel.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric or split; an unknown goal; or no condition whose loss on
            texts was measured.
    """
    for arm, goal in goals.items():
        if goal not in ("raise", "lower"):
            raise ValueError(f"goals.{arm}: {goal!r} is unknown; valid: raise, lower")
    means = select(summary, split=split, metric=metric, arm=list(goals))
    points = means.merge(_damages(scores, seed), on="condition", how="inner")
    points = points[points["role"] != BASELINE]
    if points.empty:
        raise ValueError(
            f"no condition of {', '.join(goals)} has its loss on unrelated text measured; it is "
            "where the study has a `text`, and edits at positions that every text has"
        )
    points = points[_at_layer_of_setting(points)]
    groups, styles = _panels_of(means, goals), styles_of(goals, mixed=True)
    with panels(len(groups), 6.4, 4.8, shared=False) as (figure, axes):
        for axis, (arms, goal) in zip(axes, groups, strict=True):
            rows = points[points["arm"].isin(arms)]
            _draw_panel(axis, rows, styles, goal)
            draw_reference(axis, baseline_of(means[means["arm"] == arms[0]]), GREY)
            labels = means.loc[means["arm"] == arms[0], "label"].unique()
            rules = ", ".join(_rules(rows))
            axis.set_title(f"{', '.join(labels)} prompts: to {goal}\n{rules}".strip())
            axis.set_xscale("symlog", linthresh=_LINEAR)
            largest = max(_LINEAR, float(rows["damage_high"].max()))
            axis.set_xlim(min(0, rows["damage_low"].min()) - 0.2 * _LINEAR, 1.5 * largest)
            if means["percent"].iloc[0]:
                percent_axis(axis)
            axis.set_xlabel("damage: loss of unrelated text (nats a token)")
            axis.set_ylabel(label_of(means))
        keys = {arm: legend_key(marker="o", lw=2, **style) for arm, style in styles.items()}
        controls = control_keys(points)
        for key in controls.values():
            key.set_linestyle("")
        keys |= {"no intervention": legend_key(ls="--"), **controls}
        keys["Pareto front"] = legend_key(color="black", lw=0, marker="o", mfc="none", ms=12)
        legend(figure, keys)
        caption(figure, _in_words(points, scores, means, split))
    return figure


def _damages(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Estimate the rise of the texts' loss under every condition that it was measured for."""
    losses = scores[scores["metric"] == TEXT_METRIC]
    rows = []
    for _, of_arm in losses.groupby("arm"):
        baseline = of_arm[of_arm["role"] == BASELINE]
        for condition, steered in of_arm.groupby("condition"):
            rise = paired_difference(steered, baseline, cluster="sample", share=False, seed=seed)
            rows.append((condition, rise.mean, rise.low, rise.high))
    columns = ["condition", "damage", "damage_low", "damage_high"]
    return pd.DataFrame(rows, columns=columns)


def _at_layer_of_setting(points: pd.DataFrame) -> pd.Series:
    """Mask, of arms with a chosen setting, the rows at its layer: others belong to curves."""
    chosen = points[points["is_setting"]].set_index("arm")["layer"]
    layers = points["arm"].map(chosen)
    return layers.isna() | (layers == points["layer"])


def _panels_of(means: pd.DataFrame, goals: dict[str, str]) -> list[tuple[list[str], str]]:
    """Group arms that have the same goal and prompts."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm, goal in goals.items():
        labels = tuple(sorted(means.loc[means["arm"] == arm, "label"].unique()))
        groups.setdefault((goal, *labels), []).append(arm)
    return [(arms, key[0]) for key, arms in groups.items()]


def _draw_panel(
    axis: Axes, rows: pd.DataFrame, styles: Mapping[str, dict[str, Any]], goal: str
) -> None:
    """Draw controls, then a curve for each arm, then the front around its settings."""
    controls = controls_of(rows)
    for row in controls.itertuples():
        marker = MARKERS.get(str(row.source), "o")
        style: dict[str, Any] = {"color": GREY, "alpha": 0.7, "ls": "", "mfc": "white"}
        axis.plot(row.damage, row.mean, marker=marker, ms=5.5, **style)
    fitted = fitted_of(rows).sort_values("strength")
    curves = fitted.groupby(["arm", *_SAME], dropna=False, sort=False)
    for number, ((arm, *_), curve) in enumerate(curves):
        style = styles[str(arm)]
        colour = style["color"]
        x, y = curve["damage"], curve["mean"].astype(float)
        line: dict[str, Any] = {"color": colour, "lw": 1}
        axis.vlines(x, curve["low"].astype(float), curve["high"].astype(float), **line)
        axis.hlines(y, curve["damage_low"], curve["damage_high"], **line)
        axis.plot(x, y, marker="o", ms=6, lw=2, zorder=4, **style)
        along = x.rank(method="first").astype(int)
        for place, strength, at, height in zip(along, curve["strength"], x, y, strict=True):
            # On both sides by turns: points of one curve, or of two, may lie close together.
            side, to = ("right", -6) if (place + number) % 2 else ("left", 6)
            offset: dict[str, Any] = {"xytext": (to, 6), "textcoords": "offset points", "ha": side}
            axis.annotate(f"{strength:g}", (at, height), color=colour, fontsize=10, **offset)
    sign = 1 if goal == "raise" else -1
    front = fitted[
        pareto_front(
            sign * fitted["mean"].to_numpy(dtype=float), fitted["damage"].to_numpy(dtype=float)
        )
    ]
    axis.plot(front["damage"], front["mean"], "o", ms=12, mfc="none", color="black", zorder=5)
    axis.grid(True, axis="both")


def _in_words(
    points: pd.DataFrame, scores: pd.DataFrame, means: pd.DataFrame, split: str
) -> list[str]:
    texts = scores.loc[scores["metric"] == TEXT_METRIC, "sample"].nunique()
    n = int(np.nanmax(means["n"].astype(float)))
    return [
        f"{split.capitalize()} split, n = {n} a mean; damage over {texts} texts. Numbers at",
        "points: strengths. Lines: 95 % intervals, over prompts and over texts. Layers are those",
        "chosen on validation; circles: settings that no other beats in both.",
        *_settings_elsewhere(points, means),
        *_controls_in_words(points),
    ]


def _rules(rows: pd.DataFrame) -> list[str]:
    """Describe the position rules of rows in words, each once."""
    named = rows["positions"].dropna().unique() if "positions" in rows else []
    return [POSITIONS.get(rule, f"at {rule}") for rule in named]


def _settings_elsewhere(points: pd.DataFrame, means: pd.DataFrame) -> list[str]:
    """Name the arms whose chosen setting is at positions that are not drawn."""
    arms: dict[tuple[str, str], list[str]] = {}
    for arm, rows in means[means["is_setting"]].groupby("arm", sort=False):
        drawn = _rules(points[points["arm"] == arm])
        chosen = [rule for rule in _rules(rows) if rule not in drawn]
        if drawn and chosen:
            arms.setdefault((", ".join(drawn), ", ".join(chosen)), []).append(str(arm))
    return [
        f"Of {' and '.join(names)}, edits {drawn} are drawn; validation chose {chosen}."
        for (drawn, chosen), names in arms.items()
    ]


def _controls_in_words(points: pd.DataFrame) -> list[str]:
    """State which arms have which controls, a marker for each draw."""
    drawn, sentences = controls_of(points), []
    for arm, rows in drawn.groupby("arm", sort=False):
        draws = rows.groupby("source")["draw"].nunique()
        named = ", ".join(f"{name} {draws[key]}" for key, name in CONTROLS.items() if key in draws)
        sentences.append(f"{arm} ({named})")
    without = [arm for arm in points["arm"].unique() if arm not in set(drawn["arm"])]
    if not sentences:
        return ["No controls."]
    lacking = f"; none of {', '.join(without)}" if without else ""
    return [f"Controls, a marker for each draw: {', '.join(sentences)}{lacking}."]
