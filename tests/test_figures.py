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
from matplotlib.patches import Rectangle
from PIL import Image
from study_tables import CLUSTER, LAYERS, SHARES, STRENGTHS, summary_of, swept_scores

from pipeline.data.roles import BASELINE, CONTROL
from pipeline.measures.bands import band_over
from pipeline.views.figures import counts_by_condition, effect_by_layer, strength_by_layer
from pipeline.views.marks import GREY
from pipeline.views.panels import caption, save


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return swept_scores()


@pytest.fixture(scope="module")
def summary(scores: pd.DataFrame) -> pd.DataFrame:
    return summary_of(scores)


Draw = Callable[..., Figure]
EFFECT: dict[str, Any] = {
    "arms": ["add", "ablate"],
    "metrics": ["refusal", "compliance"],
    "split": "test",
    **CLUSTER,
}
HEAT: dict[str, Any] = {"arm": "add", "metric": "refusal", "split": "test"}
COUNTS: dict[str, Any] = {
    "metric": "n_items",
    "split": "test",
    "arms": ["add", "ablate"],
    "layers": [1, 5],
    **CLUSTER,
}
FIGURES = [(effect_by_layer, EFFECT), (strength_by_layer, HEAT), (counts_by_condition, COUNTS)]


def mean_of(summary: pd.DataFrame, **wanted: object) -> float:
    for column, value in wanted.items():
        summary = summary[(summary[column] == value).fillna(False)]
    return summary["mean"].item()


def line(figure: Figure, panel: int, label: str) -> np.ndarray:
    (drawn,) = (line for line in figure.axes[panel].lines if line.get_label() == label)
    return np.asarray(drawn.get_ydata(), dtype=float)


def band_of(drawn: FillBetweenPolyCollection) -> list[tuple[float, float]]:
    corners = drawn.get_paths()[0].vertices
    heights = [corners[corners[:, 0] == layer, 1] for layer in LAYERS]
    return [(pytest.approx(y.min()), pytest.approx(y.max())) for y in heights]


def expected_band(scores: pd.DataFrame, arm: str, metric: str) -> list[tuple[float, float]]:
    rows = scores[(scores["arm"] == arm) & (scores["metric"] == metric)]
    rows = rows[(rows["source"] == "fitted") & (rows["strength"] == 1.0)]
    band = band_over(rows, "layer", LAYERS, share=True, **CLUSTER)
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
            baseline = mean_of(summary, arm=arm, metric=metric, role=BASELINE)
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


