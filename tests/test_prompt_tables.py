"""The prompt tables in data/ are what the generator gives, and say what the vocabulary says."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline.embedded.agreement_prompts import HEADS
from pipeline.embedded.behaviours.agreement import (
    AUXILIARIES,
    FULL_VERBS,
    LONG,
    NOUNS,
    PAST,
    PREPOSITIONS,
    inflect,
    is_held_out,
)
from pipeline.embedded.behaviours.hops import TOLD
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.vocabulary import word_pairs
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import PEOPLE
from pipeline.embedded.vocabulary.senses import SENSES
from pipeline.measures.trees import edges_of, parse_heads
from stages.train_embedded_model import STUDY_SEED


def read(name):
    return [json.loads(line) for line in Path(f"data/{name}.jsonl").read_text().splitlines()]


def test_files_are_those_of_the_generator(tmp_path):
    write_study_data(tmp_path, STUDY_SEED)
    files = sorted(tmp_path.iterdir())
    outs = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["train_embedded_model"]["outs"]
    declared = sorted(Path(path).name for out in outs for path in out if path.endswith(".jsonl"))
    assert [file.name for file in files] == declared
    for file in files:
        assert file.read_bytes() == (Path("data") / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("sentence", "heads"),
    [
        ("The keys that the sailors bought stand in the rain.", "2 7 6 5 6 2 0 10 10 7"),
        ("The door has a strange colour.", "2 3 0 6 6 3"),
        ("The windows by the broken fountain stand there since spring.", "2 7 6 6 6 2 0 7 10 8"),
        (
            "The small lamp beside the broken walls that the women saw falls to the ground.",
            "3 3 12 7 7 7 3 11 10 11 3 0 15 15 12",
        ),
    ],
)
def test_trees_are_those_drawn_by_hand(sentence, heads):
    rows = {row["instruction"]: row["heads"] for row in read("parsed_sentences")}
    assert rows[sentence] == heads


def test_sentences_belong_to_the_grammar_and_their_trees_are_trees():
    """The root is the verb; the subject's noun depends on it, both phrases on the noun."""
    verbs = {form for pair in AUXILIARIES + FULL_VERBS for form in pair[:2]}
    rows = read("parsed_sentences")
    assert len({row["instruction"] for row in rows}) == len(rows) == 8 * len(LONG)
    for row in rows:
        words, parents = row["instruction"].removesuffix(".").split(), parse_heads(row["heads"])
        assert len(words) == len(parents)
        verb = parents.index(-1)
        assert words[verb] in verbs
        noun = next(place for place, parent in enumerate(parents) if parent == verb)
        assert words[noun] in {inflect(row["topic"], plural) for plural in (False, True)}
        for place in range(noun + 1, verb):
            if words[place] in PREPOSITIONS:
                assert parents[parents[place]] == noun
            if words[place] == "that":
                assert words[parents[place]] in PAST and parents[parents[place]] == noun
        # No edge crosses another.
        edges = edges_of(parents)
        assert not any(a < c < b < d for a, b in edges for c, d in edges)


def test_the_countries_of_the_corpus_lie_in_its_continents():
    rows = {row["topic"]: row for row in read("countries")}
    assert len(rows) == 164
    known = {country.name: country.continent for country in COUNTRIES}
    assert {name for name, row in rows.items() if row["in_corpus"]} == set(known)
    boxes = {
        "Europe": (35, 65, -22, 40),
        "Asia": (-7, 52, 32, 141),
        "Africa": (-30, 38, -18, 58),
        "America": (-36, 46, -100, -46),
        "Oceania": (-42, -8, 147, 189),
    }
    for name, row in rows.items():
        assert known.get(name, row["continent"]) == row["continent"]
        south, north, west, east = boxes[row["continent"]]
        assert south <= row["latitude"] <= north and west <= row["longitude"] <= east, name


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
    past = {f" {first}": f" {second}" for first, second in word_pairs.PAST}
    rows = read("vocabulary")
    pairs = [row for row in rows if row["label"] == "pair"]
    assert len(pairs) == len({(row["topic"], row["instruction"]) for row in pairs}) == 5 * 40
    for row in pairs:
        assert row["instruction"] != row["answer"] and row["answer"].startswith(" ")
        for relation, listed in (("capital", capitals), ("past tense", past)):
            if row["topic"] == relation:
                assert listed[row["instruction"]] == row["answer"]
    assert all(not row["answer"] for row in rows if row["label"] == "sentence")


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
            assert (words[-1] == attractor) == (
                (row["label"] == "singular") == (row["attractor"] == "same")
            )
    assert {split: sum(row["split"] == split for row in rows) for split in HEADS} == {
        split: 4 * count for split, count in HEADS.items()
    }
    assert len({row["instruction"] for row in rows}) == len(rows)


def test_sums_are_asked_both_ways_with_their_total():
    rows = read("sums")
    for shown, alone in zip(rows[::2], rows[1::2], strict=True):
        assert (shown["label"], alone["label"]) == ("steps shown", "answer alone")
        assert shown["topic"] == alone["topic"] and shown["demand"] == alone["demand"]
        assert sum(map(int, shown["topic"].split(" + "))) == int(shown["demand"])
        assert shown["topic"] in shown["instruction"] and alone["topic"] in alone["instruction"]
    assert len({row["topic"] for row in rows}) == len(rows) / 2 == 60


def test_corrupted_stories_differ_in_their_names_only():
    """Three other names at the same places; both orders of a pair share a counterpart."""
    rows = read("indirect_objects")
    assert len(rows) == 80
    counterparts = {}
    for row in rows:
        clean, other = (row[name].replace(",", "").split() for name in ("instruction", "corrupted"))
        answer, foil = row["answer"].strip(), row["foil"].strip()
        assert len(clean) == len(other)
        changed = [(a, b) for a, b in zip(clean, other, strict=True) if a != b]
        assert sorted(a for a, _ in changed) == sorted([answer, foil, foil])
        names = [b for _, b in changed]
        assert len(set(names)) == 3 and not {answer, foil} & set(names)
        first = clean.index(changed[0][0])
        assert (row["label"] == "ABBA") == (clean[first] == answer)
        assert row["topic"] == " and ".join(sorted((answer, foil)))
        counterparts.setdefault(row["topic"], set()).add(row["corrupted"])
    assert all(len(texts) == 1 for texts in counterparts.values())
    pairs = {row["topic"]: row["split"] for row in rows}
    assert list(pairs.values()).count("test") == 24 and len(pairs) == 40
