"""Figures of how a tokenizer splits texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from pipeline.config.declared import Label, OneOrMore
from pipeline.measures.statistics import estimate
from pipeline.views.glyphs import drawable, families
from pipeline.views.panels import COLOURS, caption, legend, panels, styles_of
from pipeline.views.readings import table_of
from pipeline.views.selection import select

_WIDTH = 13.0
_SIZE = 12.0
_LINE, _HEADER, _GAP, _PADDING = 0.36, 0.34, 0.16, 0.07
"""Inches: height of a line of boxes and of a text's header, gap below, padding inside a box."""


def token_boxes(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    label: Label | None = None,
    column: str | None = None,
    texts: OneOrMore = 8,
) -> Figure:
    """Draw texts with every token in a coloured box.

    A token that is part of a character shows its bytes.

    Args:
        readings: tables by name.
        reading: of `tokenization.token_table`.
        label: of the texts; None: all.
        column: of the dataset; None: all.
        texts: most texts to draw, the first ones.

    Raises:
        ValueError: no such reading, label or column, or no texts to draw.
    """
    if texts < 1:
        raise ValueError(f"texts = {texts}; valid: 1 or more")
    wanted = {"label": label, "column": column}
    table = table_of(readings, reading)
    table = select(table, **{name: value for name, value in wanted.items() if value is not None})
    groups = [rows for _, rows in table.groupby(["sample", "column"], sort=False)]
    shown = [_shown(rows) for rows in groups[:texts]]
    lines = [_wrapped(pieces) for pieces in shown]
    height = sum(_HEADER + _LINE * len(wrapped) + _GAP for wrapped in lines)
    with panels(1, _WIDTH, height) as (figure, (axis,)):
        axis.axis("off")
        axis.set_xlim(0, _WIDTH)
        axis.set_ylim(height, 0)
        top = 0.0
        for rows, wrapped in zip(groups, lines, strict=False):
            _write_header(axis, rows.iloc[0], top)
            top = _draw_lines(axis, wrapped, top + _HEADER) + _GAP
        split = table["split"].unique()
        caption(
            figure,
            [
                f"n = {len(lines)} of {len(groups)} texts, {', '.join(split)} split.",
                "Boxes: tokens; ␣: a blank. Two hexadecimal digits: a byte of a character that has "
                "no token of its own.",
                "Words: runs between blanks. No control: nothing is estimated.",
            ],
        )
    return figure


def token_counts(
    readings: Mapping[str, pd.DataFrame], seed: int, *, reading: str, label: Label | None = None
) -> Figure:
    """Draw the mean number of tokens per word, by topic and column.

    Args:
        readings: tables by name.
        seed: of the bootstrap over texts.
        reading: of `tokenization.token_table`.
        label: of the texts; None: all.

    Raises:
        ValueError: no such reading or label.
    """
    table = table_of(readings, reading)
    table = table if label is None else select(table, label=label)
    texts = table.drop_duplicates(["sample", "column"])
    texts = texts.assign(ratio=texts["tokens"] / texts["words"].clip(lower=1))
    topics, columns = list(texts["topic"].unique()), list(texts["column"].unique())
    styles = styles_of(columns, "hatch")
    with panels(1, 9.0, 0.62 * len(topics) + 1.2) as (figure, (axis,)):
        axis.grid(False)
        axis.grid(True, axis="x")
        for number, (column, style) in enumerate(styles.items()):
            for place, topic in enumerate(topics):
                ratios = texts.loc[(texts["topic"] == topic) & (texts["column"] == column), "ratio"]
                if ratios.empty:
                    continue
                at = place + (number - (len(columns) - 1) / 2) * 0.8 / len(columns)
                words = ratios.index.to_series()
                mean = estimate(ratios, words, proportion=False, seed=seed, within=(0.0, np.inf))
                axis.barh(at, mean.mean, height=0.72 / len(columns), **style)
                axis.hlines(at, mean.low, mean.high, color="#222222", lw=1.3)
                single = int((ratios == 1).sum())
                right = mean.mean if np.isnan(mean.high) else mean.high
                text = f" {single} of {len(ratios)}"
                axis.text(right, at, text, va="center", fontsize=9.5, color="#333333")
        axis.set_yticks(range(len(topics)), [_in_words(topic) for topic in topics])
        for tick in axis.get_yticklabels():
            tick.set_fontfamily(families())
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.set_xlim(0, axis.get_xlim()[1] * 1.08)
        axis.set_xlabel("tokens per word")
        legend(figure, {name: Patch(**style) for name, style in styles.items()})
        caption(
            figure,
            [
                f"n = {len(texts)} texts, {', '.join(table['split'].unique())} split. Bars: mean",
                "over texts; lines: 95 % intervals, resampled over texts; numbers: texts with one",
                "token per word. No control: 1 is the least possible.",
            ],
        )
    return figure


def _in_words(topic: str) -> str:
    return " ".join(map(drawable, topic.split()))


def _shown(rows: pd.DataFrame) -> list[str]:
    """Return what is written into the box of each token."""
    return [
        drawable(piece) if "\N{REPLACEMENT CHARACTER}" not in piece else content
        for piece, content in zip(rows["piece"], rows["bytes"], strict=True)
    ]


def _wrapped(pieces: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Break boxes into lines; each box is its text and its width in inches."""
    figure = Figure()
    renderer = FigureCanvasAgg(figure).get_renderer()
    lines: list[list[tuple[str, float]]] = [[]]
    filled = 0.0
    for piece in pieces:
        text = figure.text(0, 0, piece, **_style())
        width = text.get_window_extent(renderer).width / figure.dpi + 2 * _PADDING
        if lines[-1] and filled + width > _WIDTH:
            lines.append([])
            filled = 0.0
        lines[-1].append((piece, width))
        filled += width
    return lines


def _style() -> dict[str, Any]:
    return {"fontsize": _SIZE, "fontfamily": families()}


def _write_header(axis: Axes, text: pd.Series, top: float) -> None:
    counts = f"{text['tokens']} tokens"
    if text["words"] > 1:
        counts += f", {text['tokens'] / text['words']:.2f} per word"
    counts += f", {text['text_bytes'] / text['tokens']:.2f} bytes per token"
    style: dict[str, Any] = {"va": "center", "fontfamily": families()}
    axis.text(0, top + 0.2, _in_words(text["topic"]), fontsize=12, fontweight="bold", **style)
    after = max(1.3, 0.35 + 0.115 * len(_in_words(text["topic"])))
    axis.text(after, top + 0.2, counts, fontsize=10.5, color="#555555", **style)


def _draw_lines(axis: Axes, lines: list[list[tuple[str, float]]], top: float) -> float:
    """Draw a text's boxes; return where they end."""
    number = 0
    for line in lines:
        left = 0.0
        for piece, width in line:
            colour = COLOURS[number % len(COLOURS)]
            box = FancyBboxPatch(
                (left + 0.01, top + 0.02),
                width - 0.02,
                _LINE - 0.04,
                boxstyle="round,pad=0,rounding_size=0.05",
                facecolor=(colour, 0.28),
                lw=0,
            )
            axis.add_patch(box)
            middle = (left + width / 2, top + _LINE / 2)
            axis.text(*middle, piece, ha="center", va="center_baseline", **_style())
            left += width
            number += 1
        top += _LINE
    return top
