"""Tables whose values look like something else: numbers, missing values, lists."""

import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from pipeline.data import tables
from pipeline.data.column_names import NOT_IN_FILES
from pipeline.data.datasets import fill_templates, load_table, load_texts
from pipeline.data.formats import read_json
from pipeline.data.pairs import load_pairs, load_relation
from pipeline.data.tables import read_table

LOOKALIKES = [
    "007",
    "042",
    "1_0",
    "1.50",
    "1e5",
    "12345678901234567890",
    "NA",
    "None",
    "null",
    "nan",
]
FORMATS = ("csv", "json", "jsonl", "parquet")


def write(folder, kind: str, columns: dict, name: str = "table") -> str:
    path = folder / f"{name}.{kind}"
    frame = pd.DataFrame(columns, dtype=object)
    rows = frame.to_dict("records")
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_text_that_looks_like_a_number_or_like_nothing_is_kept(tmp_path, kind):
    count = len(LOOKALIKES)
    columns = {
        "instruction": LOOKALIKES,
        "label": ["None"] * count,
        "answer": [*LOOKALIKES[:-1], None],
    }
    for column in ("subject", "topic", "demand"):
        columns[column] = LOOKALIKES
    table = load_table(path=write(tmp_path, kind, columns))
    for column in ("instruction", "subject", "topic", "demand"):
        assert table[column].tolist() == LOOKALIKES
    # A single missing value changes no other.
    assert table["answer"].tolist() == [*LOOKALIKES[:-1], ""]
    assert set(table["label"]) == {"None"}
    topics = write(tmp_path, kind, {"topic": LOOKALIKES, "split": ["train"] * count}, "topics")
    prompts = fill_templates(path=topics, templates={"l": "List of {topic}"})
    assert prompts["instruction"].tolist() == [f"List of {text}" for text in LOOKALIKES]
    texts = write(tmp_path, kind, {"text": LOOKALIKES}, "texts")
    assert load_texts(texts)["text"].tolist() == LOOKALIKES


@pytest.mark.parametrize("kind", FORMATS)
def test_a_folder_in_the_hubs_layout_is_read_alike(tmp_path, kind):
    columns = {"instruction": LOOKALIKES, "label": LOOKALIKES, "answer": [*LOOKALIKES[:-1], None]}
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", kind, columns, "train")
    table = load_table(path=str(tmp_path / "data"))
    assert table["instruction"].tolist() == table["label"].tolist() == LOOKALIKES
    assert table["answer"].tolist() == [*LOOKALIKES[:-1], ""]


def test_numbers_are_the_text_that_the_file_has(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"topic": 1990, "split": "train"}\n{"topic": 1.50, "split": "test"}\n')
    prompts = fill_templates(path=str(path), templates={"l": "{topic}"})
    assert prompts["instruction"].tolist() == ["1990", "1.50"]
    integers = write(
        tmp_path, "parquet", {"instruction": ["a", "b"], "label": "l", "answer": [12, None]}
    )
    assert load_table(path=integers)["answer"].tolist() == ["12", ""]


def test_own_columns_keep_their_numbers(tmp_path):
    path = tmp_path / "table.jsonl"
    rows = [
        {"instruction": "a", "label": "l", "hops": n, "rate": n / 4, "names": ["x"]} for n in (1, 2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = load_table(path=str(path))
    assert table["hops"].tolist() == [1, 2] and table["rate"].sum() == 0.75
    assert table["names"].tolist() == [["x"], ["x"]]
    path.write_text(path.read_text() + json.dumps({**rows[0], "hops": "three"}) + "\n")
    with pytest.raises(ValueError, match="column 'hops' mixes types"):
        load_table(path=str(path))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("columns", "load", "message"),
    [
        ({"topic": ["1990", None], "split": "train"}, "topics", "row 1 has no topic"),
        ({"topic": ["x", "y"], "split": ["train", None]}, "topics", "row 1 has no split"),
        ({"topic": ["x", "y"], "split": ["train", "dev"]}, "topics", "split 'dev' is unknown"),
        ({"text": ["a", "b", None]}, "texts", "row 2 has no text"),
        ({"instruction": ["a", None], "label": "l"}, "table", "row 1 has no instruction"),
        ({"instruction": ["a", "b"], "label": [None, "l"]}, "table", "row 0 has no label"),
        ({"instruction": ["a", " \t"], "label": "l"}, "table", "row 1 has no instruction, o"),
        ({"instruction": ["a", "b"], "label": ["l", "l "]}, "table", "label 'l ' begins or ends"),
        ({"topic": ["x", " y"], "split": "train"}, "topics", "topic ' y' begins or ends wi"),
    ],
)  # fmt: skip
def test_a_row_without_a_needed_value_is_named(tmp_path, kind, columns, load, message):
    path = write(tmp_path, kind, columns)
    loaders = {
        "topics": lambda: fill_templates(path=path, templates={"l": "{topic}"}),
        "texts": lambda: load_texts(path),
        "table": lambda: load_table(path=path),
    }
    with pytest.raises(ValueError, match=f"table.{kind}: {message}"):
        loaders[load]()


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([{"role": "user", "content": "Hi"}], "a list"),
        ({"content": "Hi"}, "an object"),
        (True, "a boolean"),
    ],
)
@pytest.mark.parametrize("column", ["instruction", "label", "answer", "subject"])
def test_what_is_no_text_is_refused(tmp_path, kind, value, named, column):
    columns = {"instruction": ["a"], "label": ["l"], column: [value]}
    with pytest.raises(ValueError, match=f"row 0: {column} holds {named}, not text"):
        load_table(path=write(tmp_path, kind, columns))


