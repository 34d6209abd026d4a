"""Figures of attention draw the numbers of their tables, and choose the strongest heads."""

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.statistics import estimate
from pipeline.views.attention import (
    SCORES,
    all_patterns,
    attention_by_head,
    layer_patterns,
    strongest_patterns,
)

LAYERS, HEADS, PIECES = 3, 4, ["<bos>", " the", "\n", "猫", " $x$"]


@pytest.fixture(scope="module")
def readings() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    grid = pd.MultiIndex.from_product(
        [range(6), range(LAYERS), range(HEADS)], names=["sample", "layer", "head"]
    ).to_frame(index=False)
    for number, name in enumerate(SCORES):
        strong = (grid["layer"] == number % LAYERS) & (grid["head"] == number)
        grid[name] = 0.1 * rng.random(len(grid)) + 0.6 * strong
        grid[f"{name}_chance"] = 0.25
    grid["entropy"] = 1 + rng.random(len(grid)) - 0.9 * (grid["head"] == 2) * (grid["layer"] == 0)
    grid = grid.assign(entropy_chance=1.5, topic=grid["sample"].astype(str), text="dataset")
    rows = []
    for layer, head in np.ndindex(LAYERS, HEADS):
        for query in range(5):
            weights = rng.dirichlet(np.ones(query + 1))
            rows += [(layer, head, query, key, weight) for key, weight in enumerate(weights)]
    patterns = pd.DataFrame(rows, columns=["layer", "head", "query", "key", "weight"])
    for kind in ("query", "key"):
        patterns[f"{kind}_piece"] = [PIECES[place] for place in patterns[kind]]
    patterns = patterns.assign(sample=7, label="l", split="test")
    return {"summary": grid, "patterns": patterns.sample(frac=1, random_state=0)}


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def images(figure) -> list:
    return [axis for axis in figure.axes if axis.images]


def pattern(table, layer, head) -> np.ndarray:
    grid = np.full((5, 5), np.nan)
    rows = table[(table["layer"] == layer) & (table["head"] == head)]
    grid[rows["query"], rows["key"]] = rows["weight"]
    return grid


def test_maps_are_the_means_over_texts_and_frame_the_strongest_head(readings):
    figure = attention_by_head(readings, 0, reading="summary", text="dataset")
    table = readings["summary"]
    axes = images(figure)
    for number, (axis, name) in enumerate(zip(axes, [*SCORES, "entropy"], strict=True)):
        means = table.groupby(["layer", "head"])[name].mean()
        np.testing.assert_allclose(axis.images[0].get_array(), means.unstack())
        layer, head = (0, 2) if name == "entropy" else (number % LAYERS, number)
        (frame,) = axis.patches
        assert frame.get_xy() == (head - 0.5, layer - 0.5)
        rows = table[(table["layer"] == layer) & (table["head"] == head)]
        found = estimate(rows[name], rows["topic"], proportion=False, seed=0)
        text = f"{layer}.{head}: {found.mean:.2f} [{found.low:.2f}, {found.high:.2f}], uniform"
        assert text in axis.get_title(loc="left")
    assert len({axis.images[0].get_clim() for axis in axes[:4]}) == 1
    assert "Dataset, n = 6 texts" in caption(figure).replace("\xa0", " ")


def test_texts_without_topics_are_independent(readings):
    """The topics of the texts are distinct, so that nothing changes without them."""
    table = readings["summary"]
    figures = [
        attention_by_head({"summary": rows}, 0, reading="summary", text="dataset")
        for rows in (table, table.assign(topic=""))
    ]
    titles, alone = ([axis.get_title(loc="left") for axis in images(f)] for f in figures)
    assert titles == alone and "nan" not in "".join(alone)


def test_a_score_without_a_scored_text_has_no_map(readings):
    table = readings["summary"].assign(duplicate=np.nan, induction=np.nan)
    figure = attention_by_head({"summary": table}, 0, reading="summary", text="dataset")
    assert len(images(figure)) == 3


def test_patterns_are_the_weights_with_tokens_on_both_axes(readings):
    table = readings["patterns"]
    figure = layer_patterns(readings, patterns="patterns", layer=1, sample=7)
    axes = images(figure)
    assert [axis.get_title(loc="left") for axis in axes] == ["1.0", "1.1", "1.2", "1.3"]
    for head, axis in enumerate(axes):
        shown = axis.images[0].get_array()
        np.testing.assert_allclose(np.ma.filled(shown, np.nan), pattern(table, 1, head))
        for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
            assert [tick.get_text() for tick in ticks][:3] == ["<bos>", "␣the", "⏎"]
            assert ticks[4].get_text() == r"␣\$x\$"


def test_the_strongest_heads_are_those_of_the_summary(readings):
    figure = strongest_patterns(
        readings, patterns="patterns", summary="summary", text="dataset", sample=7
    )
    titles = [" ".join(axis.get_title(loc="left").split()) for axis in images(figure)]
    assert [title.split(":")[0] for title in titles] == ["0.0", "1.1", "2.2", "0.3"]
    assert titles[1] == "1.1: most to the previous token"
    shown = images(figure)[2].images[0].get_array()
    expected = pattern(readings["patterns"], 2, 2)
    np.testing.assert_allclose(np.ma.filled(shown, np.nan), expected)


def test_all_patterns_are_one_image_with_the_last_layer_at_the_top(readings):
    figure = all_patterns(readings, patterns="patterns", sample=7)
    (axis,) = images(figure)
    tiles = np.ma.filled(axis.images[0].get_array(), np.nan)
    for layer, head in np.ndindex(LAYERS, HEADS):
        up, right = (LAYERS - 1 - layer) * 6, head * 6
        tile = tiles[up : up + 5, right : right + 5]
        np.testing.assert_allclose(tile, pattern(readings["patterns"], layer, head))
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["2", "1", "0"]


def test_what_is_not_in_the_tables_is_named(readings):
    with pytest.raises(ValueError, match="no rows with text = stories; present: dataset"):
        attention_by_head(readings, 0, reading="summary", text="stories")
    with pytest.raises(ValueError, match="no rows with layer = 3; present: 0, 1, 2"):
        layer_patterns(readings, patterns="patterns", layer=3, sample=7)
    with pytest.raises(ValueError, match="no reading 'pattern'; valid: summary, patterns"):
        all_patterns(readings, patterns="pattern", sample=7)
