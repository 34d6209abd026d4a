"""Attributions against effects of patching, of components and of edges."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.config.declared import ArmName, ReadingName
from pipeline.measures.recovered import Interval, rank_agreement
from pipeline.views.circuit_graphs import component_names, effects_of_arm
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import label_of, select

_NAMED = 4
"""Components named in a panel, those of the largest effect."""


def attribution_agreement(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    seed: int,
    *,
    arm: str,
    edges: ArmName,
    metric: str,
    attributions: ReadingName,
    edge_attributions: ReadingName,
    split: str = "test",
) -> Figure:
    """Plot attributions against effects of patching, of components and of edges.

    Args:
        summary: means, for the metric's name.
        scores: of samples under conditions.
        readings: tables by name.
        cluster: what effects are averaged over.
        seed: of the bootstrap.
        arm: of `ablated_components` by patching.
        edges: the arm of `patched_edges`.
        metric: the metric, a difference of logits.
        attributions: the reading of `attributions_by_role`.
        edge_attributions: that of `edge_attributions`.
        split: of the dataset; that of the readings.

    Raises:
        ValueError: no such arm, metric, reading or split.
    """
    called = label_of(select(summary, arm=[arm, edges], metric=metric))
    rows = select(scores, split=split, arm=[arm, edges], metric=metric)
    ends, columns = ["source", "target"], ["layer", "component"]
    by_sample = table_of(readings, attributions).groupby([*columns, "sample"])
    estimated = by_sample[["gradient", "integrated"]].sum().groupby(columns).mean().reset_index()
    nodes = effects_of_arm(rows, arm, columns, cluster).dropna(subset="effect")
    nodes = nodes.merge(estimated, on=columns)
    between = effects_of_arm(rows, edges, [*ends, "edges"], cluster).dropna(subset="effect")
    between = between.merge(table_of(readings, edge_attributions), on=ends)
    drawn = between[between["edges"] == "random"]
    found: list[str] = []
    with panels(4, 5.4, 3.7, shared=False, most=2) as (figure, axes):
        for n, (what, kind) in enumerate(
            (what, kind) for what in ("components", "edges") for kind in ("gradient", "integrated")
        ):
            axis, table = axes[n], nodes if what == "components" else between
            agreement = rank_agreement(
                *(
                    (nodes if what == "components" else drawn)[name].to_numpy()
                    for name in (kind, "effect")
                ),
                seed=seed,
            )
            axis.axline((0, 0), slope=1, color=GREY, lw=1, ls="--")
            if what == "components":
                _points(axis, table, kind, table["component"] == "mlp", (COLOURS[0], COLOURS[4]))
                _name(axis, table, kind)
            else:
                _points(axis, table, kind, table["edges"] == "random", (COLOURS[1], GREY))
            called_path = "at the prompt" if kind == "gradient" else "integrated"
            axis.set_title(f"{what.capitalize()}, gradient {called_path}", fontsize=12)
            axis.set_xlabel("attribution (nats)")
            axis.set_ylabel("effect of patching (nats)")
            for scale in (axis.xaxis, axis.yaxis):
                scale.set_major_locator(MaxNLocator(5))
            axis.grid(True, axis="x")
            axis.margins(0.13)
            found.append(f"{what}, {called_path} {_interval(agreement)}")
        legend(
            figure,
            {
                "head": legend_key(color=COLOURS[0], marker="o", lw=0),
                "MLP": legend_key(color=COLOURS[4], marker="s", lw=0),
                "edge of the circuit": legend_key(color=COLOURS[1], marker="o", lw=0),
                "random edge": legend_key(color=GREY, marker="s", lw=0),
            },
        )
        caption(
            figure,
            [
                f"Change of {called} when one component, or edge, is patched from the corrupted",
                "prompt: estimated by a gradient, and measured. Dashed: equal. Spearman's rank",
                f"correlation with 95 % intervals: {'; '.join(found)}; over {len(nodes)}",
                f"components and {len(drawn)} random edges, resampled; 0 by chance.",
                f"{split.capitalize()} split, n = {int(nodes['n'].max())} prompts.",
            ],
        )
    return figure


def _points(
    axis: Axes, table: pd.DataFrame, kind: str, second: pd.Series, colours: tuple[str, str]
) -> None:
    for chosen, marker, colour in zip((~second, second), "os", colours, strict=True):
        points = table[chosen]
        style: dict[str, Any] = {"lw": 0, "ms": 5, "alpha": 0.7, "color": colour}
        axis.plot(points[kind], points["effect"], marker, **style)


def _name(axis: Axes, table: pd.DataFrame, kind: str) -> None:
    largest = table.loc[table["effect"].abs().nlargest(_NAMED).index]
    points = largest[[kind, "effect"]].to_numpy(dtype=float)
    spread = np.ptp(table[[kind, "effect"]].to_numpy(dtype=float), axis=0)
    middle = table[kind].min() + spread[0] / 2
    for at, name in zip(points, component_names(largest), strict=True):
        # Towards the middle, or away from a named neighbour that stands there.
        inward = 1 if at[0] < middle else -1
        along, across = ((points - at) / spread).T
        crowded = (along * inward > 0) & (np.abs(along) < 0.25) & (np.abs(across) < 0.1)
        rightward = (inward > 0) != crowded.any()
        offset, side = ((7, 3), "left") if rightward else ((-7, 3), "right")
        style: dict[str, Any] = {
            "ha": side,
            "textcoords": "offset points",
            "fontsize": 9,
            "color": "#333333",
        }
        axis.annotate(name.replace("mlp", "MLP"), at, offset, **style)


def _interval(agreement: Interval) -> str:
    return f"{agreement.value:.2f} ({agreement.low:.2f} to {agreement.high:.2f})"
