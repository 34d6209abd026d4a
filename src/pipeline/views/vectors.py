"""Figures of cosines between vectors of layers and of concepts."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from pipeline.config.declared import LayerNumber
from pipeline.views.marks import GREY, draw_curve, draw_spread, legend_key
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

FITTED, SHUFFLED, SAME_SHUFFLE = "fitted", "shuffled", "same_shuffle"
_MAP = "RdBu_r"


def cosine_maps(
    readings: Mapping[str, pd.DataFrame], *, reading: str, directions: list[str] | None = None
) -> Figure:
    """Draw the cosines between the vectors of all layers as heat maps, a panel per pair of fits.

    Dots: no larger than 95 % of the cosines of shuffled labels at the same two layers.

    Args:
        readings: tables by name.
        reading: of `vector_readings.vector_cosines`.
        directions: the fits to draw; default: all.

    Raises:
        ValueError: no such reading or fit.
    """
    table = _of(table_of(readings, reading), directions)
    pairs = table[["first", "second"]].drop_duplicates().to_numpy().tolist()
    within, cells = 0, 0
    with panels(len(pairs), width=4.4, height=3.9, shared=False) as (figure, axes):
        for axis, (first, second) in zip(axes, pairs, strict=True):
            rows = select(table, first=first, second=second)
            grid, is_chance = _grids(rows, "second_layer", "first_layer")
            if first == second:
                is_chance = is_chance & ~np.eye(len(grid), dtype=bool)
            _draw_map(axis, grid.iloc[::-1], is_chance[::-1], digits=len(grid) <= 10)
            axis.set_title(first if first == second else f"{first} and {second}")
            axis.set_xlabel(f"layer of {second}")
            axis.set_ylabel(f"layer of {first}")
            within, cells = within + is_chance.sum(), cells + is_chance.size
        _colour_bar(figure, axes)
        caption(
            figure,
            [
                "Cosine between vectors of two layers, fitted on the train split.",
                _chance(table),
                f"Dots, {within} of {cells} cells: below 95 % of the latter at these two layers.",
                *_kept(table),
            ],
        )
    return figure


def cosine_matrices(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    layers: list[LayerNumber] | None = None,
    directions: list[str] | None = None,
) -> Figure:
    """Draw the cosines between the vectors of fits at the same layer, a panel per layer.

    Dots: no larger than 95 % of the cosines of shuffled labels.

    Args:
        readings: tables by name.
        reading: of `vector_readings.vector_cosines`.
        layers: the layers to draw; default: up to three, evenly spaced.
        directions: the fits to draw; default: all.

    Raises:
        ValueError: no such reading, layer or fit.
    """
    table = _of(table_of(readings, reading), directions)
    table = table[table["first_layer"] == table["second_layer"]]
    present = sorted(table["first_layer"].unique().tolist())
    spread = np.linspace(0, len(present) - 1, min(3, len(present))).round().astype(int)
    shown = layers or [present[number] for number in spread]
    names = list(dict.fromkeys(table["first"]))
    with panels(len(shown), width=0.7 * len(names) + 2, height=0.55 * len(names) + 1.6) as (
        figure,
        axes,
    ):
        for axis, layer in zip(axes, shown, strict=True):
            rows = select(table, first_layer=layer)
            swapped = rows.rename(columns={"first": "second", "second": "first"})
            both = pd.concat([rows, swapped[swapped["first"] != swapped["second"]]])
            grid, is_chance = _grids(both, "second", "first")
            order = [grid.index.get_loc(name) for name in names]
            grid, is_chance = grid.loc[names, names], is_chance[np.ix_(order, order)]
            _draw_map(axis, grid, is_chance & ~np.eye(len(names), dtype=bool), digits=True)
            axis.tick_params(axis="x", rotation=40)
            axis.set_title(f"layer {layer}")
        _colour_bar(figure, axes)
        caption(
            figure,
            [
                "Cosine between vectors of the same layer, fitted on the train split.",
                _chance(table),
                "Dots: below 95 % of the latter for these two concepts at this layer.",
            ],
        )
    return figure


def cosines_by_layer(
    readings: Mapping[str, pd.DataFrame], *, reading: str, directions: list[str] | None = None
) -> Figure:
    """Plot the cosine between the vectors of two fits at the same layer, a panel per pair.

    Grey: 95 % of the cosines of unrelated shuffled labels. Dashed: 95 % of those of random
    directions. Dotted: the median of the same shuffled labels, where both fits have these.

    Args:
        readings: tables by name.
        reading: of `vector_readings.vector_cosines`.
        directions: the fits to draw, two or more; default: all.

    Raises:
        ValueError: no such reading or fit, or a single fit.
    """
    table = _of(table_of(readings, reading), directions)
    table = table[
        (table["first_layer"] == table["second_layer"]) & (table["first"] != table["second"])
    ]
    pairs = table[["first", "second"]].drop_duplicates().to_numpy().tolist()
    if not pairs:
        raise ValueError(f"reading {reading} has cosines within one fit only; valid: two or more")
    has_same = bool((table["source"] == SAME_SHUFFLE).any())
    with panels(len(pairs), width=4.2, height=3.2, shared=False) as (figure, axes):
        for axis, (first, second) in zip(axes, pairs, strict=True):
            rows = select(table, first=first, second=second)
            fitted = select(rows, source=FITTED).sort_values("first_layer")
            layers = fitted["first_layer"].tolist()
            draw_spread(axis, rows[rows["source"] == SHUFFLED], "first_layer", "cosine", GREY)
            for bound in (-1, 1):
                axis.axhline(bound * fitted["isotropic"].iloc[0], color=GREY, ls="--", lw=1)
            if has_same:
                same = rows[rows["source"] == SAME_SHUFFLE].groupby("first_layer")["cosine"]
                axis.plot(same.median(), color=COLOURS[1], ls=":", lw=2)
            draw_curve(axis, layers, fitted["cosine"], COLOURS[0], "fitted")
            axis.set_title(f"{first} and {second}")
            axis.set_ylim(-1.05, 1.05)
            axis.set_xlabel("layer of both vectors")
            layer_axis(axis)
        for axis in axes[::3]:
            axis.set_ylabel("cosine")
        keys = {
            "fitted": legend_key(color=COLOURS[0], lw=2.4),
            "unrelated shuffled labels": legend_key(lw=8, alpha=0.35),
            "random directions": legend_key(ls="--", lw=1),
        }
        sentences = [
            "Cosine between the vectors of two fits, fitted on the train split.",
            f"Controls: grey, 95 % of {_n_draws(table)} pairs of vectors of unrelated shuffled",
            "labels; dashed, 95 % of random directions.",
        ]
        if has_same:
            keys["same shuffled labels"] = legend_key(color=COLOURS[1], ls=":", lw=2)
            sentences.append("Dotted: both fitted to the same shuffled labels, median.")
        legend(figure, keys)
        caption(figure, sentences)
    return figure


def _of(table: pd.DataFrame, directions: list[str] | None) -> pd.DataFrame:
    if directions is None:
        return table
    present = list(dict.fromkeys(table["first"]))
    for name in directions:
        if name not in present:
            raise ValueError(f"directions: no fit {name!r}; valid: {', '.join(present)}")
    return table[table["first"].isin(directions) & table["second"].isin(directions)]


def _grids(
    rows: pd.DataFrame, x: str, y: str
) -> tuple[pd.DataFrame, Bool[np.ndarray, "upward across"]]:
    """Pivot the fitted cosines, and say which are no larger than 95 % of the shuffled ones."""
    fitted = select(rows, source=FITTED).pivot(index=y, columns=x, values="cosine")
    shuffled = rows[rows["source"] == SHUFFLED]
    if shuffled.empty:
        return fitted, np.zeros(fitted.shape, dtype=bool)
    sizes = shuffled.assign(size=shuffled["cosine"].abs())
    limits = (
        sizes.groupby([y, x])["size"].quantile(0.95).unstack().loc[fitted.index, fitted.columns]
    )
    return fitted, (fitted.abs() <= limits).to_numpy()


def _draw_map(
    axis: Axes, grid: pd.DataFrame, is_chance: Bool[np.ndarray, "upward across"], *, digits: bool
) -> None:
    """Draw cosines from -1 to 1, the first row at the top."""
    axis.imshow(grid.to_numpy(dtype=float), cmap=_MAP, vmin=-1, vmax=1, aspect="auto")
    axis.grid(False)
    for (row, column), value in np.ndenumerate(grid.to_numpy(dtype=float)):
        colour = "white" if abs(value) > 0.7 else "#222222"
        if is_chance[row, column]:
            axis.plot(
                column,
                row + (0.3 if digits else 0),
                marker=".",
                ms=4 if digits else 1.5,
                color=colour,
            )
        if digits:
            axis.text(
                column,
                row,
                f"{value + 0.0:.2f}".replace("-0.00", "0.00"),
                ha="center",
                va="center",
                fontsize=8.5,
                color=colour,
            )
    for ticks, names in ((axis.set_xticks, grid.columns), (axis.set_yticks, grid.index)):
        step = -(-len(names) // 10)
        ticks(range(0, len(names), step), [str(name) for name in names[::step]])
    axis.tick_params(length=0)


def _colour_bar(figure: Figure, axes: list[Axes]) -> None:
    scale = ScalarMappable(Normalize(-1, 1), cmap=_MAP)
    figure.colorbar(scale, ax=axes, label="cosine", pad=0.02, fraction=0.05)


def _n_draws(table: pd.DataFrame) -> int:
    return int(table.loc[table["source"] == SHUFFLED, "draw"].nunique())


def _chance(table: pd.DataFrame) -> str:
    """State for a caption how large the cosines of random directions and of shuffled labels are."""
    random = f"Controls: 95 % of |cosine| are below {table['isotropic'].max():.2f} between random"
    shuffled = table.loc[table["source"] == SHUFFLED, "cosine"].abs()
    if shuffled.empty:
        return f"{random} directions."
    return (
        f"{random} directions, below {shuffled.quantile(0.95):.2f} between vectors of unrelated "
        f"shuffled labels ({_n_draws(table)} pairs per cell)."
    )


def _kept(table: pd.DataFrame) -> list[str]:
    """State how alike vectors of the same shuffled labels are at different layers."""
    same = table[
        (table["source"] == SAME_SHUFFLE)
        & (table["first"] == table["second"])
        & (table["first_layer"] != table["second_layer"])
    ]
    if same.empty:
        return []
    cosines = same["cosine"]
    return [
        f"Vectors of the same shuffled labels at two layers: {cosines.median():.2f} in the median, "
        "which the residual stream keeps of any contrast."
    ]
