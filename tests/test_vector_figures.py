"""Figures of vectors draw the numbers of their tables."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from study_tables import CLUSTER, condition

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.measures.statistics import summarise
from pipeline.views.panels import save
from pipeline.views.stability import stability_by_layer
from pipeline.views.vector_sums import vector_sums
from pipeline.views.vectors import (
    cosine_maps,
    cosine_matrices,
    cosines_by_layer,
)

LAYERS = [1, 2, 4]


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


def fitted(first: str, second: str, layer: int, other: int) -> float:
    if first == second:
        return 1 - abs(layer - other) / 10
    return -0.3 if (first, second) == ("french", "own") else 0.05


@pytest.fixture(scope="module")
def cosines() -> pd.DataFrame:
    """Shuffled cosines of up to 0.1: french and own lie beyond, own and harm within."""
    pairs = [("french", "french"), ("french", "own"), ("french", "harm")]
    pairs += [("own", "own"), ("own", "harm"), ("harm", "harm")]
    rows = []
    for (first, second), layer, other in product(pairs, LAYERS, LAYERS):
        cell = {"first": first, "second": second, "first_layer": layer, "second_layer": other}
        rows.append(
            cell | {"source": "fitted", "draw": 0, "cosine": fitted(first, second, layer, other)}
        )
        rows += [
            cell | {"source": "shuffled", "draw": draw, "cosine": 0.1 * (-1) ** draw}
            for draw in range(8)
        ]
        rows += [
            cell | {"source": "same_shuffle", "draw": draw, "cosine": 0.6} for draw in range(8)
        ]
    return pd.DataFrame(rows).assign(isotropic=0.14)


def values(axis) -> list[float]:
    return [float(text.get_text()) for text in axis.texts]


def test_maps_show_every_pair_of_layers_and_dots_what_shuffled_labels_reach(cosines, tmp_path):
    figure = cosine_maps({"c": cosines}, reading="c")
    titles = [axis.get_title(loc="left") for axis in figure.axes[:6]]
    assert titles == ["french", "french and own", "french and harm", "own", "own and harm", "harm"]
    own, both, within = figure.axes[0], figure.axes[1], figure.axes[4]
    # The first row is the last layer.
    expected = [fitted("french", "french", a, b) for a, b in product([4, 2, 1], LAYERS)]
    assert values(own) == pytest.approx(expected, abs=0.005)
    assert (len(own.lines), len(both.lines), len(within.lines)) == (0, 0, 9)
    assert "Dots, 18 of 54 cells" in caption(figure)
    assert "below 0.14 between random directions, below 0.10 between vectors" in caption(figure)
    assert "same shuffled labels at two layers: 0.60 in the median" in caption(figure)
    save(figure, tmp_path / "maps.png", {})


def test_matrices_are_symmetric_and_of_chosen_layers(cosines, tmp_path):
    figure = cosine_matrices({"c": cosines}, reading="c", directions=["french", "own"])
    assert [axis.get_title(loc="left") for axis in figure.axes[:3]] == [
        "layer 1",
        "layer 2",
        "layer 4",
    ]
    assert values(figure.axes[0]) == [1, -0.3, -0.3, 1]
    figure = cosine_matrices({"c": cosines}, reading="c", layers=[4])
    assert len(figure.axes) == 2  # with its colour bar
    assert len(figure.axes[0].lines) == 4  # two pairs within chance, on both sides
    save(figure, tmp_path / "matrices.png", {})
    with pytest.raises(ValueError, match="no rows with first_layer = 3; present: 1, 2, 4"):
        cosine_matrices({"c": cosines}, reading="c", layers=[3])
    with pytest.raises(ValueError, match="directions: no fit 'own '; valid: french, own, harm"):
        cosine_matrices({"c": cosines}, reading="c", directions=["own "])


def test_curves_are_of_equal_layers_with_what_chance_gives(cosines, tmp_path):
    figure = cosines_by_layer({"c": cosines}, reading="c")
    assert len(figure.axes) == 3
    (curve,) = [line for line in figure.axes[0].lines if line.get_label() == "fitted"]
    assert curve.get_xdata().tolist() == LAYERS and curve.get_ydata().tolist() == [-0.3] * 3
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((-0.1, 0.1))
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert dotted[0].get_ydata().tolist() == pytest.approx([0.6] * 3)
    assert "95 % of 8 pairs of vectors of unrelated shuffled labels" in caption(figure)
    save(figure, tmp_path / "curves.png", {})
    with pytest.raises(ValueError, match="cosines within one fit only; valid: two or more"):
        cosines_by_layer({"c": cosines}, reading="c", directions=["own"])


def test_stability_is_the_median_over_draws(tmp_path):
    rows = [
        {
            "contrast": contrast,
            "layer": layer,
            "labels": labels,
            "draw": draw,
            "bootstrap": level + draw / 100,
            "halves": level - draw / 100,
            "prompts": 40,
            "clusters": 10,
        }
        for contrast, labels, level in (
            ("own", "fitted", 0.9),
            ("harm", "fitted", 0.8),
            ("own", "shuffled", 0.2),
            ("harm", "shuffled", 0.3),
        )
        for layer in LAYERS
        for draw in range(5)
    ]
    figure = stability_by_layer({"s": pd.DataFrame(rows)}, reading="s")
    for axis, sign in zip(figure.axes, (1, -1), strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        assert drawn["own"] == pytest.approx([0.9 + sign * 0.02] * 3)
        assert drawn["harm"] == pytest.approx([0.8 + sign * 0.02] * 3)
    assert "own 40 in 10, harm 40 in 10" in caption(figure)
    save(figure, tmp_path / "stability.png", {})


def sums() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    common = {"arm": "sum", "intervention": "add", "label": "harmless"}
    tables = [condition(rng, **common, role=BASELINE, source=None, draw=None, layer=pd.NA,
                        strength=None, positions=None, vectors=None)]  # fmt: skip
    for layer, (vectors, source) in product(
        (1, 2),
        [("a", "alone"), ("b", "alone"), ("a + b", "sum"), ("a + shuffled b", "shuffled"),
         ("shuffled a + b", "shuffled")],
    ):  # fmt: skip
        role = CONTROL if source == "shuffled" else CANDIDATE
        table = condition(rng, **common, role=role, source=source, draw=0, layer=layer,
                          strength=1.0, positions="last", vectors=vectors)  # fmt: skip
        tables.append(table.assign(condition=f"{vectors} {layer}"))
    scores = pd.concat(tables, ignore_index=True)
    by = [c for c in scores if c not in ("sample", "repeat", "score", "topic")]
    summary = summarise(scores, by, shares=["refusal", "compliance"], **CLUSTER)
    marks = {"percent": summary["metric"] != "n_items", "share": summary["metric"] != "n_items"}
    return summary.assign(metric_label=summary["metric"], **marks), scores


def test_sums_are_drawn_beside_each_vector_and_its_control(tmp_path):
    summary, scores = sums()
    figure = vector_sums(summary, scores, "sample", 0, arm="sum", metrics=["refusal", "n_items"])
    for axis, metric in zip(figure.axes, ("refusal", "n_items"), strict=True):
        drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
        means = summary[summary["metric"] == metric].set_index(["vectors", "layer"])["mean"]
        for name in ("a", "b", "a + b"):
            assert drawn[name] == pytest.approx([means[(name, layer)] for layer in (1, 2)])
        dashed = [list(line.get_ydata()) for line in axis.lines if line.get_lw() == 1.5]
        expected = [means[("a + shuffled b", layer)] for layer in (1, 2)]
        assert any(np.allclose(each, expected) for each in dashed if len(each) == 2)
    assert "n = 12 per mean" in caption(figure) and "mean of 1 draws" in caption(figure)
    save(figure, tmp_path / "sums.png", {})
