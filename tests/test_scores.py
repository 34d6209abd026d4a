"""Tables of scores: long, by ids, and joined with what the ids stand for."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.config.contracts import call
from pipeline.data.roles import BASELINE
from pipeline.engine.conditions import Condition
from pipeline.engine.sweeps import Part, arm_conditions, conditions_table
from pipeline.measures.scores import (
    SCORE_COLUMNS,
    doubts,
    long_table,
    score_completions,
    with_conditions,
    with_prompts,
)

PROMPTS = pd.DataFrame(
    {
        "sample": [0, 1, 2],
        "label": ["short", "long", "long"],
        "topic": ["fruit", "fruit", "trees"],
        "split": ["val", "test", "test"],
        "year": [1900, 1901, 1902],
        "prompt": ["p0", "p1", "p2"],
        "tokens": [[1], [2], [3]],
    }
)
COMPLETIONS = pd.DataFrame(
    [("b", 2, 0, "xx"), ("b", 1, 0, "x"), ("a", 0, 0, ""), ("a", 1, 0, "xxx"), ("a", 0, 1, "xxxx")],
    columns=["condition", "sample", "repeat", "completion"],
)


def test_completions_get_the_columns_of_their_prompts():
    joined = with_prompts(COMPLETIONS, PROMPTS)
    assert list(joined) == [*COMPLETIONS, "label", "topic", "split", "year"]
    assert joined[list(COMPLETIONS)].equals(COMPLETIONS)
    assert joined["year"].tolist() == [1902, 1901, 1900, 1901, 1900]


def test_a_score_for_every_row_and_metric():
    def length(samples: pd.DataFrame) -> pd.Series:
        return samples["completion"].str.len().astype(float).where(samples["completion"] != "")

    def of_set(samples: pd.DataFrame) -> pd.Series:
        return pd.Series(float(len(samples)), index=samples.index)

    joined = with_prompts(COMPLETIONS, PROMPTS)
    table = score_completions(joined, {"length": length, "set": of_set})
    assert list(table) == SCORE_COLUMNS and len(table) == 2 * 5
    scores = table.set_index(["metric", "condition", "sample", "repeat"])["score"]
    lengths = {("b", 2, 0): 2, ("b", 1, 0): 1, ("a", 0, 0): np.nan, ("a", 1, 0): 3, ("a", 0, 1): 4}
    pd.testing.assert_series_equal(
        scores["length"].sort_index(), pd.Series(lengths).sort_index(), check_names=False
    )
    # A metric is given the completions of one condition and split at a time.
    assert scores["set"].to_dict() == {
        ("b", 2, 0): 2,
        ("b", 1, 0): 2,
        ("a", 0, 0): 2,
        ("a", 0, 1): 2,
        ("a", 1, 0): 1,
    }


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            lambda samples: pd.Series([1.0] * len(samples)),
            "gives scores with another index than that of `samples`",
        ),
        (lambda samples: samples["completion"].str.len()[::-1], "gives scores with another index"),
        (lambda samples: np.full(len(samples), 1 + 2j), r"gives .*\(1\+2j\); valid: a number"),
        (lambda samples: samples["completion"], "gives 'xx'; valid: a number, or NaN"),
        (lambda samples: np.full(len(samples), np.inf), "gives inf; valid: a finite number"),
        (lambda samples: [1.0], "gives 1 scores of 2 completions; valid: one each"),
        (lambda samples: 1.0, "gives 1.0 scores of 2 completions"),
    ],
)
def test_scores_that_cannot_be_matched_or_averaged_are_refused(metric, message):
    joined = with_prompts(COMPLETIONS.iloc[:2].set_axis([4, 5]), PROMPTS).set_axis([4, 5])
    with pytest.raises(ValueError, match=f"^metric mine: {message}"):
        score_completions(joined, {"mine": metric})


def refuses_everything(samples: pd.DataFrame) -> list[float]:
    samples["completion"] = "no"
    return [0.0] * len(samples)


def lengths(samples: pd.DataFrame) -> pd.Series:
    return samples["completion"].str.len()


def test_a_metric_that_changes_its_table_does_not_change_the_next_ones():
    joined = with_prompts(COMPLETIONS, PROMPTS)
    before = joined.copy()
    alone = score_completions(joined, {"lengths": lengths})["score"].tolist()
    both = score_completions(joined, {"spoils": refuses_everything, "lengths": lengths})
    assert both.loc[both["metric"] == "lengths", "score"].tolist() == alone
    pd.testing.assert_frame_equal(joined, before)


def test_a_node_that_changes_its_table_does_not_change_the_inputs():
    inputs = SimpleNamespace(samples=with_prompts(COMPLETIONS, PROMPTS))
    before = inputs.samples.copy()
    assert call({"_target_": f"{__name__}.refuses_everything"}, inputs) == [0.0] * len(before)
    pd.testing.assert_frame_equal(inputs.samples, before)


def test_arrays_and_booleans_are_scores_by_position():
    joined = with_prompts(COMPLETIONS, PROMPTS)
    for metric in (
        lambda samples: samples["completion"].str.len().to_numpy() > 1,
        lambda samples: [len(text) > 1 for text in samples["completion"]],
        lambda samples: samples["completion"].str.len() > 1,
    ):
        scores = score_completions(joined, {"long": metric})["score"].tolist()
        assert scores == [1.0, 0.0, 0.0, 1.0, 1.0]


def test_texts_are_samples_of_their_own():
    """A text's number is no prompt's: it must not take that prompt's label and topic."""
    rows = pd.DataFrame({"condition": "a", "sample": [1, 1, 5], "split": ["test", "text", "text"]})
    joined = with_prompts(rows, PROMPTS)
    assert joined["label"].tolist() == ["long", "text", "text"]
    assert joined["topic"].tolist() == ["fruit", "1", "5"]
    assert joined["split"].tolist() == ["test", "text", "text"]


