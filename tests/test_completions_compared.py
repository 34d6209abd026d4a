"""Completions with and without an intervention, side by side."""

import numpy as np
import pandas as pd
import pytest

from pipeline.views.completions import completion_table, completions_of_arms, side_by_side


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
        "[1] List one.",
        "baseline             | steered",
        "-------------------- | --------------------",
        "plum                 | I cannot help you",
        "                     | with that request",
        "                     | now…",
        "",
        "[2] List two.",
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


def test_an_arm_without_a_chosen_setting_shows_its_first_condition(sweep: pd.DataFrame) -> None:
    """A control that comes first is not taken for it, and an arm with a baseline alone says so."""
    conditions = pd.DataFrame(
        {
            "condition": ["base", "random", "add", "only"],
            "role": ["baseline", "control", "candidate", "baseline"],
            "arm": ["free", "free", "free", "alone"],
            "strength": [np.nan, 2.0, 1.5, np.nan],
            "positions": [None, "all", "last", None],
            "at_setting": [True, False, False, True],
        }
    )
    numbers = {"metric": "refusal", "baseline": {}}
    chosen = numbers | {
        "setting": {"strength": 1.5},
        "conditions": {"baseline_id": "base", "steered_id": "add"},
    }
    pair = side_by_side(sweep, "base", "add", n=1, width=50)
    for arm, metrics in (("free", {}), ("free", {"free": numbers})):
        (shown,) = completions_of_arms(sweep, conditions, [arm], metrics, n=1, width=50)
        assert shown == (
            "free, no setting chosen; the first of 2 conditions, strength 1.5, at the last "
            f"position:\n{pair}"
        )
    told = completions_of_arms(
        sweep, conditions, ["free", "alone"], {"free": chosen}, n=1, width=50
    )
    assert list(told) == [
        f"free, strength 1.5:\n{pair}",
        "alone: no condition but the baseline; completions.parquet has its completions",
    ]
