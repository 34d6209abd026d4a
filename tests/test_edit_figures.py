"""Shares of edited outputs against an axis, from scores whose shares are known."""

import numpy as np
import pandas as pd
import pytest

from pipeline.views.edits import shares_by_axis


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ten samples, eight right; strength 2 changes four of these and both others."""
    rows = []
    for arm, role in (("chosen", "candidate"), ("random", "control")):
        for strength in (None, 1.0, 2.0):
            for sample in range(10):
                changed = strength == 2 and arm == "chosen" and (sample < 4 or sample > 7)
                common = {
                    "arm": arm,
                    "condition": f"{arm} {strength}",
                    "role": role if strength else "baseline",
                    "strength": strength,
                    "split": "test",
                    "sample": sample,
                    "topic": sample,
                }
                rows.append({**common, "metric": "changed", "score": float(changed)})
                rows.append({**common, "metric": "correct", "score": float(sample < 8)})
    names = pd.DataFrame({"metric": ["changed", "correct"], "metric_label": ["Changed", "Right"]})
    return pd.DataFrame(rows), names


def test_shares_are_of_those_that_were_right():
    scores, summary = tables()
    options = {"arms": ["chosen", "random"], "metrics": ["changed"], "x": "strength"}
    for right, share, n in (("correct", 0.5, 8), (None, 0.6, 10)):
        figure = shares_by_axis(scores, summary, "topic", 0, right=right, **options)
        (axis,) = figure.axes
        chosen, random = (line for line in axis.lines if line.get_label() in ("chosen", "random"))
        assert chosen.get_ydata().tolist() == [0, share]
        assert random.get_ydata().tolist() == [0, 0]
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2"]
        assert axis.get_title(loc="left") == "Changed"
        said = " ".join(figure.get_supxlabel().split())
        assert f"n = {n} samples" in said and "Controls: the lines random." in said


def test_lines_are_of_fitted_conditions_and_controls_beside_them():
    scores, summary = tables()
    chosen = scores[scores["arm"] == "chosen"].assign(source="fitted", draw=0)
    steered = chosen[chosen["strength"].notna()]
    draws = [
        steered.assign(
            role="control",
            source="isotropic",
            draw=draw,
            condition=steered["condition"] + f" {draw}",
            score=float(draw),
        )
        for draw in (0, 1)
    ]
    options = {"arms": ["chosen"], "metrics": ["changed"], "x": "strength"}
    figure = shares_by_axis(pd.concat([chosen, *draws]), summary, "topic", 0, **options)
    grey, fitted = figure.axes[0].lines
    assert fitted.get_ydata().tolist() == [0, 0.6] and grey.get_ydata().tolist() == [0.5, 0.5]
    said = " ".join(figure.get_supxlabel().split())
    assert "Controls: mean and range over draws (isotropic 2)." in said
    layers = [chosen.assign(layer=n, condition=chosen["condition"] + f" {n}") for n in (1, 2)]
    with pytest.raises(ValueError, match="agree in strength; valid: one each"):
        shares_by_axis(pd.concat(layers), summary, "topic", 0, **options)


def test_more_arms_than_colours_differ_in_their_lines():
    scores, summary = tables()
    chosen = scores[scores["arm"] == "chosen"]
    arms = [f"arm {number}" for number in range(19)]
    scores = pd.concat(
        [chosen.assign(arm=arm, condition=arm + chosen["condition"]) for arm in arms]
    )
    options = {"metrics": ["changed"], "x": "strength"}
    figure = shares_by_axis(scores, summary, "topic", 0, arms=arms[:8], **options)
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 8
    most = shares_by_axis(scores, summary, "topic", 0, arms=arms[:18], **options)
    at = [line.get_xdata() for line in most.axes[0].lines if line.get_marker() == "o"]
    assert np.abs(np.array(at) - np.round(at)).max() < 0.35
    with pytest.raises(ValueError, match=r"19 names in a legend .* valid: up to 18"):
        shares_by_axis(scores, summary, "topic", 0, arms=arms, **options)


def test_shares_that_cannot_be_drawn_are_named():
    scores, summary = tables()
    options = {"arms": ["chosen"], "metrics": ["changed"], "x": "strength"}
    with pytest.raises(ValueError, match="no axis 'layer'; valid:"):
        shares_by_axis(scores, summary, "topic", 0, **{**options, "x": "layer"})
    wrong = scores.assign(score=scores["score"].where(scores["metric"] != "changed", 0.3))
    with pytest.raises(ValueError, match="metric changed is no share; valid: scores of 0 and 1"):
        shares_by_axis(wrong, summary, "topic", 0, **options)
    none = scores.assign(score=0.0)
    with pytest.raises(ValueError, match="no sample of 10 scores 1 in correct without"):
        shares_by_axis(none, summary, "topic", 0, right="correct", **options)
