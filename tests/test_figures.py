"""Figures draw the numbers of the tables, say what they show, and are written alike twice."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from PIL import Image

from pipeline.measures.statistics import simultaneous_band, summarise
from pipeline.views.completions import completion_table, side_by_side
from pipeline.views.figures import counts_by_condition, effect_by_layer, strength_by_layer
from pipeline.views.panels import save

BY = ["condition", "arm", "intervention", "source", "draw", "layer", "strength", "positions"]
BY += ["chosen", "split", "metric"]
LAYERS, STRENGTHS = [0, 1, 2, 5], [0.5, 1.0]


def condition(rng: np.random.Generator, **columns: Any) -> pd.DataFrame:
    """Scores of one condition: shares of refusals that depend on the layer, or item counts."""
    layer = columns["layer"]
    samples = np.arange(12)
    first = {"harmless": 0, "harmful": 100}[columns["label"]]
    level = 0.05 if layer is pd.NA else 0.2 + 0.1 * layer * columns["strength"]
    scores = {
        "refusal": (rng.random(12) < level).astype(float),
        "compliance": (rng.random(12) < 1 - level).astype(float),
        "n_items": 5 + np.round(4 * level + rng.normal(size=12)),
    }
    rows = pd.DataFrame(
        {"sample": samples + first, "repeat": 0, "split": "test", "topic": samples % 4}
    )
    identity = "-".join(str(columns[key]) for key in ("arm", "source", "draw", "layer", "strength"))
    kept = rows.assign(**columns, condition=identity).astype({"layer": "Int64"})
    return pd.concat([kept.assign(metric=name, score=score) for name, score in scores.items()])


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    conditions = []
    for arm, intervention, label in (
        ("add", "add", "harmless"),
        ("ablate", "project_out", "harmful"),
    ):
        none = {"source": "none", "draw": 0, "layer": pd.NA, "strength": 0.0, "positions": "none"}
        conditions.append(condition(rng, arm=arm, label=label, intervention="none", **none))
        for source, draw in (("fitted", 0), ("shuffled", 0), ("shuffled", 1), ("isotropic", 0)):
            for layer in LAYERS:
                for strength in STRENGTHS:
                    conditions.append(
                        condition(
                            rng,
                            arm=arm,
                            label=label,
                            intervention=intervention,
                            source=source,
                            draw=draw,
                            layer=layer,
                            strength=strength,
                            positions="all",
                        )
                    )
    table = pd.concat(conditions, ignore_index=True)
    return table.assign(chosen=(table["intervention"] == "none") | (table["strength"] == 1.0))


@pytest.fixture(scope="module")
def summary(scores: pd.DataFrame) -> pd.DataFrame:
    return summarise(scores, BY, cluster="sample", seed=0)


Draw = Callable[..., Figure]
EFFECT: dict[str, Any] = {
    "arms": ["add", "ablate"],
    "metrics": ["refusal", "compliance"],
    "split": "test",
}
HEAT: dict[str, Any] = {"arm": "add", "metric": "refusal", "split": "test"}
COUNTS: dict[str, Any] = {
    "metric": "n_items",
    "split": "test",
    "arms": ["add", "ablate"],
    "layers": [1, 5],
}
FIGURES = [(effect_by_layer, EFFECT), (strength_by_layer, HEAT), (counts_by_condition, COUNTS)]


def mean_of(summary: pd.DataFrame, **wanted: object) -> float:
    for column, value in wanted.items():
        summary = summary[(summary[column] == value).fillna(False)]
    return summary["mean"].item()


def line(figure: Figure, panel: int, label: str) -> np.ndarray:
    (found,) = (line for line in figure.axes[panel].lines if line.get_label() == label)
    return np.asarray(found.get_ydata(), dtype=float)


def band_of(drawn: FillBetweenPolyCollection) -> list[tuple[float, float]]:
    corners = drawn.get_paths()[0].vertices
    heights = [corners[corners[:, 0] == layer, 1] for layer in LAYERS]
    return [(pytest.approx(y.min()), pytest.approx(y.max())) for y in heights]


def expected_band(scores: pd.DataFrame, arm: str, metric: str) -> list[tuple[float, float]]:
    rows = scores[(scores["arm"] == arm) & (scores["metric"] == metric)]
    rows = rows[(rows["source"] == "fitted") & (rows["strength"] == 1.0)]
    # Twelve samples for each layer, in order.
    band = simultaneous_band(rows["score"].to_numpy().reshape(len(LAYERS), 12).T, seed=0)
    return list(zip(band.low, band.high, strict=True))


def caption_of(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_effect_draws_the_means_the_baseline_and_the_band(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    figure = effect_by_layer(summary, scores, **EFFECT)
    for panel, arm in enumerate(["add", "ablate"]):
        axes = figure.axes[panel]
        for number, metric in enumerate(["refusal", "compliance"]):
            expected = [
                mean_of(summary, arm=arm, metric=metric, source="fitted", strength=1.0, layer=layer)
                for layer in LAYERS
            ]
            assert line(figure, panel, metric).tolist() == expected
            dashed = [drawn for drawn in axes.lines if drawn.get_linestyle() == "--"]
            baseline = mean_of(summary, arm=arm, metric=metric, intervention="none")
            assert set(dashed[number].get_ydata()) == {baseline}
            bands = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
            assert band_of(bands[number]) == expected_band(scores, arm, metric)
        assert axes.get_ylim() == (-0.03, 1.03)
    titles = [axes.get_title(loc="left").splitlines() for axes in figure.axes[:2]]
    where = "at all positions, strength 1"
    assert titles == [
        ["Added to harmless requests", where],
        ["Projected out of harmful requests", where],
    ]


def test_effect_draws_controls_as_the_mean_over_draws(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    figure = effect_by_layer(summary, scores, **EFFECT | {"metrics": ["refusal"]})
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "^"]
    wanted = {"arm": "add", "metric": "refusal", "source": "shuffled", "strength": 1.0}
    expected = [
        np.mean([mean_of(summary, **wanted, layer=layer, draw=draw) for draw in (0, 1)])
        for layer in LAYERS
    ]
    assert drawn == [pytest.approx(expected)]


def test_captions_say_what_is_shown(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    text = caption_of(effect_by_layer(summary, scores, **EFFECT))
    for part in (
        "Test split, n = 12 per mean, none unscored.",
        "simultaneous over layers",
        "(shuffled labels 2, isotropic 1)",
    ):
        assert part in text
    baseline = 100 * mean_of(summary, arm="add", metric="refusal", intervention="none")
    text = caption_of(strength_by_layer(summary, scores, **HEAT))
    assert f"Without intervention: {baseline:.3g}, 95 % interval" in text
    alone = scores[scores["source"].isin(["none", "fitted"])]
    figure = effect_by_layer(summarise(alone, BY, cluster="sample", seed=0), alone, **EFFECT)
    assert "No controls." in caption_of(figure)


def test_a_metric_without_scores_is_named(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    lost = (scores["arm"] == "ablate") & (scores["metric"] == "compliance")
    partial = scores.assign(score=scores["score"].mask(lost))
    figure = effect_by_layer(summarise(partial, BY, cluster="sample", seed=0), partial, **EFFECT)
    assert "complies is not scored in ablate" in caption_of(figure)
    assert [drawn.get_label() for drawn in figure.axes[1].lines].count("compliance") == 0


def test_heat_map_holds_the_grid(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    gone = (summary["layer"] == 2) & (summary["strength"] == 0.5)
    holed = summary.assign(mean=summary["mean"].mask(gone.fillna(False)))
    figure = strength_by_layer(holed, scores, **HEAT)
    (mesh,) = figure.axes[0].collections
    expected = [
        [
            100 * mean_of(holed, **HEAT, source="fitted", layer=layer, strength=strength)
            for layer in LAYERS
        ]
        for strength in (1.0, 0.5)
    ]
    np.testing.assert_allclose(np.ma.filled(mesh.get_array(), np.nan), expected)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == [f"{value:.0f}" for row in expected for value in row if not np.isnan(value)]
    assert mesh.get_clim() == (0, 100)


def test_counts_start_at_the_baseline(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    figure = counts_by_condition(summary, scores, **COUNTS)
    wanted = {"arm": "ablate", "metric": "n_items"}
    expected = [
        mean_of(summary, **wanted, intervention="none"),
        *(
            mean_of(summary, **wanted, source="fitted", layer=5, strength=strength)
            for strength in STRENGTHS
        ),
    ]
    assert line(figure, 1, "layer 5").tolist() == expected
    # One dashed line and one text for the baseline of every label.
    dashed = [drawn for drawn in figure.axes[0].lines if drawn.get_linestyle() == "--"]
    assert len(dashed) == 2
    harmless = mean_of(summary, arm="add", metric="n_items", intervention="none")
    assert f"harmless  {harmless:.1f}" in [text.get_text() for text in figure.axes[1].texts]


def test_labels_at_the_right_keep_their_distance(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    alike = scores.assign(score=scores["score"].where(scores["intervention"] != "none", 6.0))
    figure = counts_by_condition(summary, alike, **COUNTS)
    heights = sorted(text.xy[1] for text in figure.axes[1].texts)  # type: ignore[attr-defined]
    assert np.diff(heights).min() == pytest.approx(0.055)


@pytest.mark.parametrize(("draw", "parameters"), FIGURES)
def test_saved_alike_twice(
    draw: Draw,
    parameters: dict[str, Any],
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    tmp_path: Path,
) -> None:
    digests = []
    for name in ("first.png", "second.png"):
        save(draw(summary, scores, **parameters), tmp_path / name, {"commit": "abc123"})
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    with Image.open(tmp_path / "first.png") as image:
        assert image.info["commit"] == "abc123"
        assert "Software" not in image.info


@pytest.mark.parametrize(
    ("draw", "parameters", "message"),
    [
        (effect_by_layer, EFFECT | {"arms": ["add", "swap"]}, "arm = swap; present: ablate, add"),
        (effect_by_layer, EFFECT | {"metrics": ["nothing"]}, "metric = nothing; present:"),
        (strength_by_layer, HEAT | {"split": "val"}, "split = val; present: test"),
        (counts_by_condition, COUNTS | {"layers": [1, 4]}, "layer = 4; present: 0, 1, 2, 5"),
    ],
)
def test_what_is_not_there_is_named(
    draw: Draw,
    parameters: dict[str, Any],
    message: str,
    summary: pd.DataFrame,
    scores: pd.DataFrame,
) -> None:
    with pytest.raises(ValueError, match=f"no rows with {message}"):
        draw(summary, scores, **parameters)


def test_an_arm_without_one_chosen_rule_is_refused(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="chosen position rules: none; valid: one an arm"):
        strength_by_layer(summary.assign(chosen=False), scores, **HEAT)
    last = summary[summary["source"] == "fitted"].assign(positions="last")
    with pytest.raises(ValueError, match="chosen position rules: all, last; valid"):
        strength_by_layer(pd.concat([summary, last]), scores, **HEAT)


def test_two_conditions_in_one_place_are_refused(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    fitted = summary[summary["source"] == "fitted"].assign(condition="twin")
    doubled = pd.concat([summary, fitted])
    with pytest.raises(ValueError, match=r"add-fitted-0-0-1\.0 and twin agree in layer"):
        effect_by_layer(doubled, scores, **EFFECT)
    with pytest.raises(ValueError, match="2 baselines in arm add; valid: 1"):
        strength_by_layer(
            pd.concat([summary, summary[summary["intervention"] == "none"]]), scores, **HEAT
        )


@pytest.fixture
def sweep() -> pd.DataFrame:
    rows = {
        "condition": ["base", "base", "base", "add", "add"],
        "sample": [2, 1, 3, 1, 2],
        "repeat": 0,
        "label": "short",
        "topic": "fruit",
        "instruction": ["List two.", "List one.", "List three.", "List one.", "List two."],
        "completion": ["pear\nfig \n", "plum", "?", "I cannot help you with that request now", "a"],
        "stopped": ["end", "end", "end", "length", "end"],
    }
    return pd.DataFrame(rows)


def test_completions_are_paired(sweep: pd.DataFrame) -> None:
    table = completion_table(sweep, "base", "add", n=5)
    assert table["sample"].tolist() == [1, 2]
    assert table["baseline"].tolist() == ["plum", "pear\nfig \n"]
    assert table["steered"].tolist() == ["I cannot help you with that request now", "a"]
    assert table["steered_stopped"].tolist() == ["length", "end"]
    assert len(completion_table(sweep, "base", "add", n=1)) == 1


def test_completions_side_by_side(sweep: pd.DataFrame) -> None:
    assert side_by_side(sweep, "base", "add", n=2, width=43).splitlines() == [
        "base | add",
        "",
        "[1.0] List one.",
        "baseline             | steered",
        "-------------------- | --------------------",
        "plum                 | I cannot help you",
        "                     | with that request",
        "                     | now…",
        "",
        "[2.0] List two.",
        "baseline             | steered",
        "-------------------- | --------------------",
        "pear⏎                | a",
        "fig␣⏎                |",
        "                     |",
    ]


@pytest.mark.parametrize(
    ("steered", "n", "width", "message"),
    [
        ("adds", 1, 80, "condition = adds; present: add, base"),
        ("add", 0, 80, "n = 0; valid: 1 or more"),
        ("add", 1, 10, "width = 10; valid: 40 or more"),
    ],
)
def test_completions_refuse(
    sweep: pd.DataFrame, steered: str, n: int, width: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side(sweep, "base", steered, n=n, width=width)


def test_conditions_without_a_common_sample_are_refused(sweep: pd.DataFrame) -> None:
    apart = sweep[(sweep["condition"] == "add") | (sweep["sample"] == 3)]
    with pytest.raises(ValueError, match="base and add share no sample"):
        completion_table(apart, "base", "add", n=1)
