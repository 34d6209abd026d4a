"""Sentences with the arcs of their trees above, and those that a probe read below."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from pipeline.config.declared import OneOrMore
from pipeline.measures.trees import Edge, edges_of, parse_heads
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.probes import fitted_on
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_WRONG = COLOURS[1]
_BLACK = "#333333"


def read_trees(
    prompts: pd.DataFrame,
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    samples: OneOrMore = 3,
    heads: str = "heads",
    split: str = "test",
) -> Figure:
    """Draw sentences with their trees above and the trees that the best layer's probe reads below.

    The layer is that of the least loss on the val split. The sentences are those at evenly spaced
    ranks of UUAS, from the worst to the best, not a choice by hand.

    Args:
        prompts: the dataset.
        readings: tables by name.
        reading: of `tree_probes.trees_by_layer`.
        samples: number of sentences.
        heads: the column with each word's parent.
        split: of the dataset.

    Raises:
        ValueError: no such reading or split, or fewer sentences.
    """
    table = select(table_of(readings, reading), split=split, source="fitted")
    layer = int(table.groupby("layer")["fit_score"].mean().idxmax())
    rows = table[table["layer"] == layer].sort_values(["score", "sample"], kind="stable")
    if not 1 <= samples <= len(rows):
        raise ValueError(f"samples: {samples}; valid: 1 to {len(rows)}")
    shown = rows.iloc[np.linspace(0, len(rows) - 1, samples).round().astype(int)]
    texts = prompts.set_index("sample")
    with panels(1) as (figure, (only,)):
        only.remove()
        figure.set_size_inches(13, 2.9 * samples + 1.2)
        axes = figure.subplots(samples, 1, squeeze=False).ravel()
        for axis, row in zip(axes, shown.to_dict("records"), strict=True):
            sentence = texts.loc[row["sample"]]
            true = edges_of(parse_heads(sentence[heads]))
            pairs = [edge.split("-") for edge in row["edges"].split()]
            _draw(axis, sentence["instruction"].split(), true, {(int(a), int(b)) for a, b in pairs})
            axis.set_title(f"Sample {row['sample']}: UUAS {row['score']:.2f}", fontsize=11.5)
        keys: dict[str, Any] = {
            "tree of the grammar (above), rightly read (below)": legend_key(color=_BLACK, lw=1.8),
            "wrongly read": legend_key(color=_WRONG, lw=1.8),
        }
        legend(figure, keys)
        ranks = "worst, median and best" if samples == 3 else "worst to best"
        caption(
            figure,
            [
                f"{split.capitalize()} split, {samples} of n = {len(rows)} sentences about nouns",
                f"that {fitted_on(split)}: the {ranks} by UUAS, which is",
                f"{rows['score'].mean():.2f} in the mean; adjacent words:",
                f"{rows['reference'].mean():.2f}. Below: minimum spanning tree of the probe's",
                f"distances at the input of layer {layer}, which was chosen by its loss on",
                "the val split.",
            ],
        )
    return figure


def _draw(axis: Axes, words: list[str], true: set[Edge], read: set[Edge]) -> None:
    # Words are as far apart as they are long.
    widths = np.array([len(word) + 1.6 for word in words])
    centres = np.cumsum(widths) - widths / 2
    for centre, word in zip(centres, words, strict=True):
        axis.text(
            centre, 0, drawable(word), ha="center", va="center", fontfamily=families(), fontsize=12
        )
    for edges, side in ((true, 1), (read, -1)):
        for a, b in edges:
            height = side * (1.1 + 0.9 * (b - a) ** 0.75)
            colour = _BLACK if (a, b) in true else _WRONG
            corners = [(centres[a], side * 0.55), (centres[a], height)]
            corners += [(centres[b], height), (centres[b], side * 0.55)]
            path = Path(corners, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
            axis.add_patch(PathPatch(path, fill=False, ec=colour, lw=1.6))
    tallest = 0.8 * (1.1 + 0.9 * max(b - a for a, b in true | read) ** 0.75) + 0.4
    axis.set_xlim(0, float(widths.sum()))
    axis.set_ylim(-tallest, tallest)
    axis.axis("off")
