"""A study's main numbers against ones computed by hand, and the lines that say them."""

import math
from typing import Any

import pandas as pd
import pytest

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.measures.headline import curves_by_layer, headline
from pipeline.measures.scale import TEXT_METRIC, Scale
from pipeline.measures.settings import Setting
from pipeline.measures.statistics import wilson
from pipeline.views.numbers import main_numbers, setting_in_words

NAN = math.nan
SCALES = {"refusal": Scale("refuses", share=True), "odds": Scale("log-odds", "nats")}
AXES = {"arm": "add", "intervention": "add", "source": "fitted", "draw": 0}
SETTING = Setting({**AXES, "layer": 2, "strength": 0.5, "positions": "last"}, "s2", "validation")


def rows(
    condition: str, role: str, scores: list[float], *, metric: str = "refusal", **columns: Any
) -> pd.DataFrame:
    """Scores of samples 0, 1, ... of a test split, or of texts."""
    table = pd.DataFrame({"sample": range(len(scores)), "score": scores})
    columns = {"arm": "add", "at_setting": True, "split": "test", "repeat": 0} | columns
    return table.assign(condition=condition, role=role, metric=metric, **columns)


def control(
    source: str, draw: int, layer: int, scores: list[float], **columns: Any
) -> pd.DataFrame:
    name = f"{source}{draw}{layer}"
    return rows(name, CONTROL, scores, source=source, draw=draw, layer=layer, **columns)


TABLE = pd.concat(
    [
        rows("base", BASELINE, [0, 0, 0, 1]),
        rows("s1", CANDIDATE, [1, 1, 1, 1], source="fitted", layer=1),
        rows("s2", CANDIDATE, [1, 1, NAN, 0], source="fitted", layer=2),
        control("shuffled", 0, 2, [0, 0, 0, 0]),
        control("shuffled", 1, 2, [1, 1, 0, 0]),
        control("isotropic", 0, 2, [0, 0, 0, 1]),
        # Another layer, and a control of another strength.
        control("shuffled", 0, 1, [1, 1, 1, 1]),
        control("isotropic", 1, 2, [1, 1, 1, 1], at_setting=False),
        rows("base", BASELINE, [1.0, 2.0], metric=TEXT_METRIC, split="text"),
        rows("s2", CANDIDATE, [1.5, 2.5], metric=TEXT_METRIC, split="text", layer=2),
        rows("other", BASELINE, [0.25, 0.5, 0.75], metric="odds", arm="odds"),
    ],
    ignore_index=True,
)


def numbers(table: pd.DataFrame = TABLE, setting: Setting = SETTING) -> dict[str, Any]:
    arms = {"add": ("refusal", "raise"), "odds": ("odds", None)}
    return headline(table, arms, {"add": setting}, SCALES, cluster="sample", seed=0)


def test_shares_before_and_after_have_wilsons_intervals():
    add = numbers()["add"]
    assert (add["metric"], add["unit"], add["goal"]) == ("refusal", "%", "raise")
    for key, mean, n in (("baseline", 0.25, 4), ("steered", 2 / 3, 3)):
        low, high = wilson(mean, n)
        assert (add[key]["mean"], add[key]["n"]) == (pytest.approx(mean), n)
        assert (add[key]["low"], add[key]["high"]) == pytest.approx((float(low), float(high)))
        assert add[key]["interval"] == "wilson"
    assert add["steered"]["n_unscored"] == 1


def test_the_setting_says_what_its_arm_does_not():
    add = numbers()["add"]
    assert add["setting"] == {"layer": 2, "strength": 0.5, "positions": "last"}
    assert add["chosen_by"] == "validation"
    assert add["conditions"] == {"baseline_id": "base", "steered_id": "s2"}


def test_the_difference_is_paired_by_sample():
    difference = numbers()["add"]["difference"]
    # 1 - 0, 1 - 0, unscored, 0 - 1.
    assert difference["mean"] == pytest.approx(1 / 3)
    assert (difference["n"], difference["n_unscored"]) == (3, 1)
    assert difference["stderr"] == pytest.approx(math.sqrt(4 / 3) / math.sqrt(3))
    assert difference["low"] < 1 / 3 < difference["high"]
    assert difference["interval"] == "newcombe_paired"


def test_controls_are_averaged_over_draws_at_the_chosen_layer():
    # Each draw is shown; an interval over prompts alone would hide how much draws differ.
    assert numbers()["add"]["controls"] == {
        "shuffled": {"mean": 0.25, "draws": [0.0, 0.5]},
        "isotropic": {"mean": 0.25, "draws": [0.25]},
    }


def test_perplexity_is_that_of_the_texts_mean_losses():
    text = numbers()["add"]["perplexity"]
    for key, loss in (("baseline", 1.5), ("steered", 2.0)):
        assert text[key]["mean"] == pytest.approx(math.exp(loss))
        assert text[key]["low"] < text[key]["mean"] < text[key]["high"]
    assert set(text["steered"]) == {"mean", "low", "high"}
    silent = TABLE[(TABLE["metric"] != TEXT_METRIC) | (TABLE["condition"] != "s2")]
    assert "perplexity" not in numbers(silent)["add"]


