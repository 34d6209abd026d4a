"""Maps of the effects of ablating every head and MLP."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.data.roles import BASELINE
from pipeline.measures.effects import effects_over_clusters
from pipeline.views.heat_maps import in_words
from pipeline.views.panels import caption, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import label_of, select, steered_of

_ALPHA = 0.05
_WRITTEN = 90
"""Cells of a map up to which their values are written."""


def component_maps(
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    cluster: str,
    *,
    arms: list[str],
    metric: str,
    reading: str,
    split: str = "test",
) -> Figure:
    """Draw the effect of ablating each head and MLP by itself as maps, one panel an arm.

    Args:
        summary: means, for the metric's name.
        scores: of samples under conditions.
        readings: tables by name.
        cluster: what is tested over.
        arms: of `ablated_components`, one each for a kind of ablation.
        metric: the metric.
        reading: of `circuit_components`; the circuit's components are framed.
        split: of the dataset.

    Raises:
        ValueError: no such arm, metric, reading or split.
    """
    called = label_of(select(summary, arm=arms, metric=metric))
    rows = select(scores, split=split, arm=arms, metric=metric)
    baseline = select(rows, arm=arms[0], role=BASELINE)
    tables = {
        arm: effects_over_clusters(
            steered_of(select(rows, arm=arm)), baseline, ["layer", "component"], cluster=cluster
        )
        for arm in arms
    }
    circuit = table_of(readings, reading)
    framed = circuit.loc[circuit["is_kept"], ["layer", "component"]]
    grids = {arm: _grid(table) for arm, table in tables.items()}
    clean = float(baseline["score"].mean())
    effects = pd.concat([table["effect"] for table in tables.values()])
    limit = _limit(effects, abs(clean))
    layers, columns = next(iter(grids.values())).shape
    height = float(np.clip(0.36 * layers + 0.9, 3.2, 9))
    with panels(
        len(arms), max(3.0, 0.42 * columns + 0.6), height, shared=False, most=len(arms)
    ) as (figure, axes):
        for axis, (arm, grid) in zip(axes, grids.items(), strict=True):
            _draw_grid(axis, grid, limit)
            _frame(axis, grid, framed)
            corrected = tables[arm]["p_adjusted"].dropna()
            passing = int((corrected < _ALPHA).sum())
            axis.set_title(f"{in_words(arm)}\n{passing} of {len(corrected)} not 0", fontsize=12)
            axis.set_xlabel("head")
        axes[0].set_ylabel("layer")
        colours = ScalarMappable(Normalize(-limit, limit), "RdBu")
        beyond = bool((effects < -limit).any()), bool((effects > limit).any())
        bar = figure.colorbar(colours, ax=axes, pad=0.01, extend=_EXTENDED[beyond])
        bar.set_label(f"change of {called}", fontsize=11)
        figure.suptitle("Each head and MLP ablated by itself", x=0.01, ha="left", weight="bold")
        caption(
            figure,
            [
                f"Cells: mean change of {called} by ablating one component at all tokens;",
                f"without intervention {clean:.2f}; red: it falls.",
                f"{split.capitalize()} split, n = {int(tables[arms[0]]['n'].max())} prompts,",
                f"{int(tables[arms[0]]['clusters'].max())} {cluster}s. In the titles: effects",
                f"with p < 0.05 (t test over {cluster}s, Benjamini-Hochberg over components:",
                f"up to 5 % of these by chance). Framed: the circuit, {len(framed)} components.",
            ],
        )
    return figure


_EXTENDED = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}
"""Whether changes lie below and above the colours -> where the bar of colours has an arrow."""


def _limit(effects: pd.Series, clean: float) -> float:
    """Return the change of the darkest colour: the largest, or losing the whole clean value.

    A clean value near 0, such as of a divergence, says nothing of what can be lost.
    """
    largest = float(effects.abs().max())
    return (clean if largest / 10 < clean < largest else largest) or 1.0


def _grid(table: pd.DataFrame) -> pd.DataFrame:
    """Pivot effects: layers downwards, heads and, after a gap, the MLP across."""
    grid = table.pivot(index="layer", columns="component", values="effect").astype(float)
    heads = sorted((c for c in grid if c != "mlp"), key=lambda name: int(name.split()[1]))
    grid[""] = np.nan
    return grid[[*heads, "", "mlp"]].sort_index()


def _draw_grid(axis: Axes, grid: pd.DataFrame, limit: float) -> None:
    axis.grid(False)
    axis.imshow(grid, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for side in axis.spines.values():
        side.set_visible(False)
    names = [name.removeprefix("head ").replace("mlp", "MLP") for name in grid]
    axis.set_xticks(range(len(names)), names, fontsize=10)
    step = 1 if len(grid) <= 16 else 2
    axis.set_yticks(range(0, len(grid), step), grid.index[::step], fontsize=10)
    axis.tick_params(length=0)
    if grid.size > _WRITTEN:
        return
    for row, values in enumerate(grid.to_numpy()):
        for column, value in enumerate(values):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.6 * limit else "#333333"
                text = f"{value:.1f}".replace("-0.0", "0.0")
                style: dict[str, Any] = {
                    "ha": "center",
                    "va": "center",
                    "fontsize": 8,
                    "color": colour,
                }
                axis.text(column, row, text, **style)


def _frame(axis: Axes, grid: pd.DataFrame, framed: pd.DataFrame) -> None:
    for layer, component in framed.itertuples(index=False):
        column, row = grid.columns.get_loc(component), grid.index.get_loc(layer)
        style: dict[str, Any] = {"fill": False, "edgecolor": "#222222", "lw": 1.8, "clip_on": False}
        axis.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, **style))
