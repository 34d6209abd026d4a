"""Figures of features draw the numbers they are given, and are written alike twice."""

import numpy as np
import pandas as pd
import pytest

from pipeline.views.features import coverage_by_size, feature_by_layer
from pipeline.views.panels import save


def test_the_map_of_a_sentence_is_its_matrix():
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    pieces = ["<bos>", " the", "\n"]
    figure = feature_by_layer(matrix, pieces, feature=17, site="blocks.2.resid_post")
    heat = figure.axes[0]
    assert np.array_equal(heat.images[0].get_array(), matrix)
    # Layer 0 is at the bottom, as the stream rises.
    assert heat.get_ylim() == (-0.5, 3.5)
    assert [label.get_text() for label in heat.get_xticklabels()] == ["<bos>", "␣the", "⏎"]
    assert "17" in heat.get_title(loc="left") and "blocks.2.resid_post" in figure.get_supxlabel()
    assert heat.images[0].get_clim() == (0, 11)


def test_special_tokens_do_not_set_the_scale():
    matrix = np.array([[900.0, 1.0, 2.0], [800.0, 0.0, 4.0]])
    figure = feature_by_layer(
        matrix, ["<bos>", "a", "b"], feature=0, site="blocks.1.resid_post", left_out=[0]
    )
    image = figure.axes[0].images[0]
    assert image.get_clim() == (0, 4)
    assert image.get_array().mask.tolist() == [[True, False, False]] * 2


def test_a_silent_feature_can_be_drawn():
    figure = feature_by_layer(np.zeros((2, 1)), ["a"], feature=0, site="blocks.1.resid_post")
    assert figure.axes[0].images[0].get_clim() == (0, 1)


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="2 tokens' texts for 3 positions"):
        feature_by_layer(np.zeros((2, 3)), ["a", "b"], feature=0, site="blocks.1.resid_post")


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {
                "site": "blocks.2.resid_post",
                "kind": "topk",
                "n_features": size,
                "concept": f"c{concept}",
                "feature": 3,
                "f1": min(1.0, 0.2 * step + 0.1 * rng.random()),
                "shuffled": 0.05 + 0.02 * rng.random(),
                "chance": 0.1,
                "positives": 40,
                "rows": 800,
            }
            for step, size in enumerate((64, 256, 1024), start=1)
            for concept in range(5)
        ]
    )


def test_coverage_is_drawn_by_size(table, tmp_path):
    figure = coverage_by_size(table)
    (axes,) = figure.axes
    means = table.groupby("n_features")["f1"].mean()
    drawn = {line.get_label(): line for line in axes.lines}
    line = drawn["best feature"]
    assert line.get_xdata().tolist() == [64, 256, 1024]
    np.testing.assert_allclose(line.get_ydata(), means.to_numpy())
    np.testing.assert_allclose(
        drawn["shuffled"].get_ydata(), table.groupby("n_features")["shuffled"].mean()
    )
    assert axes.get_xscale() == "log"
    dots = np.concatenate(
        [points.get_offsets() for points in axes.collections if len(points.get_offsets()) == 5]
    )
    np.testing.assert_allclose(np.sort(dots[:, 1]), np.sort(table["f1"]))
    text = figure.get_supxlabel()
    assert "5 concepts" in text and "F1" in text and "800" in text
    for name in "ab":
        save(coverage_by_size(table), tmp_path / name, {"commit": "abc"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_kind_and_site_has_a_panel(table):
    other = table.assign(site="blocks.5.resid_post")
    figure = coverage_by_size(pd.concat([table, other]))
    assert [axes.get_title(loc="left").split("\n")[0] for axes in figure.axes] == [
        "blocks.2.resid_post",
        "blocks.5.resid_post",
    ]