def test_an_arm_without_a_setting_has_its_baseline_alone():
    odds = numbers()["odds"]
    assert set(odds) == {"metric", "unit", "goal", "baseline"}
    assert (odds["unit"], odds["goal"], odds["baseline"]["mean"]) == ("nats", None, 0.5)
    assert odds["baseline"]["interval"] == "bootstrap"


def test_axes_other_than_layers_are_reported_too():
    table = TABLE.assign(rank=3)
    setting = Setting({"arm": "add", "rank": 3}, "s1", "selection")
    add = numbers(table, setting)["add"]
    assert (add["setting"], add["chosen_by"]) == ({"rank": 3}, "selection")
    assert add["steered"]["mean"] == 1
    # Without a layer among the axes, controls of all are in the comparison.
    assert add["controls"]["shuffled"]["mean"] == pytest.approx(6 / 12)


def test_json_has_no_nan():
    table = TABLE.assign(score=TABLE["score"].mask(TABLE["condition"] == "s2"))
    steered = numbers(table[table["metric"] != TEXT_METRIC])["add"]["steered"]
    assert (steered["mean"], steered["low"], steered["n"]) == (None, None, 0)
    assert steered["interval"] == "none"


def test_clusters_are_those_of_the_study():
    table = TABLE.assign(topic="one")
    arms = {"add": ("refusal", "raise")}
    add = headline(table, arms, {"add": SETTING}, SCALES, cluster="topic", seed=0)["add"]
    # One topic is one independent unit.
    assert add["baseline"]["interval"] == "wilson_clustered"
    low, high = wilson(0.25, 1)
    assert (add["baseline"]["low"], add["baseline"]["high"]) == pytest.approx(
        (float(low), float(high))
    )
    assert add["difference"]["interval"] == "newcombe_paired"


def test_main_numbers_as_lines():
    lines = main_numbers(numbers()).splitlines()
    assert lines[0].startswith(
        "add (layer 2, strength 0.5, at the last position): refusal 25.0 % [4.6 %, 69.9 %] -> "
        "66.7 % [20.8 %, 93.9 %], n = 3"
    )
    assert lines[1] == "    controls, each draw: isotropic 25.0 %; shuffled 0.0 %, 50.0 %"
    assert lines[2].startswith("    perplexity of unrelated text 4.48 [")
    assert "-> 7.39 [" in lines[2]
    assert lines[3].startswith("odds (no setting chosen): odds 0.50 [")
    assert lines[3].endswith("] without intervention, n = 3")
    assert len(lines) == 4
    *same, last = main_numbers(numbers(), ["add", "odds", "swept", "other"]).splitlines()
    assert same == lines and last == "swept, other: no metric of the arm; see the figures"


def test_settings_that_validation_cannot_separate_are_told():
    tied = Setting(SETTING.axes, "s2", "validation", tied=7, candidates=9)
    lines = main_numbers(numbers(setting=tied)).splitlines()
    assert lines[1] == "    validation cannot separate 7 of 9 settings"


def test_many_draws_are_told_by_their_range():
    many = numbers() | {}
    many["add"]["controls"] = {"isotropic": {"mean": 0.4, "draws": [0.5, None, *[0.4] * 7, 0.25]}}
    line = main_numbers(many).splitlines()[1]
    assert line == "    controls, each draw: isotropic 25.0 % to 50.0 % (10 draws)"


def test_a_setting_of_any_axes_in_words():
    setting = {"source_layer": 5, "rank": 2, "unit": "z[3]", "positions": "[-2, -1]"}
    assert setting_in_words({"setting": setting}) == (
        "source layer 5, rank 2, unit z[3], at [-2, -1]"
    )


def test_what_is_unscored_is_said():
    table = TABLE.assign(score=TABLE["score"].mask(TABLE["condition"] == "s2"))
    line = main_numbers(numbers(table[table["metric"] != TEXT_METRIC])).splitlines()[0]
    assert line.endswith("-> unscored, n = 0")


def test_curves_of_arms_with_several_labels_or_splits_are_told_apart():
    rows = [
        ("add", label, split, layer, 10 * layer + mean)
        for label, split, mean in [("warm", "val", 1), ("warm", "test", 2), ("cool", "test", 3)]
        for layer in (0, 1)
    ]
    rows += [("cut", "cool", "test", layer, layer) for layer in (0, 1)]
    summary = pd.DataFrame(rows, columns=["arm", "label", "split", "layer", "mean"])
    summary = summary.assign(role="candidate", at_setting=True, metric="m")
    curves = curves_by_layer(summary).set_index("layer")
    assert curves.to_dict("list") == {
        "add/cool/test/m": [3, 13],
        "add/warm/test/m": [2, 12],
        "add/warm/val/m": [1, 11],
        "cut/m": [0, 1],
    }