def test_effect_of_a_metric_that_is_no_share_has_its_own_axis(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    figure = effect_by_layer(summary, scores, **EFFECT | {"metrics": ["n_items"]})
    drawn = line(figure, 0, "n_items")
    low, high = figure.axes[0].get_ylim()
    assert low < drawn.min() and drawn.max() < high and drawn.max() > 1.03
    assert figure.axes[0].get_ylabel() == "items per list"
    (band,) = (c for c in figure.axes[0].collections if isinstance(c, FillBetweenPolyCollection))
    assert band.get_paths()[0].vertices[:, 1].max() > 1.03
    with pytest.raises(ValueError, match="refusal, n_items have no common scale"):
        effect_by_layer(summary, scores, **EFFECT | {"metrics": ["refusal", "n_items"]})


def test_the_baseline_is_drawn_in_the_colour_of_its_key(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    figure = effect_by_layer(summary, scores, **{**EFFECT, "metrics": ["refusal"]})
    (key,) = [line for line in figure.legends[0].get_lines() if line.get_linestyle() == "--"]
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [line.get_color() for line in drawn] == [key.get_color()]


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
    markers = [line for line in figure.axes[0].lines if line.get_marker() in ("^", "s", "o")]
    (ring,) = (line for line in markers if line.get_color() == "black")
    markers.remove(ring)
    assert {(line.get_color(), line.get_markerfacecolor()) for line in markers} == {(GREY, "white")}


def test_controls_of_several_metrics_are_filled_in_their_colours(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    figure = effect_by_layer(summary, scores, **EFFECT)
    controls = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    curves = [line for line in figure.axes[0].lines if line.get_label() in SHARES]
    assert {line.get_color() for line in controls} == {GREY}
    fills = [line.get_markerfacecolor() for line in controls]
    assert fills == [line.get_color() for line in curves]
    assert "filled in their metric's colour" in caption_of(figure)


def test_a_band_of_shares_stays_between_none_and_all(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    """Topics' shares are not 0 or 1, so that mean -+ c stderr would pass 1 here."""
    shares = scores.assign(score=np.where(scores["sample"] % 4 == 0, scores["repeat"] > 0, 1.0))
    twice = pd.concat([shares, shares.assign(repeat=1, score=1.0)])
    figure = effect_by_layer(summary_of(twice), twice, **EFFECT | {"cluster": "topic"})
    for axes in figure.axes[:2]:
        bands = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
        heights = np.concatenate([band.get_paths()[0].vertices[:, 1] for band in bands])
        assert heights.max() <= 1 and heights.min() > 0
    # Four topics are too few for a band over all layers.
    few = "bands: 95 % at each layer by itself, as fewer than 10 topics are scored,"
    assert few in caption_of(figure)


@pytest.mark.parametrize(
    ("sentence", "pieces"),
    [
        ("n = 100 to 120, 95 % interval, a = b", ["n_=_100_to_120,", "95_%", "interval,", "a_=_b"]),
        ("2 of 5 (-1 to +21) [65, 78]", ["2", "of_5", "(-1_to_+21)", "[65,_78]"]),
        ("isotropic 1, covariance-drawn 2", ["isotropic_1,", "covariance-drawn_2"]),
        (
            "\N{MINUS SIGN}3 to 5 % of logit(a b) - logit(c)",
            ["\N{MINUS SIGN}3_to_5_%", "of", "logit(a_b)_-_logit(c)"],
        ),
        ("layers 0, 5 and 10", ["layers_0,", "5", "and_10"]),
    ],
)
def test_captions_keep_numbers_with_what_they_count(sentence: str, pieces: list) -> None:
    figure = Figure(figsize=(2, 2))
    caption(figure, [sentence] * 6)
    lines = figure.get_supxlabel().split("\n")
    assert len(lines) > 3
    words = [word.replace("\N{NO-BREAK SPACE}", "_") for line in lines for word in line.split(" ")]
    assert words == pieces * 6


@pytest.mark.parametrize("text", ["x" * 150, f"Prompt: {'猫' * 150}. n = 3.", "", "a " * 300])
def test_captions_hold_any_text(text: str) -> None:
    figure = Figure(figsize=(7.5, 2))
    caption(figure, [text])
    assert max(map(len, figure.get_supxlabel().split("\n"))) <= 91


def test_captions_say_what_is_shown(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    text = caption_of(effect_by_layer(summary, scores, **EFFECT))
    for part in (
        "Test split, n = 12 per mean, none unscored.",
        "simultaneous over layers",
        "(shuffled labels 2, isotropic 1)",
    ):
        assert part in text
    baseline = 100 * mean_of(summary, arm="add", metric="refusal", role=BASELINE)
    text = caption_of(strength_by_layer(summary, scores, **HEAT))
    assert f"Without intervention: {baseline:.3g}, 95 % interval" in text
    alone = scores[scores["role"] != CONTROL]
    figure = effect_by_layer(summary_of(alone), alone, **EFFECT)
    assert "No controls." in caption_of(figure)


def test_a_metric_without_scores_is_named(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    lost = (scores["arm"] == "ablate") & (scores["metric"] == "compliance")
    partial = scores.assign(score=scores["score"].mask(lost))
    figure = effect_by_layer(summary_of(partial), partial, **EFFECT)
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


def frame(figure: Figure) -> tuple[float, float, float, float]:
    """Left and upper edge of the one frame in cells, its width and height."""
    (drawn,) = (patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    return (*drawn.get_xy(), drawn.get_width(), drawn.get_height())


def test_what_was_chosen_is_framed(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    figure = strength_by_layer(summary, scores, **HEAT)
    assert frame(figure) == (2, 0, 1, 1)
    assert "Framed: the setting chosen." in caption_of(figure)


def test_counts_start_at_the_baseline(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    figure = counts_by_condition(summary, scores, **COUNTS)
    wanted = {"arm": "ablate", "metric": "n_items"}
    expected = [
        mean_of(summary, **wanted, role=BASELINE),
        *(
            mean_of(summary, **wanted, source="fitted", layer=5, strength=strength)
            for strength in STRENGTHS
        ),
    ]
    assert line(figure, 1, "layer 5").tolist() == expected
    # One dashed line and one text for the baseline of every label.
    dashed = [drawn for drawn in figure.axes[0].lines if drawn.get_linestyle() == "--"]
    assert len(dashed) == 2
    harmless = mean_of(summary, arm="add", metric="n_items", role=BASELINE)
    assert f"harmless  {harmless:.1f}" in [text.get_text() for text in figure.axes[1].texts]


def test_what_stands_in_a_column_has_its_strength(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    """Layers and controls are shifted sideways, by less than half the way to another strength."""
    half = scores[(scores["arm"] == "ablate") | (scores["strength"] != 0.5)]
    figure = counts_by_condition(summary_of(half), half, **COUNTS)
    for axes, strengths in zip(figure.axes[:2], ([0, 2], [0, 1, 2]), strict=True):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.5", "1"]
        assert axes.get_xticks().tolist() == [0, 1, 2]
        curves = {line.get_label(): line for line in axes.lines}
        for label in ("layer 1", "layer 5"):
            assert np.round(curves[label].get_xdata()).tolist() == strengths
        for line in axes.lines:
            if line.get_marker() in ("^", "o"):
                places = np.asarray(line.get_xdata(), dtype=float)
                assert np.abs(places - np.round(places)).max() < 0.4
    controls = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert {line.get_color() for line in controls} == {GREY}
    assert "All that stands in a column has its strength." in caption_of(figure)


def rings(figure: Figure) -> list[list[tuple[float, float]]]:
    of_axes = ([line for line in axes.lines if line.get_color() == "black"] for axes in figure.axes)
    return [
        [*map(tuple, np.concatenate([line.get_xydata() for line in lines]))] for lines in of_axes
    ]


def test_the_setting_chosen_is_ringed(summary: pd.DataFrame, scores: pd.DataFrame) -> None:
    chosen = {"source": "fitted", "layer": 2, "strength": 1.0}
    arms = ("add", "ablate")
    shares = [mean_of(summary, arm=arm, metric="refusal", **chosen) for arm in arms]
    drawn = rings(effect_by_layer(summary, scores, **EFFECT | {"metrics": ["refusal"]}))
    assert drawn == [[(2.0, share)] for share in shares]
    # Strengths are columns: 1 is the third; of two layers the first stands left of its middle.
    items = [mean_of(summary, arm=arm, metric="n_items", **chosen) for arm in arms]
    figure = counts_by_condition(summary, scores, **COUNTS | {"layers": [2, 5]})
    assert rings(figure) == [[(pytest.approx(2 - 0.175), mean)] for mean in items]
    assert "the setting chosen" in [text.get_text() for text in figure.legends[0].get_texts()]
    without = counts_by_condition(summary, scores, **COUNTS)
    assert "the setting chosen" not in [text.get_text() for text in without.legends[0].get_texts()]


def test_labels_at_the_right_keep_their_distance(
    summary: pd.DataFrame, scores: pd.DataFrame
) -> None:
    alike = scores.assign(score=scores["score"].where(scores["role"] != BASELINE, 6.0))
    figure = counts_by_condition(summary, alike, **COUNTS)
    heights = sorted(text.xy[1] for text in figure.axes[1].texts)  # type: ignore[attr-defined]
    assert np.diff(heights).min() == pytest.approx(0.055)


def test_means_below_0_are_in_the_picture(scores: pd.DataFrame) -> None:
    low = scores[scores["metric"] == "n_items"]
    low = low.assign(score=low["score"] - 20)
    figure = counts_by_condition(summary_of(low), low, **COUNTS)
    assert figure.axes[0].get_ylim()[0] < -15
    assert counts_by_condition(summary_of(scores), scores, **COUNTS).axes[0].get_ylim()[0] == 0


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
        save(draw(summary, scores, **parameters), tmp_path / name, {"config": "abc123"})
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    with Image.open(tmp_path / "first.png") as image:
        assert image.info["made_from"] == '{"config": "abc123"}'
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
        strength_by_layer(summary.assign(at_setting=False), scores, **HEAT)
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
            pd.concat([summary, summary[summary["role"] == BASELINE]]), scores, **HEAT
        )


def test_arms_that_words_do_not_tell_apart_are_named(scores, summary) -> None:
    """Two arms that add something to the same prompts, as two fits of a vector do."""
    renamed = {"add": "means", "ablate": "logistic_fit"}
    alike = [
        table.assign(
            arm=table["arm"].map(renamed),
            intervention=table["intervention"].where(table["intervention"].isna(), "add"),
            label="harmless",
        )
        for table in (summary, scores)
    ]
    figure = effect_by_layer(*alike, **EFFECT | {"arms": list(renamed.values())})
    titles = [axis.get_title(loc="left").split("\n")[0] for axis in figure.axes]
    assert titles == [
        "Means, added to harmless requests",
        "Logistic fit, added to harmless requests",
    ]
