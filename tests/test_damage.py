"""Benefit beside damage: which conditions are measured on texts, the front, and the figure."""

import numpy as np
import pandas as pd
import pytest

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition
from pipeline.engine.phases import compared, on_texts
from pipeline.measures.pareto import pareto_front
from pipeline.measures.settings import Setting
from pipeline.views.damage import benefit_and_damage


def grid() -> list[Condition]:
    conditions = [Condition({"arm": "a"}, role=BASELINE)]
    for source, role in (("fitted", CANDIDATE), ("isotropic", CONTROL)):
        for layer in (1, 2):
            for strength in (0.5, 1.0, 2.0):
                for rule in ("all", "after_first"):
                    axes = {"arm": "a", "source": source, "draw": 0, "layer": layer}
                    axes |= {"strength": strength, "positions": rule}
                    conditions.append(Condition(axes, role=role))
    return conditions


def test_strengths_at_the_layer_of_the_setting_are_measured_on_texts():
    conditions = grid()
    axes = {"arm": "a", "source": "fitted", "draw": 0, "layer": 2, "strength": 1.0}
    setting = Setting({**axes, "positions": "all"}, "id", "validation")
    measured = [each.axes for each in on_texts(conditions, setting)]
    assert {"arm": "a"} in measured
    at_setting = [each.axes for each in compared(conditions, setting)]
    assert len(at_setting) == 5 and all(each in measured for each in at_setting)
    further = [each for each in measured if each not in at_setting]
    kept = [
        (each["layer"], each["strength"], each["positions"], each["source"]) for each in further
    ]
    assert sorted(kept) == [
        (2, 0.5, "all", "fitted"),
        (2, 1.0, "after_first", "fitted"),
        (2, 2.0, "all", "fitted"),
    ]
    assert list(on_texts(conditions, None)) == conditions


def test_the_front_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        benefit, damage = rng.integers(0, 6, size=(2, 12)).astype(float)
        benefit[0] = np.nan
        expected = [
            np.isfinite(benefit[i])
            and not any(
                benefit[j] >= benefit[i]
                and damage[j] <= damage[i]
                and (benefit[j] > benefit[i] or damage[j] < damage[i])
                for j in range(12)
            )
            for i in range(12)
        ]
        assert pareto_front(benefit, damage).tolist() == expected


def tables(damages: dict[float, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """An arm at two layers, layer 1 chosen; each strength has a benefit of its own and a damage."""
    common = {"arm": "push", "label": "calm", "split": "test", "metric": "loud", "n": 4}
    common |= {"n_unscored": 0, "metric_label": "is loud", "percent": True, "at_setting": True}
    base = {"condition": "b", "role": BASELINE, "is_setting": False, "mean": 0.1}
    rows, losses = [base], [("b", BASELINE, 1.0)]
    for layer in (1, 2):
        for strength, damage in damages.items():
            name = f"{layer}-{strength}"
            rows.append(
                {
                    "condition": name,
                    "role": CANDIDATE,
                    "layer": layer,
                    "strength": strength,
                    "source": "fitted",
                    "draw": 0,
                    "intervention": "add",
                    "positions": "all",
                    "is_setting": layer == 1 and strength == 1.0,
                    "mean": 0.2 * strength,
                }
            )
            losses.append((name, CANDIDATE, 1.0 + damage))
    summary = pd.DataFrame([{**common, **row} for row in rows])
    summary = summary.assign(low=summary["mean"] - 0.05, high=summary["mean"] + 0.05)
    scores = pd.DataFrame(
        {
            "condition": condition,
            "role": role,
            "arm": "push",
            "metric": "cross_entropy",
            "split": "text",
            "sample": sample,
            "repeat": 0,
            "score": loss + sample,
        }
        for condition, role, loss in losses
        for sample in range(5)
    )
    return summary, scores


def test_a_point_for_each_strength_at_the_chosen_layer():
    summary, scores = tables({0.5: 0.02, 1.0: 0.3, 2.0: 0.1})
    figure = benefit_and_damage(summary, scores, 0, metric="loud", goals={"push": "raise"})
    (axis,) = figure.axes
    curve, front = [
        line for line in axis.lines if len(line.get_xdata()) > 1 and line.get_marker() == "o"
    ]
    assert np.allclose(curve.get_xydata(), [[0.02, 0.1], [0.3, 0.2], [0.1, 0.4]])
    assert np.allclose(front.get_xydata(), [[0.02, 0.1], [0.1, 0.4]])
    assert [text.get_text() for text in axis.texts] == ["0.5", "1", "2"]


def test_the_figure_names_its_positions_and_the_controls_of_each_arm():
    summary, scores = tables({0.5: 0.02, 1.0: 0.3})
    control = summary[summary["condition"] == "1-0.5"]
    drawn = {"role": CONTROL, "source": "isotropic", "is_setting": False}
    for draw in (0, 1):
        name = f"c{draw}"
        summary = pd.concat([summary, control.assign(**drawn, condition=name, draw=draw)])
        losses = scores[scores["condition"] == "1-0.5"].assign(role=CONTROL, condition=name)
        scores = pd.concat([scores, losses])
    bare = summary[summary["role"] != CONTROL].assign(arm="pull")
    bare["condition"] += " pull"
    other = scores[scores["role"] != CONTROL].assign(arm="pull")
    other["condition"] += " pull"
    elsewhere = bare[bare["is_setting"]].assign(condition="last", positions="last")
    bare = bare.assign(is_setting=False)
    figure = benefit_and_damage(
        pd.concat([summary, bare, elsewhere]),
        pd.concat([scores, other]),
        0,
        metric="loud",
        goals={"push": "raise", "pull": "raise"},
    )
    assert figure.axes[0].get_title(loc="left") == "calm prompts: to raise\nat all positions"
    said = " ".join(figure.get_supxlabel().split())
    assert "Controls, a marker for each draw: push (isotropic 2); none of pull." in said
    assert "Of pull, edits at all positions are drawn; validation chose at the last" in said
    grey = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(grey) == 2


def test_arms_without_losses_and_unknown_goals_are_one_line():
    summary, scores = tables({1.0: 0.3})
    with pytest.raises(ValueError, match=r"goals\.push: 'up' is unknown; valid: raise, lower"):
        benefit_and_damage(summary, scores, 0, metric="loud", goals={"push": "up"})
    with pytest.raises(ValueError, match="no condition of push has its loss on unrelated text"):
        benefit_and_damage(
            summary, scores[scores["role"] == BASELINE], 0, metric="loud", goals={"push": "raise"}
        )
