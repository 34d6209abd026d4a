"""Few-shot prompts: which pairs are shown, in what order, and whose answers are shuffled."""

import json
from collections import Counter

import pandas as pd
import pytest

from pipeline.data.datasets import PROMPT_COLUMNS
from pipeline.data.in_context import in_context
from pipeline.embedded.behaviours.in_context import LIST_TASKS, PLACED, TASKS, split_of
from pipeline.embedded.vocabulary.countries import COUNTRIES

PAIRS = {task: [(f"{task}{n}", f"{task.upper()}{n}") for n in range(12)] for task in ("up", "down")}
SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 4


@pytest.fixture
def path(tmp_path):
    rows = [
        {"task": task, "input": x, "output": y, "split": split}
        for task, pairs in PAIRS.items()
        for (x, y), split in zip(pairs, SPLITS, strict=True)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def parsed(text: str) -> tuple[list[tuple[str, str]], str]:
    """The shots of a prompt and the word that it asks for."""
    blocks = [block.removeprefix("Q: ").split("\nA:") for block in text.split("\n\n")]
    assert blocks[-1][1] == ""
    return [(x, y.removeprefix(" ")) for x, y in blocks[:-1]], blocks[-1][0]


def test_shots_are_other_pairs_of_train_and_shuffled_ones_have_anothers_answer(path):
    prompts = in_context(path=path, shots=5, train=6, asked=3)
    assert list(prompts.columns[: len(PROMPT_COLUMNS)]) == list(PROMPT_COLUMNS)
    sizes = prompts.groupby(["topic", "split", "label"]).size()
    assert {split: {*sizes.xs(split, level="split")} for split in ("train", "val", "test")} == {
        "train": {6},
        "val": {2},
        "test": {3},
    }
    train = {task: pairs[:6] for task, pairs in PAIRS.items()}
    for (topic, subject), rows in prompts.groupby(["topic", "subject"]):
        by_kind = rows.set_index("label")["instruction"].map(parsed)
        answer = dict(PAIRS[topic])[subject]
        assert set(rows["answer"]) == {f" {answer}"} and rows["raw"].all()
        assert {asked for _, asked in by_kind} == {subject}
        shown, shuffled = by_kind["shown"][0], by_kind["shuffled"][0]
        assert by_kind["zero"][0] == []
        assert len(shown) == 5 and set(shown) <= set(train[topic]) - {(subject, answer)}
        assert [x for x, _ in shuffled] == [x for x, _ in shown]
        assert Counter(y for _, y in shuffled) == Counter(y for _, y in shown)
        assert all(y != true for (_, y), (_, true) in zip(shuffled, shown, strict=True))
        mixed = by_kind["mixed"][0]
        foreign = {y for task in train if task != topic for _, y in train[task]}
        assert [x for x, _ in mixed] == [x for x, _ in shown]
        assert {y for _, y in mixed} <= foreign


def test_prompts_are_a_function_of_the_seed_and_of_their_own_task(path):
    first = in_context(path=path, shots=3)
    pd.testing.assert_frame_equal(first, in_context(path=path, shots=3))
    alone = in_context(path=path, shots=3, tasks=["down"])
    both = first[(first["topic"] == "down") & (first["label"] != "mixed")]
    pd.testing.assert_frame_equal(alone, both.reset_index(drop=True))
    assert not first["instruction"].equals(in_context(path=path, shots=3, seed=1)["instruction"])


def test_another_template_is_filled_whatever_the_words_are(tmp_path):
    file = tmp_path / "pairs.csv"
    lines = [f"t,x{n},y{n},train" for n in range(3)] + ["t,{output},{input},test"]
    file.write_text("\n".join(["task,input,output,split", *lines]) + "\n")
    options = {"template": "{input} ->{output}", "separator": "; ", "shots": 2}
    prompts = in_context(path=str(file), **options)
    asked = prompts[(prompts["split"] == "test") & (prompts["label"] == "zero")].iloc[0]
    assert (asked["instruction"], asked["answer"]) == ("{output} ->", "{input}")
    shown = prompts[(prompts["split"] == "test") & (prompts["label"] == "shown")].iloc[0]
    blocks = shown["instruction"].split("; ")
    assert blocks[-1] == "{output} ->" and {*blocks[:-1]} < {f"x{n} ->y{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["left"]}, "dataset.tasks: no task 'left'; valid: up, down"),
        ({"shots": 6}, "dataset.shots: 6; task 'up' has 5 pairs in train besides those of 'up0'"),
        ({"tasks": ["down"], "shots": 9}, "besides those of 'down0'; valid: 2 to 5"),
        ({"shots": 1}, "dataset.shots: 1 is less than 2"),
        ({"template": "{input}"}, "valid: a text with {input} that ends in {output}"),
    ],
)
def test_wrong_options_are_named(options, message, path):
    with pytest.raises(ValueError, match=message):
        in_context(path=path, **{"shots": 3, **options})


