"""The prompts that an arm or a fit names."""

import pandas as pd
import pytest

from pipeline.data.prompts import doubts, select_prompts

PROMPTS = pd.DataFrame(
    {
        "sample": range(8),
        "label": ["harmful", "harmless"] * 4,
        "split": ["train", "train", "val", "val", "test", "test", "test", "train"],
        "year": [1900, 1900, 1900, 1901, 1901, 1902, 1902, 1902],
    }
)


@pytest.mark.parametrize(
    ("wanted", "splits", "expected"),
    [
        (None, None, range(8)),
        ({}, None, range(8)),
        ("harmful", None, [0, 2, 4, 6]),
        ("harmful", ["test"], [4, 6]),
        ({"label": "harmless"}, ["train", "val"], [1, 3, 7]),
        ({"label": ["harmful", "harmless"], "year": 1902}, None, [5, 6, 7]),
        ({"year": [1900, 1901], "label": "harmful"}, None, [0, 2, 4]),
        (None, ["val"], [2, 3]),
    ],
)
def test_rows_are_taken_in_their_order(wanted, splits, expected):
    rows = select_prompts(PROMPTS, wanted, splits)
    assert rows["sample"].tolist() == list(expected)
    assert list(rows) == list(PROMPTS)


@pytest.mark.parametrize(
    ("wanted", "splits", "message"),
    [
        ("neutral", None, "no prompt has label 'neutral'; valid: harmful, harmless"),
        (False, None, "no prompt has label False .no text: quote it in the YAML"),
        (0, None, "no prompt has label 0 .no text: quote it in the YAML"),
        ("", None, "no prompt has label ''; valid: harmful, harmless"),
        ({"labl": "harmful"}, None, "no column 'labl'; valid: sample, label, split, year"),
        ({"year": 2000}, None, "no prompt has year 2000; valid: 1900, 1901, 1902"),
        ({"label": ["harmful", "mixed"]}, None, "no prompt has label 'mixed'; valid: harmful"),
        # Narrowed column by column: the years are those of the label.
        (
            {"label": "harmful", "split": "val", "year": 1902},
            None,
            "no prompt has year 1902; valid: 1900",
        ),
        (
            {"year": 1900},
            ["test"],
            r"no prompt of \{'year': 1900\} is in test; they are in: train, val",
        ),
        (None, ["dev"], "no prompt of the dataset is in dev; they are in: test, train, val"),
    ],
)
def test_what_no_prompt_has_is_named(wanted, splits, message):
    with pytest.raises(ValueError, match=message):
        select_prompts(PROMPTS, wanted, splits)


def test_prompts_in_several_splits_and_tiny_classes_are_told():
    frame = pd.DataFrame(
        {"instruction": [f"q{n}" for n in range(40)], "label": "a", "split": ["train", "test"] * 20}
    ).assign(answer="", raw=False)
    assert doubts(frame) == []
    leaked = frame.assign(instruction=[f"q{n % 38}" for n in range(39)] + ["q37"])
    (warning,) = doubts(leaked)  # q0 and q1 come twice, in one split
    assert "2 prompts stand in their split before, such as" in warning
    # A column `source` of one's own makes no target prompts of them.
    assert doubts(leaked.assign(source="a page")) == [warning]
    leaked.loc[39, "split"] = "train"
    warning, _ = doubts(leaked)
    assert warning == "dataset: 1 instructions are in several splits, such as 'q37'"
    # Nor do capitals and blanks tell prompts apart.
    leaked.loc[39, "instruction"] = " Q37 "
    assert doubts(leaked)[0].startswith("dataset: 1 instructions are in several splits, such as")
    twice = pd.concat([frame, frame.head(20).assign(label="b")])
    assert doubts(twice) == ["dataset: 20 instructions have several labels, such as 'q0'"]
    assert doubts(pd.concat([frame, frame.head(20).assign(label="b", raw=True)])) == []
    (warning,) = doubts(frame.assign(**{" Topic": "x"}))
    assert warning == "dataset: the column ' Topic' is not taken as 'topic'; rename it"
    assert doubts(frame.assign(**{"x": 1}).rename(columns={"x": 0})) == []
    few = pd.concat([frame, frame.head(6).assign(label="b", instruction="z")])
    few["instruction"] = [f"q{n}" for n in range(len(few))]
    assert doubts(few) == ["dataset: fewer than 10 prompts: 3 of b in test, 3 of b in train"]


def test_answers_that_go_on_with_a_word_of_the_prompt_are_told():
    prompts, answers = ["The capital is"] * 3 + ["首都是"], ["Rome", " Rome", "", "罗马"]
    frame = pd.DataFrame({"instruction": prompts, "answer": answers, "raw": True})
    frame = pd.concat([frame.assign(label="a", split="test", draw=draw) for draw in range(3)])
    told = [text for text in doubts(frame) if "go on with" in text]
    assert told == [
        "dataset: 3 answers go on with the last word of their prompt, such as 'Rome' after 'The "
        "capital is'; an answer that is a word begins with a blank"
    ]
    assert not [text for text in doubts(frame.assign(raw=False)) if "go on with" in text]


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        ([1, None, 3], 77, r"no prompt has g 77; valid: 1, 3"),
        ([True, None, False], "x", r"no prompt has g 'x'; valid: False, True"),
        ([True, False, True], 1, r"no prompt has g 1; valid: False, True"),
        ([0, 1, 2], True, r"no prompt has g True; valid: 0, 1, 2"),
        ([[1], [2], [3]], 1, "column 'g' has lists or objects; valid: text or numbers"),
        ([{"a": 1}, None, None], 1, "column 'g' has lists or objects"),
    ],
)
def test_values_of_every_type_are_compared_or_refused(values, wanted, message):
    column = pd.Series(values, dtype="Int64" if values == [1, None, 3] else object)
    frame = pd.DataFrame({"label": "a", "split": "test", "g": column})
    with pytest.raises(ValueError, match=message):
        select_prompts(frame, {"g": wanted})


def test_rows_with_missing_values_are_selected_by_the_others():
    frame = pd.DataFrame({"split": "test", "g": pd.Series([1, None, 3], dtype="Int64")})
    assert select_prompts(frame, {"g": [1, 3]}).index.tolist() == [0, 2]
