"""A circuit drawn as a graph of its components and the edges between them."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from pipeline.config.declared import ArmName, Range, ReadingName
from pipeline.data.roles import BASELINE
from pipeline.measures.effects import effects_over_clusters
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select, steered_of

_ROLES = {
    "answer": ("the answer", COLOURS[2]),
    "foil": ("the foil's first mention", COLOURS[4]),
    "foil again": ("the foil's second mention", COLOURS[3]),
    "last": ("the last token", COLOURS[5]),
    "other": ("other tokens", "#c9c9c9"),
}


def circuit_graph(
    scores: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    *,
    edges: ArmName,
    metric: str,
    components: ReadingName,
    attributions: ReadingName,
    least: Annotated[float, Range(0, below=1)] = 0.01,
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
    effects = effects_of_arm(rows, edges, ["source", "target", "edges"], cluster)
    effects = effects.assign(drop=-effects["effect"] / clean)
    of_circuit = effects[effects["edges"] == "circuit"]
    drawn = of_circuit[of_circuit["drop"].abs() >= least].sort_values("drop", key=abs)
    chance = effects.loc[effects["edges"] == "random", "drop"].abs()
    table = table_of(readings, components)
    kept = table[table["is_kept"]]
    ends = {*of_circuit["source"], *of_circuit["target"]}
    shown_components = kept[[name in ends for name in component_names(kept)]]
    places, layers = _places(shown_components)
    part = _part(shown_components, kept)
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
        axis.set_title(f"The circuit: {len(kept)} of {len(table)} components")
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
                f"{len(drawn)} of {len(of_circuit)} in the circuit{part}; of {len(chance)} random",
                f"edges of the model, {int((chance >= least).sum())} reach this. Colour of a",
                "component: the tokens at which its output matters most (integrated gradients).",
                f"{split.capitalize()} split, n = {int(effects['n'].max())} prompts.",
            ],
        )
    return figure


def effects_of_arm(rows: pd.DataFrame, arm: str, by: list[str], cluster: str) -> pd.DataFrame:
    """Return the mean changes of an arm's conditions, named by columns, against its baseline."""
    of_arm = select(rows, arm=arm)
    baseline = select(of_arm, role=BASELINE)
    return effects_over_clusters(steered_of(of_arm), baseline, by, cluster=cluster)


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
    main = means.groupby(level=[0, 1]).idxmax().tolist()
    table = pd.DataFrame(main, columns=["layer", "component", "role"])
    return dict(zip(component_names(table), table["role"], strict=True))


def component_names(table: pd.DataFrame) -> list[str]:
    """Return the short names of components, as the axes `source` and `target` have them."""
    pairs = zip(table["layer"], table["component"], strict=True)
    return [
        f"mlp {layer}" if component == "mlp" else f"{layer}.{component.split()[1]}"
        for layer, component in pairs
    ]


def _part(shown: pd.DataFrame, kept: pd.DataFrame) -> str:
    if len(shown) == len(kept):
        return ""
    return f" (between its {len(shown)} components of the largest effect, which are shown)"


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