def written(tmp_path, pairs) -> str:
    rows = [dict(zip(("input", "output", "split"), pair, strict=True)) for pair in pairs]
    file = tmp_path / "repeated.jsonl"
    file.write_text("".join(json.dumps({"task": "t", **row}) + "\n" for row in rows))
    return str(file)


def test_every_prompt_has_as_many_different_shots_as_are_asked_for(tmp_path):
    """Pairs of the input that is asked are no shots, nor is a pair twice."""
    pairs = [(f"w{n}", f"o{n}{k}", "train") for n in range(4) for k in range(4)]
    asked = [("w0", "o9", "test"), ("new", "o9", "test")]
    path = written(tmp_path, [*pairs, *asked, *pairs[:3]])
    prompts = in_context(path=path, shots=12)
    for row in prompts[prompts["label"] != "zero"].itertuples():
        shown, word = parsed(row.instruction)
        assert len(set(shown)) == 12 and word not in {x for x, _ in shown}
    with pytest.raises(ValueError, match="13; task 't' has 12 pairs in train besides those of 'w0"):
        in_context(path=path, shots=13)
    with pytest.raises(ValueError, match="has 0 pairs in train besides those of 'w'; valid: none"):
        in_context(path=written(tmp_path, [("w", "o1", "train"), ("w", "o2", "test")]), shots=2)


def test_word_pairs_are_true_and_held_out_as_in_training():
    table = pd.read_json("data/word_pairs.jsonl", lines=True)
    assert not table.duplicated(["task", "input"]).any()
    capitals = {country.name: country.capital for country in COUNTRIES}
    counts = table.groupby("task").size()
    assert set(counts.index) == {*TASKS, *LIST_TASKS} and counts.min() > 50
    for row in table.to_dict("records"):
        task, source, output = row["task"], row["input"], row["output"]
        if task in TASKS:
            assert dict(TASKS[task])[source] == output
            assert split_of(task, source) == row["split"]
            continue
        place, operation = task.split("-")
        listed = source.split(", ")
        asked = listed[0 if place == "first" else -1]
        assert len(set(listed)) == 3 and PLACED[place][asked] == row["split"]
        assert output == (asked if operation == "copy" else capitals[asked])


def test_the_subject_is_the_word_that_is_asked(tmp_path):
    """An input `A` is also the A of "A:", and stands in the shots."""
    words = ["A", "Q", "B", "C", "D"]
    rows = [
        {"task": "letters", "input": word, "output": word.lower(), "split": split}
        for word, split in zip(words, ["test", "test", "train", "train", "train"], strict=True)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = in_context(path=str(file), shots=2)
    for row in prompts[prompts["split"] == "test"].itertuples():
        start = row.instruction.rindex(f"Q: {row.subject}\nA:") + len("Q: ")
        assert row.subject_start == start
