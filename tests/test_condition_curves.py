"""Curves over an axis, tables of texts and relation figures draw the numbers of their tables."""

import pandas as pd
import pytest
from test_maps import AXES, CALL

from pipeline.measures.statistics import summarise
from pipeline.views.arm_curves import arms_by_axis
from pipeline.views.maps import axes_map
from pipeline.views.panels import save
from pipeline.views.relations import relation_bars, relation_by_layer, relation_scatter
from pipeline.views.text_tables import text_table


def arm(name, role, scores) -> pd.DataFrame:
    """Scores of two splits with 12 samples each, by (source, target): how many are 1."""
    rows = []
    for (source, target), (val, test) in {(None, None): (0, 3), **scores}.items():
        for split, ones, first in (("val", val, 0), ("test", test, 12)):
            for n in range(12):
                rows.append(
                    {
                        "condition": f"{name}-{source}-{target}",
                        "arm": name,
                        "role": "baseline" if source is None else role,
                        "source_layer": source,
                        "target_layer": target,
                        "sample": first + n,
                        "repeat": 0,
                        "split": split,
                        "label": name,
                        "metric": "exact",
                        "score": float(n < ones),
                    }
                )
    return pd.DataFrame(rows).astype({"source_layer": "Int64", "target_layer": "Int64"})


BEST = {(0, 0): (12, 0), (1, 0): (12, 0), (0, 1): (6, 9), (1, 1): (8, 12), (0, 2): (0, 12)}
NEVER = dict.fromkeys([*BEST, (1, 2)], (0, 0))


@pytest.fixture
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = [arm("a", "candidate", {**BEST, (1, 2): (0, 12)}), arm("b", "control", NEVER)]
    scores = pd.concat(parts, ignore_index=True)
    by = ["condition", "arm", "role", "source_layer", "target_layer", "label", "split", "metric"]
    summary = summarise(scores, by, shares=["exact"], cluster="sample", seed=0)
    return summary.assign(share=True, percent=True, metric_label="exact match"), scores


OPTIONS = {"arms": ["a"], "metric": "exact", "x": "source_layer", "chosen": "target_layer"}


def caption_of(figure):
    return " ".join(figure.get_supxlabel().split())


@pytest.mark.parametrize(("at_least", "heights"), [(0.0, [0, 0]), (1.0, [0.75, 1]), (2.0, [1, 1])])
def test_the_curve_is_the_test_mean_where_val_is_best(tables, at_least, heights, tmp_path):
    summary, scores = tables
    figure = arms_by_axis(
        summary, scores, "sample", 0, **OPTIONS, controls=["b"], at_least=at_least
    )
    control, curve = sorted(figure.axes[0].lines, key=lambda line: line.get_linestyle() == "-")
    assert list(curve.get_ydata()) == heights and list(curve.get_xdata()) == [0, 1]
    assert list(control.get_ydata()) == [0, 0]
    text = caption_of(figure)
    assert f"a {at_least:g} (unedited: 25 %)" in text and "n = 12 per mean" in text
    save(figure, tmp_path / "curve.png", {})


def test_an_axis_may_have_fractions(tables):
    summary, scores = (
        table.assign(**{name: table[name] / 2 for name in ("source_layer", "target_layer")}).rename(
            columns={"source_layer": "strength", "target_layer": "scale"}
        )
        for table in tables
    )
    options = {"arms": ["a"], "metric": "exact", "x": "strength", "chosen": "scale"}
    figure = arms_by_axis(summary, scores, "sample", 0, **options, at_least=0.5)
    (curve,) = (line for line in figure.axes[0].lines if line.get_linestyle() == "-")
    assert list(curve.get_xdata()) == [0, 0.5] and list(curve.get_ydata()) == [0.75, 1]
    text = caption_of(figure)
    assert "from 0.5 on: a 0.5" in text and "simultaneous over strengths" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "up"}, "goal 'up' is unknown; valid: raise, lower"),
        ({"controls": ["b", "b"]}, "2 controls of 1 arms; valid: one for each"),
        ({"x": "depth"}, "no axis 'depth'; valid: "),
        ({"at_least": 3.0}, "at_least 3: no target_layer of arm a is as large"),
        ({"arms": ["c"]}, "no rows with arm = c; present: a, b"),
    ],
)
def test_what_has_no_curve_is_named(tables, options, message):
    with pytest.raises(ValueError, match=message):
        arms_by_axis(*tables, "sample", 0, **{**OPTIONS, **options})


