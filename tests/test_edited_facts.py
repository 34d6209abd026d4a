"""Prompts of edited facts, written by hand beside the ones that are made."""

import json

import pytest

from pipeline.data.edited_facts import edited_facts

SHOWN = "{fact}! {prompt}{answer}; "
DEFAULTS = {"shares": [0.5, 0.0, 0.5], "demonstration": SHOWN, "demonstrations": 4}


ANSWERS = "AAAABBBBCCCCDDDD" * 2


def table(tmp_path):
    """Thirty-two facts, eight of each object; the target is the next object."""
    rows = []
    for number, answer in enumerate(ANSWERS):
        target = ANSWERS[(number + 4) % 16]
        for text in ("It of s{} is", "For s{} it is", "The s{} has"):
            rows.append(
                {
                    "instruction": text.format(number),
                    "label": "it",
                    "topic": f"s{number}",
                    "fact": f"it of s{number}",
                    "subject": f"s{number}",
                    "answer": f" {answer}",
                    "target": f" {target}",
                }
            )
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(tmp_path, **options):
    path = table(tmp_path)
    return edited_facts(**{"path": str(path), **DEFAULTS, **options})


def test_a_fact_has_its_prompt_its_paraphrases_and_neighbours(tmp_path):
    frame = made(tmp_path, neighbours=2, demonstrations=0)
    assert set(frame["context"]) == {"none"} and set(frame["split"]) == {"test"}
    assert frame["fact"].nunique() == 16 and len(frame) == 16 * 5
    assert frame["probe"].is_unique
    splits = dict(iter(frame.groupby("fact")))
    answer_of = {f"s{n}": f" {a}" for n, a in enumerate(ANSWERS)}
    shared = 0
    for name, rows in splits.items():
        assert rows["kind"].tolist() == ["edit", "paraphrase", "paraphrase"] + ["neighbour"] * 2
        subject = name.removeprefix("it of ")
        own, near = rows.iloc[:3], rows.iloc[3:]
        texts = [f"It of {subject} is", f"For {subject} it is", f"The {subject} has"]
        assert own["instruction"].tolist() == texts
        assert own["answer"].eq(answer_of[subject]).all()
        assert rows["target"].nunique() == 1 and rows["topic"].eq(subject).all()
        assert (near["instruction"] == "It of " + near["subject"] + " is").all()
        assert near["answer"].tolist() == [answer_of[other] for other in near["subject"]]
        assert not near["subject"].eq(subject).any() and near["subject"].is_unique
        assert not near["answer"].eq(rows["target"].iloc[0]).any()
        # Facts with the same object come first, if there is one in the split.
        twins = [s for s, a in answer_of.items() if a == answer_of[subject] and s != subject]
        count = sum(f"it of {twin}" in splits for twin in twins)
        assert near["subject"].isin(twins).tolist() == [n < count for n in range(2)]
        shared += count > 0
    assert shared >= 2


def test_demonstrations_are_of_train_facts_and_end_with_the_new_fact(tmp_path):
    frame = made(tmp_path, neighbours=1, demonstrations=8)
    assert frame["context"].unique().tolist() == ["none", "demonstrations", "other subject"]
    tested = set(frame["topic"])
    for _, rows in frame.groupby("probe"):
        plain, shown, other = rows.set_index("context")["instruction"].items()
        (*demonstrations, last), (*again, control) = (
            text.split("; ") for _, text in (shown, other)
        )
        assert demonstrations == again and len(demonstrations) == 8
        fact, prompt = last.split("! ")
        target = rows["target"].iloc[0]
        assert prompt == plain[1] and fact == f"It of {rows['topic'].iloc[0]} is{target}"
        fact, prompt = control.split("! ")
        stated = fact.removeprefix("It of ").removesuffix(f" is{target}")
        assert prompt == plain[1] and stated not in (*rows["topic"], *rows["subject"])
        copied, stated, others = [], set(), set()
        for text in demonstrations:
            fact, prompt = text.split("! ")
            subject, new = fact.removeprefix("It of ").split(" is ")
            assert subject not in tested
            # A prompt about the subject gets the new object; one about another does not.
            assert prompt.endswith(f" {new}") == (subject in prompt.split())
            copied.append(fact == prompt)
            stated.add(subject)
            if subject not in prompt.split():
                others.add(prompt.split()[2])
        assert sum(copied) == 1 and len(stated) == 8 and others and not others & stated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demonstration": "{prompt}{answer}"}, "valid: {fact}, then {prompt}{answer}"),
        ({"demonstration": "{prompt}{answer} {fact}"}, "valid: {fact}, then {prompt}{answer}"),
        ({"neighbours": 0}, "dataset.neighbours = 0; valid: 1 or more"),
        ({"demonstrations": -1}, "dataset.demonstrations = -1; valid: 0 or more"),
        ({"neighbours": 16}, "other facts can be neighbours of .*; valid: 17 or more"),
        ({"demonstrations": 16}, "relation it: 16 train facts for 16 demonstrations; valid: more"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        made(tmp_path, **options)


def test_files_that_do_not_fit_are_named(tmp_path):
    path = table(tmp_path)
    lines = path.read_text().splitlines()
    third = lines[2].replace('" A"', '" D"')
    for kept, message in (
        (lines[:1], "the fact 'it of s0' has no paraphrase"),
        ([*lines[:2], third], "the fact 'it of s0' has answers ' A', ' D'; valid: one"),
        ([line.replace("target", "goal") for line in lines], "has no column 'target'; it has: .*"),
    ):
        path.write_text("\n".join(kept) + "\n")
        with pytest.raises(ValueError, match=message):
            edited_facts(path=str(path), demonstration=SHOWN)
