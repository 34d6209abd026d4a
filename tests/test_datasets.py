"""Prompt sets from files, and what is wrong with them."""

import json

import pandas as pd
import pytest
from families import tokenizer

from pipeline.data.column_names import NOT_IN_DATASETS
from pipeline.data.datasets import (
    PROMPT_COLUMNS,
    dataset_digest,
    fill_templates,
    load_table,
    load_tables,
    load_texts,
    tokenise,
)
from pipeline.data.facts import load_facts

ROWS = [
    {"instruction": f"w{10 + i} w{i + 6}", "label": "ab"[i % 2], "split": "train"} for i in range(6)
]


def write(folder, name: str, rows) -> str:
    path = folder / name
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=path.suffix == ".jsonl")
    return str(path)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    frame = load_table(path=write(tmp_path, name, ROWS))
    assert list(frame.columns) == list(PROMPT_COLUMNS)
    assert frame["instruction"].tolist() == [row["instruction"] for row in ROWS]
    assert (frame["demand"] == "").all()


def test_further_columns_are_kept_as_they_are(tmp_path):
    rows = [{**row, "year": 1900 + n, "pair": f"p{n}"} for n, row in enumerate(ROWS)]
    frame = load_table(path=write(tmp_path, "d.jsonl", rows))
    assert list(frame.columns) == [*PROMPT_COLUMNS, "year", "pair"]
    assert frame["year"].tolist() == list(range(1900, 1906))
    # A column that one of ours is read from is not kept under its old name too.
    named = load_table(path=str(tmp_path / "d.jsonl"), columns={"answer": "pair"})
    assert list(named.columns) == [*PROMPT_COLUMNS, "year"]
    assert named["answer"].tolist() == [f"p{n}" for n in range(6)]


@pytest.mark.parametrize("column", NOT_IN_DATASETS)
def test_columns_that_later_stages_add_are_refused(tmp_path, column):
    path = write(tmp_path, "d.jsonl", [{**row, column: "x"} for row in ROWS])
    with pytest.raises(ValueError, match=f"a column may not be called '{column}'; ren"):
        load_table(path=path)


def test_columns_may_be_called_otherwise(tmp_path):
    rows = [{"question": "w5", "kind": "x", "split": "val"}]
    path = write(tmp_path, "d.jsonl", rows)
    frame = load_table(path=path, columns={"instruction": "question", "label": "kind"})
    assert frame.loc[0, ["instruction", "label"]].tolist() == ["w5", "x"]
    with pytest.raises(ValueError, match="no column 'instruction' for instruction; it has: quest"):
        load_table(path=path)
    with pytest.raises(ValueError, match="'instrction' is unknown; valid: instruction, label"):
        load_table(path=path, columns={"instrction": "question"})


def test_blank_cells_are_empty_text_or_named(tmp_path):
    rows = [{**ROWS[0], "demand": "x", "topic": 3}, {**ROWS[1], "demand": None, "topic": 4}]
    frame = load_table(path=write(tmp_path, "d.jsonl", rows))
    assert frame["demand"].tolist() == ["x", ""]
    assert frame["topic"].tolist() == ["3", "4"]
    swapped = {"instruction": "label", "label": "instruction"}
    frame = load_table(path=write(tmp_path, "s.jsonl", rows), columns=swapped)
    assert frame.loc[0, ["instruction", "label"]].tolist() == ["a", ROWS[0]["instruction"]]
    rows[1]["instruction"] = None
    with pytest.raises(ValueError, match="row 1 has no instruction"):
        load_table(path=write(tmp_path, "e.jsonl", rows))


def test_splits_are_drawn_within_labels_and_stay(tmp_path):
    rows = [{"instruction": f"w{i % 90 + 4}", "label": "ab"[i % 2]} for i in range(100)]
    path = write(tmp_path, "d.jsonl", rows)
    frame = load_table(path=path, shares=[0.5, 0.2, 0.3], seed=3)
    counts = frame.groupby(["label", "split"]).size()
    assert all(counts[label].to_dict() == {"train": 25, "val": 10, "test": 15} for label in "ab")
    assert load_table(path=path, shares=[0.5, 0.2, 0.3], seed=3).equals(frame)
    assert not load_table(path=path, shares=[0.5, 0.2, 0.3], seed=4).equals(frame)
    with pytest.raises(ValueError, match="not three shares that sum to 1"):
        load_table(path=path, shares=[0.5, 0.2, 0.4])


