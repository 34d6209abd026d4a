"""Figures of value vectors: what the strongest ones say, and agreement with their keys by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import OneOrMore
from pipeline.measures.statistics import wilson
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, layer_axis, legend, panels
from pipeline.views.readings import table_of


def agreement_by_layer(readings: Mapping[str, pd.DataFrame], *, reading: str) -> Figure:
    """Plot the share of values whose top token follows the context of their key, by layer.

    Dashed: the mean over all pairings of a value with the context of a key of its layer.

    Args:
        readings: tables by name.
        reading: of `key_values.value_tokens`.

    Raises:
        ValueError: no such reading.
    """
    table = table_of(readings, reading)
    layers = sorted(table["layer"].unique().tolist())
    groups = table.groupby("layer")
    shares, counts = groups["agrees"].mean()[layers], groups.size()[layers]
    low, high = wilson(shares.to_numpy(), counts.to_numpy())
    with panels(1, 8.5) as (figure, (axis,)):
        axis.vlines(layers, 100 * low, 100 * high, color=COLOURS[0])
        axis.plot(layers, 100 * shares, color=COLOURS[0], marker="o", lw=2)
        axis.plot(layers, 100 * groups["chance"].first()[layers], color=COLOURS[0], ls="--")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("layer")
        axis.set_ylabel("values that agree with their key (%)")
        layer_axis(axis)
        legend(
            figure,
            {
                "value and key of one neuron": legend_key(color=COLOURS[0], lw=2, marker="o"),
                "chance: any two neurons of the layer": legend_key(color=COLOURS[0], ls="--"),
            },
        )
        each = f"{counts.min()}" if counts.nunique() == 1 else f"{counts.min()} to {counts.max()}"
        caption(
            figure,
            [
                f"n = {each} values in each of {len(layers)} layers, no intervention.",
                "A value agrees if its top token is the one that follows, in the text, the context",
                "in which its neuron is most active. Bars: 95 % intervals.",
            ],
        )
    return figure


def value_table(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    rows: OneOrMore = 3,
    layers: OneOrMore = 6,
) -> Figure:
    """Tabulate the top tokens of the values with the largest activations in some layers.

    Args:
        readings: tables by name.
        reading: of `key_values.value_tokens`.
        rows: values of a layer.
        layers: number of layers, evenly spaced.

    Raises:
        ValueError: no such reading, or a number below 1.
    """
    for name, value in (("rows", rows), ("layers", layers)):
        if value < 1:
            raise ValueError(f"{name} = {value}; valid: 1 or more")
    table = table_of(readings, reading)
    every = np.array(sorted(table["layer"].unique()))
    chosen = every[np.unique(np.linspace(0, len(every) - 1, layers).round().astype(int))]
    # The strongest of each layer: nothing in the choice looks at the tokens.
    strongest = table[table["layer"].isin(chosen)].sort_values("activation", ascending=False)
    shown = (
        strongest.groupby("layer")
        .head(rows)
        .sort_values(["layer", "activation"], ascending=[True, False])
    )
    columns = {"layer": 0.0, "value": 0.055, "top tokens": 0.12, "context": 0.545, "next": 0.885}
    with panels(1, 14, 0.32 * len(shown) + 0.9) as (figure, (axis,)):
        axis.axis("off")
        axis.set_xlim(0, 1)
        axis.set_ylim(len(shown), -1)
        style: dict[str, Any] = {"va": "center", "fontsize": 11, "fontfamily": families()}
        for name, place in columns.items():
            axis.text(place, -0.6, name, weight="bold", **style)
        for height, row in enumerate(shown.itertuples()):
            if height % rows == 0:
                axis.axhline(height - 0.1, color="#c4c4c4", lw=0.8)
                axis.text(columns["layer"], height + 0.4, str(row.layer), **style)
            pieces = "  ".join(drawable(piece, 12) for piece in row.pieces)
            cells = {
                "value": str(row.value),
                "top tokens": pieces,
                "context": _end(drawable(row.context), 44),
                "next": drawable(row.next_piece, 14),
            }
            colour = COLOURS[2] if row.agrees else "#222222"
            for name, text in cells.items():
                same = name in ("top tokens", "next")
                axis.text(
                    columns[name], height + 0.4, text, color=colour if same else "#222222", **style
                )
        axis.set_title("What do values write, and where are they most active?")
        caption(
            figure,
            [
                f"n = {len(shown)} of {len(table)} values: the {rows} with the largest activations",
                f"in each of {len(chosen)} layers. Top tokens of the value; the text up to the",
                "token at which its neuron is most active, and the token that follows. Green: the",
                f"first top token is that one, as for {100 * table['agrees'].mean():.1f} % of all",
                f"values (by chance {100 * table['chance'].mean():.1f} %). ␣: begins with a blank.",
            ],
        )
    return figure


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else "…" + text[len(text) - most + 1 :].lstrip("…")
