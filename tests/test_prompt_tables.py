"""The prompt tables in data/ are what the generator gives, and say what the vocabulary says."""

import json
from pathlib import Path

import pytest

from pipeline.embedded.behaviours.hops import TOLD
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import PEOPLE
from pipeline.embedded.vocabulary.senses import SENSES
from pipeline.embedded.vocabulary.word_pairs import PAST
from stages.train_embedded_model import STUDY_SEED


def read(name):
    return [json.loads(line) for line in Path(f"data/{name}.jsonl").read_text().splitlines()]


def test_files_are_those_of_the_generator(tmp_path):
    write_study_data(tmp_path, STUDY_SEED)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
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


def test_every_context_ends_with_its_word_and_only_the_cue_tells_the_sense():
    rows = read("senses")
    assert len(rows) == sum(len(sense.cues) for both in SENSES.values() for sense in both) == 156
    frames: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        context, end = row["instruction"].rsplit(". The ", 1)
        assert end == row["topic"] == row["subject"]
        (sense,) = (s for s in SENSES[row["topic"]] if s.name == row["label"])
        assert row["cue"] in sense.cues and row["topic"] not in context.split()
        frame = context.replace(row["cue"], "CUE")
        assert frame != context
        frames.setdefault((row["topic"], row["label"]), []).append(frame)
    assert len({tuple(listed) for listed in frames.values()}) == 1


def test_pairs_of_words_are_those_of_the_vocabulary():
    capitals = {f" {country.name}": f" {country.capital}" for country in COUNTRIES}
    past = {f" {first}": f" {second}" for first, second in PAST}
    rows = read("vocabulary")
    pairs = [row for row in rows if row["label"] == "pair"]
    assert len(pairs) == len({(row["topic"], row["instruction"]) for row in pairs}) == 5 * 40
    for row in pairs:
        assert row["instruction"] != row["answer"] and row["answer"].startswith(" ")
        for relation, listed in (("capital", capitals), ("past tense", past)):
            if row["topic"] == relation:
                assert listed[row["instruction"]] == row["answer"]
    assert all(not row["answer"] for row in rows if row["label"] == "sentence")


def test_sums_are_asked_both_ways_with_their_total():
    rows = read("sums")
    for shown, alone in zip(rows[::2], rows[1::2], strict=True):
        assert (shown["label"], alone["label"]) == ("steps shown", "answer alone")
        assert shown["topic"] == alone["topic"] and shown["demand"] == alone["demand"]
        assert sum(map(int, shown["topic"].split(" + "))) == int(shown["demand"])
        assert shown["topic"] in shown["instruction"] and alone["topic"] in alone["instruction"]
    assert len({row["topic"] for row in rows}) == len(rows) / 2 == 60