def test_pairs_and_relations_refuse_what_is_no_text(tmp_path):
    path = tmp_path / "pairs.json"
    for value, named in [(["large", "huge"], "a list"), (None, "nothing")]:
        path.write_text(
            json.dumps([{"input": "big", "output": "x"}, {"input": "b", "output": value}])
        )
        with pytest.raises(ValueError, match=f"entry 1: output holds {named}, not text"):
            load_pairs(paths={"t": str(path)})
    path.write_text('[{"input": 007, "output": "x"}]')
    with pytest.raises(ValueError, match="is no json"):
        load_pairs(paths={"t": str(path)})
    path.write_text('[{"input": 1.50, "output": "007"}]')
    assert load_pairs(paths={"t": str(path)})[["subject", "answer"]].values.tolist() == [
        ["1.50", " 007"]
    ]
    relation = {
        "name": "r",
        "prompt_templates": ["{}"],
        "samples": [{"subject": "x", "object": None}],
    }
    path.write_text(json.dumps(relation))
    with pytest.raises(ValueError, match="entry 0: object holds nothing, not text"):
        load_relation(paths={"t": str(path)})


def test_rows_and_headers_of_csv_files_must_agree(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("instruction,label\na,l\nb, or c,l\n")
    with pytest.raises(ValueError, match="row 1 has 3 fields; the header has 2"):
        load_table(path=str(path))
    path.write_text("label,label\na,l\n")
    with pytest.raises(ValueError, match="two columns have the same name"):
        load_table(path=str(path))
    path.write_text('instruction,label\n"b, or\nc",l\n\n"d ""e""",m\n')
    assert load_table(path=str(path))["instruction"].tolist() == ["b, or\nc", 'd "e"']


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
def test_byte_order_marks_are_read_past(tmp_path, kind):
    path = write(tmp_path, kind, {"instruction": ["a"], "label": ["l"]})
    content = Path(path).read_bytes()
    Path(path).write_bytes(b"\xef\xbb\xbf" + content)
    assert list(read_table(path).columns) == ["instruction", "label"]


def test_json_of_another_form_is_refused(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"instruction": "a", "label": "l"}\n["a"]\n')
    with pytest.raises(ValueError, match="row 1 is a list, not an object"):
        read_table(str(path))
    path = tmp_path / "table.json"
    path.write_text('{"instruction": {"0": "a"}}')
    with pytest.raises(ValueError, match="must be a list of objects"):
        read_table(str(path))


def test_errors_of_json_name_line_and_key(tmp_path):
    path = tmp_path / "table.jsonl"
    good = '{"instruction": "a", "label": "l"}\n'
    path.write_text(f"{good}\n{good}{good[:-2]}\n")
    with pytest.raises(ValueError, match=r"jsonl: line 4, column 34: Expecting ',' delimiter"):
        read_table(str(path))
    path.write_text(good + '{"label": "l", "instruction": "a", "label": "m"}')
    with pytest.raises(ValueError, match=r"jsonl: line 2: an object has two values of 'label'"):
        read_table(str(path))
    path = tmp_path / "table.json"
    path.write_text('[{"input": "b", "output": "x", "input": "c"}]')
    with pytest.raises(ValueError, match="json: an object has two values of 'input'"):
        load_pairs(paths={"t": str(path)})


@pytest.mark.parametrize("kind", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_says_what_to_do(tmp_path, kind, encoding):
    path = write(tmp_path, kind, {"instruction": ["Wie heißt das?"], "label": ["a"]})
    file = Path(path)
    text = file.read_text().replace("\\u00df", "ß")
    file.write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=rf"table.{kind}' is not UTF-8, save it as such: "):
        read_table(path)
    with pytest.raises(ValueError, match="is not UTF-8, save it as such"):
        read_json(file)


def test_a_named_index_of_a_parquet_file_is_a_column(tmp_path):
    frame = pd.DataFrame({"instruction": list("abcd"), "label": "l", "split": ["test"] * 4})
    path = tmp_path / "table.parquet"
    frame.set_index("split").to_parquet(path)
    assert load_table(path=str(path))["split"].tolist() == ["test"] * 4
    frame[frame["instruction"] > "b"].to_parquet(path)
    assert not [name for name in read_table(str(path)) if "index" in name]


def test_digits_that_the_hub_does_not_keep_are_no_text(tmp_path, monkeypatch):
    """A folder stands for the Hub here: `datasets` reads both alike."""
    folder = tmp_path / "data"
    folder.mkdir()
    row = '{"instruction": "a", "label": "l", "answer": 1.50, "rate": 0.25}\n'
    (folder / "train.jsonl").write_text(row)
    assert load_table(path=str(folder))["answer"].tolist() == ["1.50"]
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda path: path != folder and is_dir(path))
    monkeypatch.setattr(tables, "is_hub_id", lambda path: True)
    monkeypatch.setattr(tables, "check_dataset", lambda path: None)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ValueError, match=r"row 0: answer holds the number 1.5, maybe written oth"):
        load_table(path=str(folder))
    columns = {"answer": "instruction"}
    assert load_table(path=str(folder), columns=columns)["rate"].tolist() == [0.25]


