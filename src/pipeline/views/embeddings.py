"""Figures of embedding tables: neighbours of words, and analogies."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import OneOf
from pipeline.measures.statistics import estimate, paired_difference
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import draw_columns, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels, percent_axis
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_RANKS = {
    "rank": "b - a + c",
    "rank_without_offset": "c alone",
    "rank_of_other_offset": "offset of another relation",
    "rank_with_inputs": "b - a + c, inputs among the candidates",
}


def neighbour_lists(readings: Mapping[str, pd.DataFrame], *, reading: str) -> Figure:
    """Write the nearest tokens of words, one panel per word, one column per space.

    Args:
        readings: tables by name.
        reading: of `embeddings.nearest_tokens`.

    Raises:
        ValueError: no such reading.
    """
    table = table_of(readings, reading)
    words = list(table["word"].unique())
    top = int(table["rank"].max())
    with panels(len(words), width=5.6, height=0.27 * top + 0.9, shared=False) as (figure, axes):
        for axis, word in zip(axes, words, strict=True):
            _write_lists(axis, table[table["word"] == word], top)
            axis.set_title(drawable(word.strip()), fontfamily=families())
        caption(
            figure,
            [
                f"n = {len(words)} words, {table['table'].iloc[0]} table, without the word itself.",
                "Columns: similarity by cosine or dot product, of rows as they are or after "
                "subtraction of the mean row.",
                "␣: a blank; #: number of a token that is part of a character.",
                "No intervention; the columns are each other's control.",
            ],
        )
    return figure


def analogy_bars(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    reading: str,
    space: Annotated[str, OneOf("cosine", "dot", "centred cosine", "centred dot")] = "cosine",
    split: str = "test",
) -> Figure:
    """Draw how often the answer of an analogy comes first, by relation, beside its controls.

    Args:
        readings: tables by name.
        seed: of the bootstrap.
        reading: of `analogies.analogies`.
        space: one of `embeddings.SPACES`.
        split: of the dataset.

    Raises:
        ValueError: no such reading, space or split.
    """
    table = select(table_of(readings, reading), split=split)
    rows = select(table, space=space)
    relations = [group for _, group in rows.groupby("topic", sort=False)]
    ranks = [column for column in _RANKS if rows[column].notna().any()]
    with panels(1, max(8.0, 2.1 * len(relations)), 4.8) as (figure, (axis,)):
        draw_columns(axis, [_named(relation) for relation in relations])
        for place, relation in enumerate(relations):
            for number, column in enumerate(ranks):
                share = estimate(
                    _is_first(relation, column), relation["sample"], proportion=True, seed=seed
                )
                at = place + (number - (len(ranks) - 1) / 2) * 0.84 / len(ranks)
                axis.bar(at, share.mean, width=0.76 / len(ranks), color=COLOURS[number], alpha=0.85)
                axis.vlines(at, share.low, share.high, color="#222222", lw=1.3)
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 10}
            axis.text(place, 1.09, _gain_in_words(relation, seed), **style)
        percent_axis(axis)
        axis.set_ylim(0, 1.18)
        axis.set_ylabel("analogies whose answer is first")
        keys = zip(ranks, COLOURS, strict=False)
        legend(figure, {_RANKS[name]: legend_key(color=colour, lw=8) for name, colour in keys})
        caption(figure, _in_words(table, rows, split, space))
    return figure


def _write_lists(axis: Axes, rows: pd.DataFrame, top: int) -> None:
    axis.axis("off")
    axis.set_xlim(0, 4)
    axis.set_ylim(top + 0.5, -1)
    for column, (space, nearest) in enumerate(rows.groupby("space", sort=False)):
        axis.text(column, -0.4, space, fontsize=10, color="#555555", va="center")
        columns = ["rank", "neighbour", "piece", "similarity"]
        for rank, token, piece, similarity in nearest[columns].itertuples(index=False):
            # A token that is part of a character has no text.
            text = f"#{token}" if "\N{REPLACEMENT CHARACTER}" in piece else drawable(piece, 9)
            style: dict[str, Any] = {"va": "center", "fontfamily": families()}
            number = f"{similarity:.2f}" if space.endswith("cosine") else f"{similarity:.3g}"
            axis.text(column + 0.3, rank - 0.4, text, fontsize=10.5, **style)
            axis.text(
                column + 0.26,
                rank - 0.4,
                number,
                ha="right",
                fontsize=8.5,
                color=COLOURS[0],
                va="center",
            )


def _named(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first['topic']}\n{first['pairs']} pairs"


def _is_first(rows: pd.DataFrame, column: str) -> pd.Series:
    return (rows[column] == 1).astype(float)


def _gain_in_words(rows: pd.DataFrame, seed: int) -> str:
    """State by how much more often d is first by b - a + c than by c alone, in per cent points."""
    sides = (
        pd.DataFrame(
            {
                "pair": rows["sample"].to_numpy(),
                "score": _is_first(rows, column).to_numpy(),
                "sample": range(len(rows)),
                "repeat": 0,
            }
        )
        for column in ("rank", "rank_without_offset")
    )
    gain = paired_difference(*sides, cluster="pair", share=True, seed=seed)
    mean, low, high = (100 * value for value in (gain.mean, gain.low, gain.high))
    return f"{mean:+.0f} points\n{low:+.0f} to {high:+.0f}"


def _in_words(table: pd.DataFrame, rows: pd.DataFrame, split: str, space: str) -> list[str]:
    relations = rows.drop_duplicates("topic")
    left_out = int(relations["left_out"].sum())
    pairs = int(relations["pairs"].sum())
    example = rows.iloc[int(np.argmin(rows["rank"].to_numpy()))]
    a, b, c, d = (drawable(example[name].strip()) for name in "abcd")
    others = [
        f"{name} {100 * (of_space['rank'] == 1).mean():.0f} %"
        for name, of_space in table.groupby("space", sort=False)
    ]
    return [
        f"{split.capitalize()} split, n = {len(rows)} analogies a : b = c : d, such as {a} : {b} =",
        f"{c} : {d}, of every two of {pairs} pairs; pairs left out, as a word is not one token:",
        f"{left_out}. {relations['table'].iloc[0].capitalize()} table, {space}. Bars: d is",
        "the most similar of all tokens, without a, b and c unless stated; lines: 95 % intervals,",
        "clustered by c : d; above: b - a + c less c alone. Chance:",
        f"1 of {relations['vocabulary'].iloc[0] - 3}. First by b - a + c over all relations:",
        f"{'; '.join(others)}.",
    ]
