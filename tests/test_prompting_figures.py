"""Figures of repeated answers, coherence and ratings draw the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest

from pipeline.views.coherence import coherence_by_label
from pipeline.views.ratings import rating_intervals
from pipeline.views.repeats import accuracy_curves


def text_of(figure) -> str:
    return figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


def test_accuracy_curves_draw_means_gains_and_one_completion_of_the_baseline():
    rng = np.random.default_rng(0)
    columns = {"arm": "a", "split": "test", "label": "sum", "repeats": 4, "condition": "c0"}
    gains = {"any": 0.4, "vote": 0.1, "best": 0.2}
    easy = rng.uniform(0.2, 0.4, 12)
    rows = [
        {**columns, "role": "candidate", "temperature": 0.7, "sample": sample, "n": n}
        | {"rule": rule, "score": easy[sample] + gain * (n == 4)}
        for sample in range(12)
        for n in (1, 4)
        for rule, gain in gains.items()
    ]
    greedy = [
        {**columns, "role": "baseline", "temperature": np.nan, "sample": sample, "n": 1}
        | {"rule": "any", "score": float(sample < 9)}
        for sample in range(12)
    ]
    # A baseline of several completions: of them, one is drawn.
    more = [{**row, "n": 4, "score": 1.0} for row in greedy]
    table = pd.DataFrame([*rows, *greedy, *more])
    options = {"reading": "r", "arm": "a", "axis": "temperature"}
    figure = accuracy_curves({"r": table}, "sample", 0, **options)
    (axis,) = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    for rule, gain in gains.items():
        np.testing.assert_allclose(lines[rule], [easy.mean(), easy.mean() + gain])
    assert sum(np.allclose(line.get_ydata(), 0.75) for line in axis.lines) == 1
    assert "n = 12 prompts (sum 12), 4 completions of each" in text_of(figure)
    assert "majority vote +10.0 (+10.0 to +10.0)" in text_of(figure)
    with pytest.raises(ValueError, match="no axis 'heat'; valid: "):
        accuracy_curves({"r": table}, "sample", 0, **{**options, "axis": "heat"})
    twice = pd.concat([table, table.assign(condition="c1")])
    with pytest.raises(ValueError, match="conditions c0 and c1 agree in temperature; valid: one"):
        accuracy_curves({"r": twice}, "sample", 0, **options)


def test_coherence_is_compared_by_question_in_every_frame():
    level = {("chat", "own"): 9.0, ("raw", "own"): 4.0, ("chat", "other"): -2, ("raw", "other"): -2}
    rows = [
        {"arm": "a", "role": "baseline", "split": "test", "frame": frame, "topic": f"t{topic}"}
        | {"sample": 2 * topic + (label == "raw")}
        | {"label": label, "context": context, "n_tokens": 5, "coherence": value + topic}
        for (label, context), value in level.items()
        for frame in ("chat", "raw")
        for topic in range(11)
    ]
    figure = coherence_by_label({"r": pd.DataFrame(rows)}, 0, reading="r", arm="a")
    assert len(figure.axes) == 2
    heights = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted(heights) == [3, 3, 9, 14]
    assert "Judged without it, chat - raw, paired by question (n = 11): +5.0 nats" in text_of(
        figure
    )
    with pytest.raises(ValueError, match="labels of reading r: chat; valid: two"):
        one = pd.DataFrame(rows).query("label == 'chat'")
        coherence_by_label({"r": one}, 0, reading="r", arm="a")


def test_prompts_without_a_topic_are_questions_of_their_own():
    rows = pd.DataFrame(
        [
            {"sample": sample, "topic": topic, "label": label, "context": context}
            | {"coherence": sample * 1.0, "n_tokens": 5}
            for sample, (topic, label) in enumerate([("t", "a"), ("t", "b"), *[("", "a")] * 4])
            for context in ("own", "other")
        ]
    ).assign(arm="a", role="baseline", split="test", frame="chat")
    figure = coherence_by_label({"r": rows}, 0, reading="r", arm="a")
    assert "6 completions of 5 questions" in text_of(figure)
    assert len(figure.axes[0].collections[0].get_offsets()) == 5
    assert "a - b, paired by question (n = 1): -1.0 nats" in text_of(figure)
    figure = coherence_by_label({"r": rows.assign(topic="")}, 0, reading="r", arm="a")
    assert "a - b: no question has both labels." in text_of(figure)


def test_ratings_are_drawn_from_best_to_worst_with_control():
    table = pd.DataFrame(
        {
            "player": ["long", "short"] * 2,
            "style_control": [False, False, True, True],
            "rating": [1050.0, 950.0, 980.0, 1020.0],
            "low": [1000.0, 900.0, 930.0, 970.0],
            "high": [1100.0, 1000.0, 1030.0, 1070.0],
            "style": [np.nan, np.nan, 0.5, 0.5],
            "style_low": [np.nan, np.nan, 0.25, 0.25],
            "style_high": [np.nan, np.nan, 0.75, 0.75],
            "comparisons": 40,
            "ties": 3,
            "topics": 10,
            "split": "test",
            "frame": "chat",
        }
    )
    figure = rating_intervals({"r": table}, reading="r")
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["short", "long"]
    points = [line.get_xdata().tolist() for line in axis.lines if line.get_marker() == "o"]
    assert points == [[950, 1050], [1020, 980]]
    assert "tokens: +0.50 (+0.25 to +0.75)" in text_of(figure)
    assert "n = 40 comparisons over 10 topics, 3 ties" in text_of(figure)
