"""Figures of contextual embeddings in a plane."""

from collections.abc import Mapping
from typing import Annotated, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import OneOf
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_MARKERS = "os^Dv*PX"
_METHODS = {
    "pca": "PCA: the plane of largest variance; axes show their share of the variance.",
    "tsne": "t-SNE, perplexity {perplexity:g}: neighbours stay neighbours; distances between "
    "clusters, their sizes and the axes mean nothing.",
}


def projection_panels(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    method: Annotated[str, OneOf("pca", "tsne")] = "pca",
    split: str = "test",
) -> Figure:
    """Draw the states of samples in a plane, one panel per layer.

    Colours are labels (senses), markers topics (words). Titles count the samples whose nearest
    state, and whose nearest point of the plane, is of the same word and sense.

    Args:
        readings: tables by name.
        reading: of `projection.projections`.
        method: `pca` or `tsne`.
        split: of the dataset.

    Raises:
        ValueError: no such reading, method or split, or more than eight words.
    """
    table = select(table_of(readings, reading), split=split, method=method)
    words = list(table["topic"].unique())
    if len(words) > len(_MARKERS):
        raise ValueError(
            f"reading {reading} has {len(words)} words (topics); valid: up to {len(_MARKERS)}; see "
            "its option `samples`"
        )
    kinds = list(table[["topic", "label"]].drop_duplicates().itertuples(index=False, name=None))
    styles: dict[tuple[str, str], dict[str, Any]] = {
        kind: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": _MARKERS[words.index(kind[0])],
        }
        for number, kind in enumerate(kinds)
    }
    layers = sorted(table["layer"].unique())
    n = table["sample"].nunique()
    with panels(len(layers), width=4.4, height=4.4, shared=False) as (figure, axes):
        for axis, layer in zip(axes, layers, strict=True):
            rows = table[table["layer"] == layer]
            for kind, points in rows.groupby(["topic", "label"], sort=False):
                axis.scatter(points["x"], points["y"], s=42, alpha=0.75, lw=0, **styles[kind])
            near, in_plane = (_same(rows, column) for column in ("neighbour", "plane_neighbour"))
            axis.set_title(f"layer {layer}", pad=24)
            text = f"neighbours of the same sense: {near} of {n}, in the plane {in_plane}"
            axis.text(0, 1.025, text, transform=axis.transAxes, fontsize=9, color="#333333")
            _label_axes(axis, method, rows.iloc[0])
        keys = {
            f"{drawable(word)}: {label}": legend_key(lw=0, ms=8, **styles[word, label])
            for word, label in kinds
        }
        # Columns are filled from top to bottom: a word's senses stand in one.
        columns = min(len(words), int(figure.get_figwidth() / 2.6))
        figure.legend(
            keys.values(),
            keys.keys(),
            loc="outside upper left",
            ncols=columns,
            prop={"family": families(), "size": 11},
        )
        chance = _chance(table[table["layer"] == layers[0]])
        component = table["component"].iloc[0]
        what = {"resid_pre": "input", "resid_post": "output"}.get(component, component)
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {n} contexts of {len(words)} words, states at "
                f"the word, each layer's {what}, no intervention.",
                _METHODS[method].format(perplexity=table["perplexity"].iloc[0]),
                "Neighbour: the nearest state, or point of the plane. Control: were it any other "
                f"context of the word, {chance:.0f} of {n} would be of the same sense.",
            ],
        )
    return figure


def _same(rows: pd.DataFrame, column: str) -> int:
    """Count the samples whose neighbour has their word and sense."""
    kinds = pd.Series(
        list(zip(rows["topic"], rows["label"], strict=True)), index=rows["sample"].to_numpy()
    )
    return int((kinds.to_numpy() == kinds.loc[rows[column]].to_numpy()).sum())


def _chance(rows: pd.DataFrame) -> float:
    """Count the neighbours of the same sense to expect if each were a random context."""
    senses = rows.groupby(["topic", "label"]).size()
    words = senses.groupby("topic").transform("sum")
    return float((senses * (senses - 1) / (words - 1)).sum())


def _label_axes(axis: Axes, method: str, row: pd.Series) -> None:
    axis.grid(False)
    axis.set_aspect("equal", adjustable="datalim")
    if method == "pca":
        for name, set_label in (("share_1", axis.set_xlabel), ("share_2", axis.set_ylabel)):
            set_label(f"PC {name[-1]} ({100 * row[name]:.0f} %)")
    else:
        axis.set_xticks([])
        axis.set_yticks([])
