"""Figures of attention: scores by layer and head, and patterns with tokens on the axes."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.config.declared import LayerNumber, OneOf, ReadingName, Sample
from pipeline.measures.statistics import estimate, topics_or_samples
from pipeline.views.glyphs import drawable, families
from pipeline.views.panels import caption, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

SCORES = {
    "first": "to the first token",
    "previous": "to the previous token",
    "duplicate": "to the same token earlier",
    "induction": "to what followed the same token",
}
"""Column of `attention.attention_summary` -> title."""

_FRAME = "#D55E00"
_SHADES = "Blues"


def attention_by_head(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    reading: str,
    text: Annotated[str, OneOf("dataset", "repeated random tokens")],
) -> Figure:
    """Draw mean attention scores of every layer and head as heat maps, and the entropy.

    Framed: the head with the most weight, or with the least entropy; under each title, its value
    with a 95 % interval, and the value of uniform attention. Weights are on one scale.

    Args:
        readings: tables by name.
        seed: of the bootstrap interval.
        reading: of `attention.attention_summary`.
        text: `dataset` or `repeated random tokens`.

    Raises:
        ValueError: no such reading or text.
    """
    table = select(table_of(readings, reading), text=text)
    names = [*(name for name in SCORES if table[name].notna().any()), "entropy"]
    layers, heads = table["layer"].nunique(), table["head"].nunique()
    width = float(np.clip(0.3 * heads + 2.4, 4.6, 6.2))
    with panels(len(names), width, float(np.clip(0.2 * layers + 1.6, 3, 6.2))) as (figure, axes):
        weights = table.groupby(["layer", "head"])[names[:-1]].mean()
        # One scale, so that colours are comparable.
        largest = float(weights.to_numpy().max())
        for axis, name in zip(axes, names, strict=True):
            means = table.groupby(["layer", "head"])[name].mean()
            grid = means.unstack()
            weight = name != "entropy"
            best = means.idxmax() if weight else means.idxmin()
            limits = {"vmin": 0, "vmax": largest} if weight else {"vmin": 0}
            image = axis.imshow(
                grid,
                aspect="auto",
                origin="lower",
                cmap="viridis" if weight else "viridis_r",
                **limits,
            )
            label = "mean weight" if weight else "entropy (nats)"
            figure.colorbar(image, ax=axis, label=label, pad=0.02)
            corner = (best[1] - 0.5, best[0] - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, fill=False, ec=_FRAME, lw=2.5, clip_on=False))
            rows = table[(table["layer"] == best[0]) & (table["head"] == best[1])]
            attended = estimate(
                rows[name],
                topics_or_samples(rows),
                proportion=False,
                seed=seed,
                within=(0.0, 1.0 if weight else np.inf),
            )
            chance = table[f"{name}_chance"].mean()
            axis.set_title(
                f"{SCORES.get(name, 'entropy').capitalize()}\n"
                f"{best[0]}.{best[1]}: {attended.mean:.2f}"
                f" [{attended.low:.2f}, {attended.high:.2f}]"
                f", uniform {chance:.2f}",
                fontsize=11.5,
            )
            axis.grid(False)
            axis.set_xlabel("head")
            axis.set_ylabel("layer")
            axis.set_xticks(range(0, heads, -(-heads // 12)))
            axis.set_yticks(range(0, layers, -(-layers // 10)))
            axis.tick_params(length=0, labelleft=True, labelbottom=True)
        caption(
            figure,
            [
                f"{text.capitalize()}, n = {table['sample'].nunique()} texts, no intervention.",
                "Cells: mean over texts. Framed: the head (layer.head) with the most weight, or",
                f"the least entropy, of all {layers * heads}; its mean and 95 % interval, chosen",
                "and measured on the same texts. Uniform: the same weight on every token up to the",
                "query.",
            ],
        )
    return figure


def strongest_patterns(
    readings: Mapping[str, pd.DataFrame],
    *,
    patterns: ReadingName,
    summary: ReadingName,
    text: Annotated[str, OneOf("dataset", "repeated random tokens")],
    sample: Sample,
) -> Figure:
    """Draw the pattern of the strongest head of every score in one prompt, tokens on the axes.

    Args:
        readings: tables by name.
        patterns: a reading of `attention.attention_patterns`.
        summary: a reading of `attention.attention_summary`, which chooses the heads.
        text: of the summary: `dataset` or `repeated random tokens`.
        sample: the prompt.

    Raises:
        ValueError: no such reading, text or sample.
    """
    table = select(table_of(readings, summary), text=text)
    means = table.groupby(["layer", "head"])[list(SCORES)].mean()
    rows = select(table_of(readings, patterns), sample=sample)
    with _readable(rows, len(SCORES), 2) as (figure, axes, named):
        for axis, (name, title) in zip(axes, SCORES.items(), strict=True):
            layer, head = map(int, means[name].idxmax())
            _draw_pattern(axis, rows, layer, head, named)
            axis.set_title(textwrap.fill(f"{layer}.{head}: most {title}", 26), fontsize=11.5)
        _explain(
            figure,
            axes,
            rows,
            [f"Titles: layer.head, chosen by the mean weight in: {text}."],
        )
    return figure


def layer_patterns(
    readings: Mapping[str, pd.DataFrame],
    *,
    patterns: ReadingName,
    layer: LayerNumber,
    sample: Sample,
) -> Figure:
    """Draw the pattern of every head of a layer in one prompt, with tokens on the axes.

    Args:
        readings: tables by name.
        patterns: a reading of `attention.attention_patterns`.
        layer: the layer.
        sample: the prompt.

    Raises:
        ValueError: no such reading, layer or sample.
    """
    rows = select(table_of(readings, patterns), sample=sample, layer=layer)
    heads = sorted(rows["head"].unique().tolist())
    with _readable(rows, len(heads), 3) as (figure, axes, named):
        for axis, head in zip(axes, heads, strict=True):
            _draw_pattern(axis, rows, layer, head, named)
            axis.set_title(f"{layer}.{head}", fontsize=12)
        _explain(figure, axes, rows, ["Titles: layer.head."])
    return figure


def all_patterns(
    readings: Mapping[str, pd.DataFrame],
    *,
    patterns: ReadingName,
    sample: Sample,
) -> Figure:
    """Draw the patterns of all layers (rows, the last at the top) and heads (columns), small.

    Args:
        readings: tables by name.
        patterns: a reading of `attention.attention_patterns`.
        sample: the prompt.

    Raises:
        ValueError: no such reading or sample.
    """
    rows = select(table_of(readings, patterns), sample=sample)
    layers, heads = (sorted(rows[column].unique().tolist()) for column in ("layer", "head"))
    length = int(rows["query"].max()) + 1
    # One image: hundreds of axes take minutes to lay out.
    gap = max(1, length // 12)
    step = length + gap
    tiles = np.full((step * len(layers) - gap, step * len(heads) - gap), np.nan)
    for (layer, head), pattern in rows.groupby(["layer", "head"]):
        up, right = (len(layers) - 1 - layer) * step, head * step
        tiles[up : up + length, right : right + length] = _grid(pattern, length)
    size = min(14 / len(heads), 18 / len(layers), 1.5)
    with panels(1, size * len(heads) + 2.6, size * len(layers) + 0.6) as (figure, (axis,)):
        image = axis.imshow(tiles, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
        axis.grid(False)
        axis.set_xticks([n * step + length / 2 for n in range(len(heads))], heads)
        centres = [n * step + length / 2 for n in range(len(layers))]
        axis.set_yticks(centres, layers[::-1])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_xlabel("head")
        axis.set_ylabel("layer")
        axis.set_title("Attention of every head in one prompt")
        figure.colorbar(image, ax=axis, label="weight", shrink=0.4, pad=0.02)
        text = drawable("".join(_pieces(rows)), 150).replace("␣", " ")
        caption(
            figure,
            [
                f"n = 1 prompt: sample {rows['sample'].iloc[0]} of the {rows['split'].iloc[0]}",
                f"split, {length} tokens, no intervention. In each square queries run down and",
                f"keys to the right, from the first token. Text: {text}",
            ],
        )
    return figure


@contextmanager
def _readable(
    rows: pd.DataFrame, number: int, columns: int
) -> Iterator[tuple[Figure, list[Axes], list[str]]]:
    """Create square panels wide enough for the tokens of a prompt; yield also the tokens."""
    named = [drawable(piece, 12) for piece in _pieces(rows)]
    size = float(np.clip(0.19 * len(named) + 1.3, 3.6, 9))
    columns = min(number, columns)
    with panels(1) as (figure, (only,)):
        only.remove()
        # Panels are square: without it, constrained layout cuts off titles.
        figure.set_layout_engine("compressed")
        figure.set_size_inches(size * columns + 1, (size + 0.4) * -(-number // columns) + 1)
        axes = figure.subplots(-(-number // columns), columns, squeeze=False).ravel()
        for spare in axes[number:]:
            spare.remove()
        yield figure, list(axes[:number]), named


def _draw_pattern(
    axis: Axes, rows: pd.DataFrame, layer: int, head: int, named: Sequence[str]
) -> None:
    pattern = rows[(rows["layer"] == layer) & (rows["head"] == head)]
    axis.imshow(_grid(pattern, len(named)), cmap=_SHADES, vmin=0, vmax=1)
    axis.grid(False)
    style: dict[str, Any] = {"fontfamily": families(), "fontsize": 8}
    axis.set_xticks(range(len(named)), named, rotation=90, **style)
    axis.set_yticks(range(len(named)), named, **style)
    axis.tick_params(length=0, pad=2)


def _explain(figure: Figure, axes: list[Axes], rows: pd.DataFrame, more: list[str]) -> None:
    for axis in axes:
        axis.set_xlabel("key: attended token")
        axis.set_ylabel("query")
    figure.colorbar(axes[0].images[0], ax=axes, label="weight", shrink=0.5, pad=0.02)
    first = rows.iloc[0]
    caption(
        figure,
        [
            f"n = 1 prompt: sample {first['sample']} of the {first['split']} split, no",
            "intervention.",
            *more,
            "Each row sums to 1. ␣: the token begins with a blank.",
        ],
    )


def _pieces(rows: pd.DataFrame) -> list[str]:
    return rows.drop_duplicates("query").sort_values("query")["query_piece"].tolist()


def _grid(pattern: pd.DataFrame, length: int) -> np.ndarray:
    grid = np.full((length, length), np.nan)
    grid[pattern["query"], pattern["key"]] = pattern["weight"]
    return grid
