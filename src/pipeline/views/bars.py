"""Bar charts of next-token probabilities under two labels of a prompt."""

import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config.declared import NeedsInEach, OneOrMore, ValueOf
from pipeline.measures.statistics import estimate
from pipeline.views.glyphs import drawable, families
from pipeline.views.marks import legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select


def next_token_bars(
    readings: Annotated[Mapping[str, pd.DataFrame], NeedsInEach("topic", "topic")],
    seed: int,
    *,
    reading: str,
    topics: list[Annotated[str, ValueOf("topic")]],
    split: str = "test",
    top: OneOrMore = 5,
) -> Figure:
    """Draw the top next-token probabilities of two labels side by side, one panel per topic.

    A panel shows the `top` most likely tokens under either label. If the reading does not list one
    of them, its probability is below the last listed one, which is written instead of a bar.

    Args:
        readings: tables by name.
        seed: of the bootstrap interval.
        reading: of `next_token.next_tokens`, with two labels and a sample of each per topic.
        topics: the topics to draw.
        split: of the dataset.
        top: tokens per panel.

    Raises:
        ValueError: no such reading, topic or split; not two labels; or not one sample of each.
    """
    table = select(table_of(readings, reading), split=split)
    labels = list(table["label"].unique())
    if len(labels) != 2:
        raise ValueError(f"labels of reading {reading}: {', '.join(labels)}; valid: two")
    again = table.duplicated(["topic", "label", "rank"])
    if again.any():
        row = table[again].iloc[0]
        raise ValueError(
            f"topic {row['topic']!r} has several samples labelled {row['label']!r}; valid: one"
        )
    entropies = table[table["rank"] == 1].pivot(index="topic", columns="label", values="entropy")
    unpaired = entropies.index[entropies[labels].isna().any(axis=1)]
    if len(unpaired):
        raise ValueError(f"topic {unpaired[0]!r} has not both labels; valid: {', '.join(labels)}")
    tables_by_topic = [select(table, topic=topic) for topic in topics]
    with panels(len(topics), width=4.6, height=0.52 * top + 1.5, shared=False) as (figure, axes):
        for axis, topic, rows in zip(axes, topics, tables_by_topic, strict=True):
            _draw_pair(axis, rows, labels, top)
            both = ", ".join(f"{label} {entropies.loc[topic, label]:.2f}" for label in labels)
            title = textwrap.fill(" ".join(map(drawable, topic.split())), 34)
            axis.set_title(f"{title}\n", fontsize=12, fontfamily=families())
            axis.text(0, 1.02, f"entropy (nats): {both}", transform=axis.transAxes, fontsize=10.5)
            axis.set_xlabel("probability")
        legend(
            figure,
            {
                label: legend_key(color=colour, lw=8)
                for label, colour in zip(labels, COLOURS, strict=False)
            },
        )
        caption(figure, _in_words(table, entropies, labels, len(topics), split, seed))
    return figure


def _draw_pair(axis: Axes, rows: pd.DataFrame, labels: list[str], top: int) -> None:
    """Draw the bars of a topic, the most likely token at the top."""
    wide = rows.pivot(index="token", columns="label", values="probability")
    best = wide.max(axis=1).sort_values(ascending=False, kind="stable")
    wide = wide.loc[best.index[:top]]
    pieces = rows.drop_duplicates("token").set_index("token")["piece"]
    y_positions = np.arange(len(wide))
    for number, (label, colour) in enumerate(zip(labels, COLOURS, strict=False)):
        heights = y_positions + (number - 0.5) * 0.38
        axis.barh(heights, wide[label].fillna(0), height=0.36, color=colour, label=label)
        least = rows.loc[rows["label"] == label, "probability"].min()
        for height, p in zip(heights, wide[label], strict=True):
            text = f"< {max(least, 0.001):.3f}" if np.isnan(p) or p < 0.001 else f"{p:.3f}"
            style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": "#333333"}
            axis.text((0 if np.isnan(p) else p) + 0.015, height, text, **style)
    axis.set_yticks(y_positions, [drawable(pieces[token], 16) for token in wide.index])
    axis.tick_params(axis="y", length=0)
    for tick in axis.get_yticklabels():
        tick.set_fontfamily(families())
    axis.grid(False)
    axis.set_xlim(0, 1.17)
    axis.set_xticks([0, 0.5, 1])
    axis.invert_yaxis()


def _in_words(
    table: pd.DataFrame,
    entropies: pd.DataFrame,
    labels: list[str],
    shown: int,
    split: str,
    seed: int,
) -> list[str]:
    first, second = labels
    differences = entropies[second] - entropies[first]
    topics = differences.index.to_series()
    change = estimate(differences, topics, proportion=False, seed=seed)
    best = table[table["rank"] == 1].pivot(index="topic", columns="label", values="token")
    same = int((best[first] == best[second]).sum())
    return [
        f"{split.capitalize()} split, {shown} of n = {len(best)} pairs of prompts. Bars:",
        "probability of the next token, no intervention. ␣: the token begins with a blank.",
        f"Over all pairs, entropy is {entropies[first].mean():.2f} nats for {first} and",
        f"{entropies[second].mean():.2f} for {second}: {change.mean:+.2f}, 95 % interval",
        f"{change.low:+.2f} to {change.high:+.2f}. The likeliest token is the same in {same} of",
        f"{len(best)} pairs. Control: {first}.",
    ]
