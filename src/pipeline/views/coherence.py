"""Coherence of answers by label, beside that with other questions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.measures.statistics import estimate, topics_or_samples
from pipeline.views.marks import GREY, draw_columns, legend_key
from pipeline.views.panels import COLOURS, caption, legend, panels
from pipeline.views.readings import table_of
from pipeline.views.selection import select

FRAMES = {
    "chat": "judged in the chat template",
    "raw": "judged without it",
    "cross-encoder": "judged by a cross-encoder",
}
_LABELS = {"cross-encoder": "fit of answer and question\n(logit of the cross-encoder)"}
_CONTEXTS = {"own": ("own question", COLOURS[0]), "other": ("another question", GREY)}


def coherence_by_label(
    readings: Mapping[str, pd.DataFrame],
    seed: int,
    *,
    reading: str,
    arm: str,
    split: str = "test",
) -> Figure:
    """Draw how well answers fit their questions, by label, a panel for each judge or frame of it.

    Large points: means with 95 % intervals over questions; small ones: questions. A prompt's topic
    names its question; one without a topic is a question of its own.

    Args:
        readings: tables by name.
        seed: of the bootstrap.
        reading: of `coherence.coherence`.
        arm: the arm, of whose conditions the baseline is drawn.
        split: of the dataset.

    Raises:
        ValueError: no such reading, arm or split, or not two labels.
    """
    table = select(table_of(readings, reading), split=split, arm=arm, role="baseline")
    table = table.assign(question=topics_or_samples(table))
    labels = sorted(table["label"].unique())
    if len(labels) != 2:
        raise ValueError(f"labels of reading {reading}: {', '.join(labels)}; valid: two")
    frames = list(table["frame"].unique())
    sentences = []
    with panels(len(frames), 4.8, 4.2, shared=not set(_LABELS) & set(frames)) as (figure, axes):
        for axis, frame in zip(axes, frames, strict=True):
            rows = select(table, frame=frame)
            for number, context in enumerate(_CONTEXTS):
                for column, label in enumerate(labels):
                    shift = (number - 0.5) * 0.36
                    _draw(axis, select(rows, context=context, label=label), column + shift, seed)
            draw_columns(axis, [f"prompted: {label}" for label in labels])
            axis.axhline(0, color="#444444", lw=0.8)
            axis.set_title(FRAMES.get(frame, frame))
            unit = "log p(answer | question) - log p(answer)\n(nats)"
            axis.set_ylabel(_LABELS.get(frame, unit))
            sentences.append(_in_words(select(rows, context="own"), frame, labels, seed))
        keys = {
            name: legend_key(color=colour, marker="o", lw=0) for name, colour in _CONTEXTS.values()
        }
        legend(figure, keys)
        own = table[(table["context"] == "own") & (table["frame"] == frames[0])]
        lengths = own.groupby("label")["n_tokens"].mean()
        n_empty = int(own["coherence"].isna().sum())
        caption(
            figure,
            [
                f"{split.capitalize()} split, n = {len(own)} completions of",
                f"{own['question'].nunique()} questions, {n_empty} empty; means with 95 %",
                "intervals over questions, small points: questions. Control, grey: another",
                "question before the same answer. Mean tokens per answer: "
                + ", ".join(f"{label} {lengths[label]:.1f}" for label in labels)
                + ".",
                *sentences,
            ],
        )
    return figure


def _draw(axis: Axes, rows: pd.DataFrame, at: float, seed: int) -> None:
    colour = _CONTEXTS[rows["context"].iloc[0]][1]
    means = rows.groupby("question")["coherence"].mean()
    spread = np.linspace(-0.1, 0.1, len(means))
    axis.scatter(at + spread, means, s=12, color=colour, alpha=0.35, lw=0)
    mean = estimate(rows["coherence"], rows["question"], proportion=False, seed=seed)
    axis.vlines(at, mean.low, mean.high, color=colour, lw=2.4, zorder=4)
    axis.plot(at, mean.mean, "o", color=colour, ms=8, mec="white", zorder=5)


def _in_words(rows: pd.DataFrame, frame: str, labels: list[str], seed: int) -> str:
    means = rows.pivot_table(index="question", columns="label", values="coherence")
    difference = (means[labels[0]] - means[labels[1]]).dropna()
    change = estimate(difference, difference.index.to_series(), proportion=False, seed=seed)
    judged = f"{FRAMES.get(frame, frame).capitalize()}, {labels[0]} - {labels[1]}"
    if difference.empty:
        return f"{judged}: no question has both labels."
    return (
        f"{judged}, paired by question (n = {len(difference)}): {change.mean:+.1f} nats "
        f"({change.low:+.1f} to {change.high:+.1f})."
    )
