"""Pairs in the forms that published work keeps them in, and on its own files where they are."""

import json
import os
from pathlib import Path

import pytest
from families import tokenizer

from pipeline.config.contracts import bound
from pipeline.config.study import compose_study
from pipeline.data.datasets import PROMPT_COLUMNS, load_table, tokenise
from pipeline.data.pairs import load_pairs, load_relation

EXTRAS = os.environ.get("ACTSWEEP_EXTRAS")
ROOT = Path(__file__).parents[1]
RELATION = {
    "name": "colour",
    "prompt_templates": ["w5 {} w6", "w7 {}"],
    "samples": [{"subject": f"w{i}", "object": f"w{i + 50}"} for i in range(10, 20)],
}


def write(folder: Path, name: str, content) -> str:
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def test_pairs_become_texts_with_their_answers(tmp_path):
    pairs = [{"input": f"w{i}", "output": f"w{i + 100} "} for i in range(10, 30)]
    paths = {"a": write(tmp_path, "a.json", pairs), "b": write(tmp_path, "b.json", pairs[:10])}
    frame = load_pairs(paths=paths, template="w10 {input} w6", shares=[0.5, 0.2, 0.3])
    assert list(frame.columns) == list(PROMPT_COLUMNS)
    counts = frame.groupby(["label", "split"]).size().to_dict()
    assert counts == {
        ("a", "train"): 10, ("a", "val"): 4, ("a", "test"): 6,
        ("b", "train"): 5, ("b", "val"): 2, ("b", "test"): 3,
    }  # fmt: skip
    row = frame.iloc[3]
    assert (row["instruction"], row["subject"], row["answer"]) == ("w10 w13 w6", "w13", " w113")
    assert row["subject_start"] == 4
    tokens = tokenise(frame, tokenizer())
    assert tokens.at[3, "prompt"] == "w10 w13 w6"  # a text to be continued has no line break
    assert tokens.at[3, "tokens"] == [10, 13, 6]


def test_a_relation_fills_the_template_that_is_asked_for(tmp_path):
    paths = {"r": write(tmp_path, "r.json", RELATION)}
    frame = load_relation(paths=paths, template=1)
    assert frame["instruction"].tolist() == [f"w7 w{i}" for i in range(10, 20)]
    assert frame["answer"].tolist() == [f" w{i + 50}" for i in range(10, 20)]
    assert set(frame["topic"]) == {"colour"} and set(frame["label"]) == {"r"}
    with pytest.raises(ValueError, match="no prompt template 2; valid: 0 to 1"):
        load_relation(paths=paths, template=2)


@pytest.mark.parametrize(
    ("loader", "content", "message"),
    [
        (load_pairs, {"input": 1}, "is no list of pairs"),
        (load_pairs, [], "is no list of pairs"),
        (load_pairs, [{"input": "a", "target": "b"}], "has no 'output'"),
        (load_pairs, [1, 2], "1 has no 'input'"),
        (load_relation, [], "is no relation with name, prompt_templates, samples"),
        (load_relation, {**RELATION, "samples": []}, "is no relation with name"),
        (load_relation, {**RELATION, "prompt_templates": []}, "is no relation with name"),
        (load_relation, {**RELATION, "samples": [{"subject": "a"}]}, "has no 'object'"),
    ],
)
def test_other_forms_are_refused_in_one_line(tmp_path, loader, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        loader(paths={"x": write(tmp_path, "x.json", content)})
    assert "x.json" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"'none\.json' does not exist"):
        loader(paths={"x": "none.json"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for name in ("x.json", "x.jsonl", "x.parquet"):
        path = tmp_path / name
        path.write_text('{"instruction": ')
        with pytest.raises(ValueError, match=rf"x\.\w+' is no {path.suffix[1:]}: "):
            load_table(path=str(path))
    for loader in (load_pairs, load_relation):
        with pytest.raises(ValueError, match=r"x\.json' is no json: Expecting value"):
            loader(paths={"a": str(tmp_path / "x.json")})


def test_a_template_without_its_input_is_refused():
    with pytest.raises(ValueError, match=r"no \{input\}: 'Q:'"):
        load_pairs(paths={}, template="Q:")


def test_the_same_files_load_as_a_table_with_their_columns_named(tmp_path):
    path = write(tmp_path, "a.json", [{"input": "w8", "output": "w9", "kind": "x"}])
    frame = load_table(
        path=path, columns={"instruction": "input", "answer": "output", "label": "kind"}, raw=True
    )
    assert frame.loc[0, ["instruction", "answer", "label", "raw"]].tolist() == [
        "w8", "w9", "x", True,
    ]  # fmt: skip


def test_a_dataset_with_a_folder_as_on_the_hub_loads_by_its_parts(tmp_path):
    rows = {
        part: [{"instruction": f"w{start + i}", "label": "ab"[i % 2]} for i in range(6)]
        for part, start in (("train", 10), ("test", 20))
    }
    for part, given in rows.items():
        lines = "\n".join(map(json.dumps, given))
        (tmp_path / f"{part}.jsonl").write_text(lines)
    for part, given in rows.items():
        frame = load_table(path=str(tmp_path), part=part)
        assert frame["instruction"].tolist() == [row["instruction"] for row in given]
    with pytest.raises(ValueError, match="has no part 'dev'; valid: train, test") as caught:
        load_table(path=str(tmp_path), part="dev")
    assert "\n" not in str(caught.value)


def test_a_dataset_that_cannot_be_had_is_one_line():
    with pytest.raises(ValueError, match=r"dataset 'me/nothing': .*me/nothing") as caught:
        load_table(path="me/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(EXTRAS is None, reason="ACTSWEEP_EXTRAS names no folder of extra data")
@pytest.mark.parametrize(
    ("config", "folder", "count", "first"),
    [
        ("function_vectors", "function_vectors", 6, ("Q: flawed\nA:", "flawed", " perfect")),
        ("relations", "relations", 3, ("The opposite of love is", "love", " hate")),
    ],
)
def test_published_files_load_as_they_are(config, folder, count, first, monkeypatch):
    """Through the configuration, as a study would take them."""
    files = sorted((Path(str(EXTRAS)) / "data" / folder).glob("*.json"))
    paths = ", ".join(f"{file.stem}: {file}" for file in files)
    labels = [file.stem for file in files]
    overrides = [f"dataset={config}", f"dataset.paths={{{paths}}}"]
    study = compose_study("refusal", overrides, root=ROOT)
    frame = bound(study.dataset)()
    assert sorted(frame["label"].unique()) == labels and len(labels) == count
    assert set(frame.groupby("label")["split"].nunique()) == {3}
    antonyms = frame[frame["label"].str.endswith("antonym")].iloc[0]
    assert tuple(antonyms[["instruction", "subject", "answer"]]) == first
    assert frame["answer"].str.match(r" \S").all()
    inside = [s in text for s, text in zip(frame["subject"], frame["instruction"], strict=True)]
    assert all(inside)
