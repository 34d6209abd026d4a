"""The prompt tables in data/ are what the generator gives, and say what the vocabulary says."""

import json
from pathlib import Path

import pytest

from pipeline.embedded.agreement_prompts import HEADS
from pipeline.embedded.behaviours.agreement import NOUNS, inflect, is_held_out
from pipeline.embedded.behaviours.hops import TOLD
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import PEOPLE
from stages.train_embedded_model import STUDY_SEED


def read(name):
    return [json.loads(line) for line in Path(f"data/{name}.jsonl").read_text().splitlines()]


def test_files_are_those_of_the_generator(tmp_path):
    write_study_data(tmp_path, STUDY_SEED)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for file in files:
        assert file.read_bytes() == (Path("data") / file.name).read_bytes(), file.name


def test_every_question_is_there_plain_and_quoted():
    rows = read("quoted_questions")
    for plain, quoted in zip(rows[::2], rows[1::2], strict=True):
        assert (plain["label"], quoted["label"]) == ("plain", "quoted")
        assert plain["topic"] == quoted["topic"] == plain["instruction"]
        assert quoted["instruction"] == f'"{plain["instruction"]}"'


@pytest.mark.parametrize("row", read("two_hops"), ids=lambda row: row["instruction"])
def test_two_hops_are_true_and_their_controls_are_not(row):
    birth = {person.name: person.country for person in PEOPLE}
    country = next(c for c in COUNTRIES if c.name == birth[row["subject"]])
    text = f"The {row['relation']} of the country where {row['subject']} was born is"
    assert row["instruction"] == text
    assert row["bridge"] == f" {country.name}"
    assert row["answer"] == f" {getattr(country, row['relation'])}"
    assert row["other_bridge"] != row["bridge"] and row["other_answer"] != row["answer"]
    other = next(c for c in COUNTRIES if f" {c.name}" == row["other_bridge"])
    assert row["other_answer"] == f" {getattr(other, row['relation'])}"
    assert row["label"] == ("told" if row["subject"] in TOLD else "not told")


def test_subjects_cross_two_numbers_and_no_head_is_in_two_splits():
    rows = read("number_agreement")
    by_head: dict[str, list[dict]] = {}
    for row in rows:
        by_head.setdefault(row["topic"], []).append(row)
    for head, group in by_head.items():
        assert len({row["split"] for row in group}) == 1
        numbers = {(row["label"], row["attractor"]) for row in group}
        assert len(numbers) == len(group) == 4
        for row in group:
            words = row["instruction"].split()
            assert (inflect(head, row["label"] == "plural") in words[:3]) and words[0] == "The"
            attractor = next(n for n in NOUNS if words[-1] in (n, inflect(n, True)))
            assert is_held_out(head, attractor) and head != attractor
            assert (words[-1] == attractor) == (row["attractor"] == "singular")
    assert {split: sum(row["split"] == split for row in rows) for split in HEADS} == {
        split: 4 * count for split, count in HEADS.items()
    }
    assert len({row["instruction"] for row in rows}) == len(rows)