def test_a_maps_controls_may_be_those_of_another_arm(tables):
    summary, _ = tables
    options = {**CALL, **AXES, "arm": "a"}
    assert "No controls" in caption_of(axes_map(summary, **options))
    text = caption_of(axes_map(summary, **options, control="b"))
    assert "B: 0 to 0." in text


def test_texts_that_begin_with_the_answer_are_shaded():
    rows = [
        {"layer": layer, "who": who, "answer": " Rome", "completion": text, "split": "test"}
        for who, texts in (("Ida", [" Oslo", " Rome is\nold"]), ("Leo B", ["Rome", " $5"]))
        for layer, text in zip((-1, 3), texts, strict=True)
    ]
    options = {"reading": "texts", "row": "layer", "column": "who"}
    readings = {"texts": pd.DataFrame(rows)}
    figure = text_table(readings, **options, marked="answer", note="Of layer 3.")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == [
        *("Ida", "Rome", "Oslo", "Rome is"),
        *("Leo B", "Rome", "Rome", r"\$5"),
    ]
    assert len(axis.patches) == 2 and "Of layer 3." in caption_of(figure)
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["none", "3"]
    assert not text_table(readings, **options).axes[0].patches
    for wrong, message in (({"row": "x"}, "no column 'x' in reading texts"), ({}, "several texts")):
        twice = {"texts": pd.concat([readings["texts"]] * 2)}
        with pytest.raises(ValueError, match=message):
            text_table(twice, **{**options, **wrong})


def relation_tables() -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Relation a: faithful 3 of 4, causal 2 of 4; b: 1 and 0 of 4; the fifth is answered wrong."""
    shares = {"a": (3, 2), "b": (1, 0)}
    predictions, scores = [], []
    number = 0
    for label, (faithful, causal) in shares.items():
        for split in ("val", "test"):
            for n in range(5):
                number += 1
                row = {"sample": number, "label": label, "split": split, "topic": str(number)}
                wrong = n == 4
                for beta in (0.0, 1.0):
                    agrees = float(beta == 1 and n < faithful)
                    predictions.append(
                        {**row, "layer": 2, "beta": beta, "correct": 1.0 - wrong, "agrees": agrees}
                    )
                for name, ones in (("inverse", causal), ("random", 0), ("state", 4)):
                    row |= {"arm": name, "repeat": 0}
                    base = {**row, "role": "baseline", "metric": "correct", "score": 1.0 - wrong}
                    axes = {"layer": 2, "rank": None if name == "state" else 8, "role": "candidate"}
                    scores += [base, {**row, **axes, "metric": "edited", "score": float(n < ones)}]
    return {"p": pd.DataFrame(predictions)}, pd.DataFrame(scores)


def test_relation_figures_count_correct_test_prompts_only(tmp_path):
    readings, scores = relation_tables()
    options = {"reading": "p", "arm": "inverse", "random": "random"}
    options |= {"metric": "edited", "correct": "correct"}
    bars = relation_bars(readings, scores, "topic", 0, **options, target_state="state")
    left, right = bars.axes
    widths = [[bar.get_width() for bar in axis.patches] for axis in (left, right)]
    assert widths == [[0, 0, 75, 25], [0, 0, 50, 0, 100, 100]]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a (4)", "b (4)"]
    scatter = relation_scatter(readings, scores, "topic", 0, **options)
    points = [
        line.get_xydata()[0].tolist()
        for line in scatter.axes[0].lines
        if len(line.get_xdata()) == 1
    ]
    assert points == [[75, 50], [25, 0]]
    # A relation that is as good as another is seen behind it.
    predictions, edits = (table[table["label"] == "a"] for table in (readings["p"], scores))
    again = (
        table.assign(label="c", sample=table["sample"] + 100) for table in (predictions, edits)
    )
    twice = [
        pd.concat(pair, ignore_index=True) for pair in zip((predictions, edits), again, strict=True)
    ]
    both = relation_scatter({"p": twice[0]}, twice[1], "topic", 0, **options)
    sizes = [line.get_markersize() for line in both.axes[0].lines if len(line.get_xdata()) == 1]
    assert sizes == [13, 8]
    by_layer = relation_by_layer(readings, reading="p")
    assert [text.get_text() for text in by_layer.axes[0].texts] == ["75", "25"]
    for name, figure in (("bars", bars), ("scatter", scatter), ("layers", by_layer)):
        save(figure, tmp_path / f"{name}.png", {})
