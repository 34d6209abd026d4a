"""Figures of a circuit's edges: the circuit drawn, and how well gradients estimate effects."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator

from pipeline.engine.conditions import BASELINE
from pipeline.measures.effects import effects_over_clusters
from pipeline.measures.recovered import Interval, rank_agreement
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import label_of, select, steered_of

_ROLES = {
    "answer": ("the answer", COLOURS[2]),
    "foil": ("the foil's first mention", COLOURS[4]),
    "foil again": ("the foil's second mention", COLOURS[3]),
    "last": ("the last token", COLOURS[5]),
    "other": ("other tokens", "#c9c9c9"),
}
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
    edges: str,
    metric: str,
    attributions: str,
    edge_attributions: str,
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
    nodes = _effects(rows, arm, columns, cluster).merge(estimated, on=columns)
    between = _effects(rows, edges, [*ends, "edges"], cluster)
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


def circuit_graph(
    scores: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    *,
    edges: str,
    metric: str,
    components: str,
    attributions: str,
    least: float = 0.01,
    split: str = "test",
) -> Figure:
    """Draw a circuit as a graph: layers upwards, edges by the effect of patching them.

    Args:
        scores: of samples under conditions.
        readings: tables by name.
        cluster: what effects are averaged over.
        edges: the arm of `patched_edges`.
        metric: the metric, a difference of logits.
        components: the reading of `circuit_components`.
        attributions: that of `attributions_by_role`; it says at which tokens a component matters.
        least: effect of the drawn edges, as a share of the difference without intervention.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, reading or split, or `least` that is no share.
    """
    if not 0 <= least < 1:
        raise ValueError(f"least: {least}; valid: 0 to below 1")
    rows = select(scores, split=split, arm=edges, metric=metric)
    clean = float(select(rows, role=BASELINE)["score"].mean())
    effects = _effects(rows, edges, ["source", "target", "edges"], cluster)
    effects = effects.assign(drop=-effects["effect"] / clean)
    of_circuit = effects[effects["edges"] == "circuit"]
    drawn = of_circuit[of_circuit["drop"].abs() >= least].sort_values("drop", key=abs)
    chance = effects.loc[effects["edges"] == "random", "drop"].abs()
    table = table_of(readings, components)
    places, layers = _places(table[table["is_kept"]])
    roles = _main_roles(table_of(readings, attributions))
    with panels(1, 9.5, float(np.clip(0.75 * len(layers) + 2.2, 5, 13))) as (figure, (axis,)):
        axis.grid(False)
        for edge in drawn.itertuples():
            if edge.source in places and edge.target in places:
                _arrow(axis, places[edge.source], places[edge.target], float(edge.drop))
        for name, (x, y) in places.items():
            colour = _ROLES[roles[name]][1] if name in roles else "white"
            shape = "square,pad=0.35" if name.startswith("mlp") else "round,pad=0.35"
            box = {"boxstyle": shape, "facecolor": colour, "edgecolor": "#333333", "lw": 1}
            shown = name.replace("mlp", "MLP")
            axis.text(x, y, shown, ha="center", va="center", fontsize=11, bbox=box, zorder=5)
        xs = [x for x, _ in places.values()]
        axis.set_xlim(min(xs) - 0.7, max(xs) + 0.7)
        axis.set_ylim(-1.6, len(layers) + 0.6)
        axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
        axis.tick_params(length=0)
        axis.set_xticks([])
        for side in axis.spines.values():
            side.set_visible(False)
        axis.set_ylabel("layer")
        axis.set_title(f"The circuit: {int(table['is_kept'].sum())} of {len(table)} components")
        shown_roles = [role for role in _ROLES if role in {roles.get(name) for name in places}]
        keys = {
            _ROLES[role][0]: legend_key(color=_ROLES[role][1], marker="o", ms=9, lw=0)
            for role in shown_roles
        }
        keys |= {
            f"edge: lowers it by {100 * share:.0f} %": legend_key(
                color=COLOURS[0], lw=_line_width(share)
            )
            for share in (0.05, 0.5)
        }
        keys["edge: raises it by 5 %"] = legend_key(color=COLOURS[1], lw=_line_width(0.05))
        legend(figure, keys)
        caption(
            figure,
            [
                "Heads (3.5: head 5 of layer 3) and MLPs. Lines: edges whose patching changes",
                f"the logit difference ({clean:.2f} nats) by at least {100 * least:.0f} %,",
                f"{len(drawn)} of {len(of_circuit)} in the circuit; of {len(chance)} random edges",
                f"of the model, {int((chance >= least).sum())} reach this. Colour of a component:",
                "the tokens at which its output matters most (integrated gradients).",
                f"{split.capitalize()} split, n = {int(effects['n'].max())} prompts.",
            ],
        )
    return figure


def _effects(rows: pd.DataFrame, arm: str, by: list[str], cluster: str) -> pd.DataFrame:
    of_arm = select(rows, arm=arm)
    baseline = select(of_arm, role=BASELINE)
    return effects_over_clusters(steered_of(of_arm), baseline, by, cluster=cluster)


def _points(
    axis: Axes, table: pd.DataFrame, kind: str, second: pd.Series, colours: tuple[str, str]
) -> None:
    for chosen, marker, colour in zip((~second, second), "os", colours, strict=True):
        points = table[chosen]
        style: dict[str, Any] = {"lw": 0, "ms": 5, "alpha": 0.7, "color": colour}
        axis.plot(points[kind], points["effect"], marker, **style)


def _name(axis: Axes, table: pd.DataFrame, kind: str) -> None:
    largest = table.loc[table["effect"].abs().nlargest(_NAMED).index]
    # To either side in turn: components of similar effects stand close together.
    for n, row in enumerate(largest.sort_values("effect").itertuples()):
        is_mlp = row.component == "mlp"
        name = f"MLP {row.layer}" if is_mlp else f"{row.layer}.{row.component.split()[1]}"
        at = (getattr(row, kind), row.effect)
        offset, side = ((7, 3), "left") if n % 2 == 0 else ((-7, 3), "right")
        style: dict[str, Any] = {
            "ha": side,
            "textcoords": "offset points",
            "fontsize": 9,
            "color": "#333333",
        }
        axis.annotate(name, at, offset, **style)


def _places(kept: pd.DataFrame) -> tuple[dict[str, tuple[float, float]], list[int]]:
    """Place components on a grid: layers that have some upwards, heads across, the MLP at right."""
    layers = sorted(int(layer) for layer in kept["layer"].unique())
    heads = kept[kept["component"] != "mlp"]
    widest = max(1, int(heads.groupby("layer").size().max()) if len(heads) else 1)
    places = {"input": (0.0, -1.2)}
    for row, layer in enumerate(layers):
        names = kept.loc[kept["layer"] == layer, "component"]
        numbers = sorted(int(name.split()[1]) for name in names if name != "mlp")
        shift = 0.3 * (row % 2) - 0.15
        for n, head in enumerate(numbers):
            places[f"{layer}.{head}"] = (n - (len(numbers) - 1) / 2 + shift, float(row))
        if (names == "mlp").any():
            places[f"mlp {layer}"] = (widest / 2 + 0.6 + shift, row + 0.3)
    places["logits"] = (0.0, len(layers) + 0.2)
    return places, layers


def _main_roles(attributions: pd.DataFrame) -> dict[str, str]:
    """Find the role of the tokens at which each component's attribution is largest in size."""
    means = attributions.groupby(["layer", "component", "role"])["integrated"].mean().abs()
    main = means.groupby(level=[0, 1]).idxmax()
    return {
        f"mlp {layer}" if component == "mlp" else f"{layer}.{component.split()[1]}": role
        for layer, component, role in main
    }


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], drop: float) -> None:
    # Bent, so that edges over several layers pass beside the components in between.
    bend = 0.12 if start[0] <= end[0] else -0.12
    style: dict[str, Any] = {
        "arrowstyle": "-",
        "connectionstyle": f"arc3,rad={bend}",
        "lw": _line_width(abs(drop)),
        "color": COLOURS[0] if drop > 0 else COLOURS[1],
        "alpha": 0.65,
        "zorder": 2,
    }
    axis.add_patch(FancyArrowPatch(start, end, **style))


def _line_width(share: float) -> float:
    return 0.8 + 9.0 * min(share, 1.0)


def _interval(agreement: Interval) -> str:
    return f"{agreement.value:.2f} ({agreement.low:.2f} to {agreement.high:.2f})"