def test_templates_keep_what_a_file_says_of_its_topics(tmp_path):
    columns = {"topic": ["x", "y"], "split": "test", "answer": [" 1", None], "demand": "short"}
    path = write(tmp_path, "jsonl", columns)
    prompts = fill_templates(path=path, templates={"a": "A {topic}", "b": "B {topic}"})
    assert prompts["answer"].tolist() == [" 1", " 1", "", ""]
    assert prompts["demand"].tolist() == ["short"] * 4
    for column in (*NOT_IN_FILES, "instruction", "label", "subject"):
        path = write(tmp_path, "jsonl", columns | {column: "z"})
        with pytest.raises(ValueError, match=f"may not be called '{column}'; rename it"):
            fill_templates(path=path, templates={"a": "A {topic}"})


@pytest.mark.parametrize("column", NOT_IN_FILES)
def test_columns_that_the_loader_sets_are_refused(tmp_path, column):
    path = write(tmp_path, "jsonl", {"instruction": ["a"], "label": ["l"], column: [1]})
    with pytest.raises(ValueError, match=f"a column may not be called '{column}'; rename it"):
        load_table(path=path)


def test_short_rows_and_an_empty_path_are_refused(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("instruction,label,topic\na,l,t\nb,l\n")
    with pytest.raises(ValueError, match="row 1 has 2 fields; the header has 3"):
        load_table(path=str(path))
    with pytest.raises(ValueError, match=r"dataset\.path is empty"):
        load_table(path="")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_is_as_strict_as_a_file(tmp_path, kind, caplog):
    """`datasets` alone shifts columns, renames a second column, and reads one of two formats."""
    rows = {
        "csv": ["instruction,label", "a,l,x"],
        "jsonl": ['{"instruction": "a", "label": "l"}', '{"label": "l", "label": "m"}'],
    }
    error = {"csv": "row 0 has 3 fields; the header has 2", "jsonl": "two values of 'label'"}
    (tmp_path / f"train.{kind}").write_text("\n".join(rows[kind]))
    with pytest.raises(ValueError, match=rf"train\.{kind}' is no {kind}: .*{error[kind]}"):
        load_table(path=str(tmp_path))
    (tmp_path / f"train.{kind}").write_text("\n".join(rows[kind][:1]) + "\n")
    (tmp_path / "more.json").write_text("[]")
    with pytest.raises(ValueError, match="files of several formats"):
        load_table(path=str(tmp_path))


def test_parts_of_a_folder_are_named(tmp_path, caplog):
    for part, label in (("train", 1.5), ("test", "007")):
        row = json.dumps({"instruction": part, "label": label})
        (tmp_path / f"{part}.jsonl").write_text(row + "\n")
    with caplog.at_level(logging.WARNING):
        assert load_table(path=str(tmp_path), part="test")["label"].tolist() == ["007"]
    assert "has the parts train, test: test is read" in caplog.text
    assert load_table(path=str(tmp_path))["label"].tolist() == ["1.5"]
    with pytest.raises(ValueError, match="has no part 'dev'; valid: train, test"):
        load_table(path=str(tmp_path), part="dev")


def test_a_renamed_column_is_not_overwritten(tmp_path):
    path = write(
        tmp_path, "jsonl", {"instruction": ["Answer."], "question": ["Why?"], "label": "l"}
    )
    table = load_table(path=path, columns={"instruction": "question"})
    assert table["instruction"].tolist() == ["Why?"]


def test_half_of_a_surrogate_pair_is_refused(tmp_path):
    path = tmp_path / "table.jsonl"
    path.write_text('{"instruction": "a \\ud800", "label": "l"}')
    with pytest.raises(ValueError, match="row 0: instruction has half of a surrogate pair"):
        load_table(path=str(path))


def test_relations_need_a_place_for_their_subject_and_no_empty_entries(tmp_path):
    path = tmp_path / "relation.json"
    relation = {
        "name": "r",
        "prompt_templates": ["of {}"],
        "samples": [{"subject": "x", "object": "y"}],
    }
    wrong = [
        ({"prompt_templates": ["of it"]}, "prompt template 0 has no {}"),
        ({"prompt_templates": "of {}"}, "prompt_templates is no list of texts"),
        ({"samples": [{"subject": " ", "object": "y"}]}, "entry 0: subject is empty"),
    ]
    for change, message in wrong:
        path.write_text(json.dumps(relation | change))
        with pytest.raises(ValueError, match=re.escape(message)):
            load_relation(paths={"t": str(path)})
