"""Maps of two axes draw the means of their table, and count what was fixed and broken."""

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.statistics import summarise
from pipeline.views.maps import axes_map, fixed_and_broken
from pipeline.views.panels import save

PAIRS = [(1, 0), (2, 0), (2, 1)]
BASELINE = [0, 0, 0, 0, 1, 1, np.nan]
SCORES = {
    (1, 0): [1, 0, 0, 0, 1, 1, 1],
    (2, 0): [0, 1, 0, 0, 0, 1, 0],
    (2, 1): [1, 0, 0, 0, 0, 0, 1],
}
AXES = {"x": "source_layer", "y": "target_layer"}
CALL = {"arm": "back_patch", "metric": "exact", **AXES}


def arm(name: str, scores) -> pd.DataFrame:
    conditions = [(None, None, "baseline", BASELINE)]
    conditions += [(*pair, "candidate", values) for pair, values in scores.items()]
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "condition": f"{name}-{source}-{target}",
                    "arm": name,
                    "role": role,
                    "source_layer": source,
                    "target_layer": target,
                    "sample": range(7),
                    "repeat": 0,
                    "split": "test",
                    "label": "not told",
                    "metric": "exact",
                    "score": values,
                }
            )
            for source, target, role, values in conditions
        ],
        ignore_index=True,
    ).astype({"source_layer": "Int64", "target_layer": "Int64"})


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    never = dict.fromkeys(PAIRS, [0] * 7)
    return pd.concat([arm("back_patch", SCORES), arm("other_states", never)], ignore_index=True)


@pytest.fixture(scope="module")
def summary(scores) -> pd.DataFrame:
    by = ["condition", "arm", "role", "source_layer", "target_layer", "label", "split", "metric"]
    means = summarise(scores, by, shares=["exact"], cluster="sample", seed=0)
    return means.assign(percent=True, metric_label="exact match")


def cells(axes) -> list[list[float]]:
    (mesh,) = axes.collections
    return np.ma.filled(mesh.get_array().astype(float), np.nan).reshape(2, 2).tolist()


def words(figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_the_map_is_the_mean_over_both_axes(summary):
    figure = axes_map(summary, **CALL)
    axes, bar = figure.axes
    # Target 1 is above target 0; the pair (1, 1) was not run.
    expected = [[np.nan, 100 * 2 / 7], [100 * 4 / 7, 100 * 2 / 7]]
    np.testing.assert_allclose(cells(axes), expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source layer", "target layer")
    assert bar.get_ylabel() == "exact match (%)"
    text = words(figure)
    assert "Test split, prompts labelled not told, n = 7 per mean, none unscored." in text
    assert "No controls in this arm." in text
    assert "Without intervention: 33.3, 95 % interval 9.68 to 70." in text


def test_a_number_that_is_no_share_keeps_its_unit(summary):
    counts = summary.assign(percent=False, metric_label="items")
    controls = counts[counts["source_layer"] == 1].assign(role="control", mean=[4.0, 2.0])
    figure = axes_map(pd.concat([counts, controls]), **CALL)
    np.testing.assert_allclose(cells(figure.axes[0])[1][0], np.mean(SCORES[1, 0]))
    assert figure.axes[1].get_ylabel() == "items" and "Controls: 4 to 4." in words(figure)


def test_controls_are_shown_in_the_unit_of_the_cells(summary):
    controls = summary[summary["source_layer"] == 1].assign(role="control", mean=[0.25, 0.5])
    figure = axes_map(pd.concat([summary, controls.iloc[:1]]), **CALL)
    assert "Controls: 25 to 25." in words(figure)


def test_prompts_of_several_labels_are_told_apart(summary):
    told = summary.assign(label="told", mean=1.0)
    both = pd.concat([summary, told])
    with pytest.raises(ValueError, match="arm back_patch has prompts of several labels; give one:"):
        axes_map(both, **CALL)
    figure = axes_map(both, **CALL, label="told")
    np.testing.assert_allclose(cells(figure.axes[0]), [[np.nan, 100], [100, 100]])
    assert "prompts labelled told," in words(figure)
    with pytest.raises(ValueError, match="no rows with label = heard; present: not told, told"):
        axes_map(both, **CALL, label="heard")


def test_fixed_and_broken_are_counted_over_the_same_samples(scores):
    figure = fixed_and_broken(scores, control="other_states", **CALL)
    fixed, broken = figure.axes[:2]
    assert fixed.get_title(loc="left") == "Fixed: n = 4 wrong answers"
    assert broken.get_title(loc="left") == "Broken: n = 2 right answers"
    np.testing.assert_allclose(cells(fixed), [[np.nan, 25], [25, 25]])
    np.testing.assert_allclose(cells(broken), [[np.nan, 100], [0, 50]])
    text = words(figure)
    assert "at most 1 of 4 by one condition" in text and "2 by any of 3 (50 %" in text
    assert "Control, other states: none of 4 by any of 3 conditions." in text
    # Sample 6 has no baseline under three conditions.
    assert "3 unscored pairs left out" in text


def test_an_arm_without_a_wrong_answer_is_drawn(scores):
    right = scores[scores["sample"].isin([4, 5])]
    figure = fixed_and_broken(right, **CALL)
    assert figure.axes[0].get_title(loc="left") == "Fixed: n = 0 wrong answers"
    assert "no answer is wrong. No control." in words(figure)


def test_maps_are_written_alike_twice(summary, scores, tmp_path):
    for name in "ab":
        save(axes_map(summary, **CALL), tmp_path / f"map-{name}", {})
        save(fixed_and_broken(scores, **CALL), tmp_path / f"both-{name}", {})
    for name in ("map", "both"):
        first, second = (tmp_path / f"{name}-{which}" for which in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_drawn_is_named(summary, scores):
    with pytest.raises(ValueError, match="no rows with arm = swap; present: back_patch"):
        axes_map(summary, **{**CALL, "arm": "swap"})
    with pytest.raises(ValueError, match="no axis 'layer'; valid: condition, arm"):
        fixed_and_broken(scores, **{**CALL, "x": "layer"})
    with pytest.raises(ValueError, match="agree in source_layer, target_layer"):
        axes_map(pd.concat([summary, summary[summary["role"] == "candidate"]]), **CALL)
    with pytest.raises(ValueError, match=r"metric exact has the score 0\.5; valid: 0 and 1"):
        fixed_and_broken(scores.assign(score=scores["score"].replace(1, 0.5)), **CALL)
    with pytest.raises(ValueError, match="several scores of one source_layer, target_layer"):
        fixed_and_broken(pd.concat([scores, scores[scores["role"] == "candidate"]]), **CALL)