def test_rows_get_the_role_and_axes_of_their_conditions_in_their_order():
    named = arm_conditions("add", [Condition({"layer": n, "strength": 0.5}) for n in (1, 2)])
    conditions = conditions_table([Part("a", named, PROMPTS)])
    ids = [condition.id for condition in named]
    rows = pd.DataFrame({"condition": [ids[2], ids[0], ids[2]], "score": [1.0, 2.0, 3.0]})
    joined = with_conditions(rows, conditions)
    assert joined["score"].tolist() == [1.0, 2.0, 3.0]
    assert joined["role"].tolist() == ["candidate", BASELINE, "candidate"]
    assert joined["layer"].tolist() == [2, pd.NA, 2] and str(joined["layer"].dtype) == "Int64"
    twice = pd.concat([conditions, conditions])
    with pytest.raises(pd.errors.MergeError):
        with_conditions(rows, twice)


def test_no_scores_are_a_table_with_its_columns():
    assert list(long_table([])) == SCORE_COLUMNS
    empty = pd.DataFrame(columns=SCORE_COLUMNS)
    one = pd.DataFrame([("c", "test", 0, 0, "m", 1.0)], columns=SCORE_COLUMNS)
    table = long_table([empty, one.assign(more=1), one])
    assert list(table) == SCORE_COLUMNS and table.index.tolist() == [0, 1]
    assert table["score"].dtype == float


def test_metrics_that_cannot_show_an_effect_are_told():
    names = [
        "never",
        "never",
        "never",
        "once",
        "varies",
        "varies",
        "none",
        "none",
        "other",
        "other",
    ]
    values = [0.0, 0.0, np.nan, 1.0, 0.0, 1.0, np.nan, np.nan, 1.0, 1.0]
    scores = pd.DataFrame({"metric": names, "score": values})
    assert doubts(scores, {"never", "once", "varies", None}) == [
        "metric never gives every completion and prompt the same score",
        "metric none scores none of its 2 rows: all are NaN",
    ]
    assert doubts(scores[:0], {"never"}) == []