def test_wrong_files_are_said_in_one_line(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    for path, message in [
        (str(empty), "is empty"),
        (write(tmp_path, "none.csv", pd.DataFrame(columns=["instruction", "label"])), "is empty"),
        (str(tmp_path / "missing.jsonl"), "does not exist"),
        (write(tmp_path, "s.jsonl", [{**ROWS[0], "split": "dev"}]), "'dev' is unknown; valid: tr"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_table(path=path)
    other = tmp_path / "table.txt"
    other.write_text("x")
    with pytest.raises(ValueError, match=r"unknown format; valid: \.jsonl"):
        load_table(path=str(other))


def test_templates_are_filled_with_every_topic(tmp_path):
    path = write(
        tmp_path, "t.jsonl", [{"topic": "w5", "split": "train"}, {"topic": "w6", "split": "test"}]
    )
    frame = fill_templates(path=path, templates={"short": "w7 {topic}", "long": "w8 {topic} w9"})
    assert frame[["label", "instruction", "split"]].to_numpy().tolist() == [
        ["short", "w7 w5", "train"],
        ["long", "w8 w5 w9", "train"],
        ["short", "w7 w6", "test"],
        ["long", "w8 w6 w9", "test"],
    ]
    assert frame["subject"].tolist() == ["w5", "w5", "w6", "w6"]
    assert frame["subject_start"].tolist() == [3, 3, 3, 3]
    twice = fill_templates(path=path, templates={"l": "{topic} and {topic}"})
    assert twice["subject_start"].tolist() == [7, 7]
    templates = {"short": "w7 {topic}", "long": "w8 {topic} w9"}
    named = fill_templates(path=path, templates=templates, subjects={"long": "w8"})
    assert named["subject"].tolist() == ["w5", "w8", "w6", "w8"]
    with pytest.raises(ValueError, match=r"subjects: 'brief' is no template; valid: short, long"):
        fill_templates(path=path, templates=templates, subjects={"brief": "w7"})
    with pytest.raises(ValueError, match=r"template short has no \{topic\}"):
        fill_templates(path=path, templates={"short": "w7"})


def test_a_filled_template_keeps_the_further_columns_of_its_topic(tmp_path):
    rows = [{"topic": f"w{n}", "split": "train", "latitude": n / 2, "new": n > 5} for n in (5, 6)]
    path = write(tmp_path, "t.jsonl", rows)
    frame = fill_templates(path=path, templates={"a": "{topic}", "b": "w7 {topic}"}, raw=True)
    assert list(frame.columns) == [*PROMPT_COLUMNS, "latitude", "new"]
    assert frame["latitude"].tolist() == [2.5, 2.5, 3, 3] and frame["latitude"].dtype == float
    assert frame["new"].tolist() == [False, False, True, True] and frame["raw"].all()


def test_a_prompt_may_be_drawn_several_times(tmp_path):
    """All prompts of a draw, then the next: more draws leave the earlier samples as they are."""
    rows = [{"topic": "w5", "split": "train"}, {"topic": "w6", "split": "test"}]
    options = {
        "path": write(tmp_path, "t.jsonl", rows),
        "templates": {"a": "{topic}", "b": "w7 {topic}"},
    }
    once, thrice = (fill_templates(**options, draws=draws) for draws in (1, 3))
    assert list(once.columns) == list(PROMPT_COLUMNS)
    assert list(thrice.columns) == [*PROMPT_COLUMNS, "draw"]
    assert thrice["draw"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for draw in range(3):
        rows = thrice[thrice["draw"] == draw].drop(columns="draw").reset_index(drop=True)
        assert rows.equals(once)
    numbered = tokenise(thrice, tokenizer())
    assert numbered["sample"].tolist() == list(range(12))
    twice = tokenise(fill_templates(**options, draws=2), tokenizer())
    assert numbered.head(8).equals(twice)
    with pytest.raises(ValueError, match=r"dataset\.draws: 0 is less than 1"):
        fill_templates(**options, draws=0)


def test_texts_need_their_column(tmp_path):
    path = write(tmp_path, "t.jsonl", [{"text": "w5 w6"}])
    assert load_texts(path)["text"].tolist() == ["w5 w6"]
    with pytest.raises(ValueError, match="no column 'text'; it has: other"):
        load_texts(write(tmp_path, "u.jsonl", [{"other": 1}]))


def test_tokens_are_those_of_the_rendered_prompt(tmp_path):
    frame = tokenise(load_table(path=write(tmp_path, "d.jsonl", ROWS)), tokenizer())
    assert frame["sample"].tolist() == list(range(6))
    assert frame.at[2, "tokens"] == [12, 8]
    digest = dataset_digest(frame)
    changed = frame.copy()
    changed.at[2, "tokens"] = [12, 9]
    assert dataset_digest(changed) != digest == dataset_digest(frame.copy())
    assert json.dumps(frame.at[0, "prompt"]) == '"w10 w6\\n"'


def test_files_are_read_one_after_another_and_fill_each_others_columns(tmp_path):
    first = write(
        tmp_path, "a.jsonl", [{"instruction": "a", "label": "x", "split": "train", "pair": "1"}]
    )
    second = write(tmp_path, "b.jsonl", [{"instruction": "b", "label": "y", "split": "test"}])
    frame = load_tables(paths=[second, first])
    assert frame["instruction"].tolist() == ["b", "a"] and frame["pair"].tolist() == ["", "1"]
    assert frame["split"].tolist() == ["test", "train"] and frame.index.tolist() == [0, 1]
    assert not frame["raw"].any() and load_tables(paths=[first], raw=True)["raw"].all()
    with pytest.raises(ValueError, match=r"dataset\.paths: there is none"):
        load_tables(paths=[])


def test_columns_that_are_no_text_are_missing_where_a_file_lacks_them(tmp_path):
    row = {"instruction": "a", "label": "x", "split": "train"}
    first = write(tmp_path, "a.jsonl", [{**row, "rank": 3, "share": 0.5}])
    second = write(tmp_path, "b.jsonl", [{**row, "rank": 4}])
    frame = load_tables(paths=[first, second])
    assert frame["rank"].tolist() == [3, 4] and frame["share"].isna().tolist() == [False, True]
    frame.to_parquet(tmp_path / "t.parquet")
    third = write(tmp_path, "c.jsonl", [{**row, "rank": "third"}])
    with pytest.raises(ValueError, match=r"a\.jsonl.*c\.jsonl.*: column 'rank' mixes types"):
        load_tables(paths=[first, third])


def test_numbers_stay_as_a_json_file_writes_them(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text('{"instruction": -0, "label": Infinity, "split": "train", "topic": NaN}\n')
    frame = load_table(path=str(file))
    assert frame.loc[0, ["instruction", "label", "topic"]].tolist() == ["-0", "Infinity", ""]


def test_a_blank_line_is_the_empty_value_of_a_single_column(tmp_path):
    file = tmp_path / "d.csv"
    file.write_text("text\na\n\nb\n\n\n")
    with pytest.raises(ValueError, match=r"row 1 has no text"):
        load_texts(str(file))
    file.write_text("text,of\na,x\n\nb,y\n\n")
    assert load_texts(str(file))["text"].tolist() == ["a", "b"]


def test_a_templates_own_subject_is_not_looked_for_in_the_topic(tmp_path):
    rows = [{"topic": "long rivers", "split": "test"}]
    path = write(tmp_path, "topics.jsonl", rows)
    text = "{topic}: provide a long list of {topic}, in a realistic form."
    frame = fill_templates(path=path, templates={"x": text}, subjects={"x": "long"})
    start = len("long rivers: provide a ")
    assert frame["subject_start"].tolist() == [start]
    frame = fill_templates(path=path, templates={"x": text}, subjects={"x": "list"})
    assert frame["subject_start"].tolist() == [start + len("long ")]
    frame = fill_templates(path=path, templates={"x": text}, subjects={"x": "rivers"})
    assert frame["subject_start"].tolist() == [-1]


@pytest.mark.parametrize("subject", ["{topic}", "a list of {topic}", "{topic} or {topic}"])
def test_a_subject_that_names_the_topic_is_filled_with_each(tmp_path, subject):
    topics = ["tea", "wooden boats or sails", "a list of lists"]
    path = write(tmp_path, "t.jsonl", [{"topic": topic, "split": "test"} for topic in topics])
    template = "{topic} or {topic}: a list of {topic}, not {topic} or {topic}"
    ends = {"a list of {topic}": template.index(", not")}
    frame = fill_templates(path=path, templates={"x": template}, subjects={"x": subject})
    for topic, row in zip(topics, frame.to_dict("records"), strict=True):
        upto = template[: ends.get(subject)].replace("{topic}", topic)
        filled = subject.replace("{topic}", topic)
        assert (row["subject"], row["subject_start"]) == (filled, len(upto) - len(filled))
        start = row["subject_start"]
        assert row["instruction"][start : start + len(filled)] == filled


def test_missing_values_of_further_columns(tmp_path):
    """A text that is missing is empty, and an integer stays one."""
    row = {"instruction": "a", "label": "x", "split": "train"}
    rows = [{**row, "bridge": "b", "rank": 3}, {**row, "bridge": None, "rank": None}]
    file = tmp_path / "ranks.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    frame = load_table(path=str(file))
    assert frame["bridge"].tolist() == ["b", ""]
    frame.to_parquet(tmp_path / "d.parquet")
    assert pd.read_parquet(tmp_path / "d.parquet")["rank"].dtype == "Int64"
    with pytest.raises(ValueError, match=r"column 'rank' mixes types: .*too large|big"):
        file.write_text(json.dumps({**row, "rank": 10**23}))
        load_table(path=str(file))


def test_facts_without_what_they_need_are_named(tmp_path):
    row = {"instruction": "The capital of", "label": "capital", "split": "test"}
    rows = [
        {**row, "subject": s, "answer": a}
        for s, a in (("France", " Paris"), ("Norway", None), ("Spain", " Madrid"))
    ]
    with pytest.raises(ValueError, match=r"facts\.jsonl: row 1 has no answer"):
        load_facts(path=write(tmp_path, "facts.jsonl", rows))
