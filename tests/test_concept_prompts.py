"""Prompts of concepts come in pairs that differ in nothing but the concept."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline.embedded.concept_prompts import PAIRS
from pipeline.embedded.vocabulary.omens import SOURCES
from pipeline.embedded.vocabulary.scenes import SPOKEN


def read(name: str) -> pd.DataFrame:
    lines = Path(f"data/{name}.jsonl").read_text().splitlines()
    return pd.DataFrame(map(json.loads, lines))


LABELS = {"languages": SPOKEN, "works": ("own", "other"), "superstitions": ("true", "believed")}


@pytest.mark.parametrize("name", LABELS)
def test_each_pair_has_one_prompt_of_each_label_in_one_split(name):
    table = read(name)
    groups = table.groupby("pair")
    assert all(sorted(labels) == sorted(LABELS[name]) for _, labels in groups["label"])
    assert (groups["split"].nunique() == 1).all() and (groups["topic"].nunique() == 1).all()
    assert table.groupby("split")["pair"].nunique().to_dict() == PAIRS
    assert table["instruction"].is_unique


@pytest.mark.parametrize("name", LABELS)
def test_nothing_asked_about_is_in_two_splits_but_for_the_trained_words(name):
    table = read(name)
    assert (table.groupby("topic")["split"].nunique() == 1).all()


def test_requests_differ_by_the_language_alone():
    for _, group in read("languages").groupby("pair"):
        masked = {
            row["instruction"].replace(row["label"], "LANGUAGE") for row in group.to_dict("records")
        }
        assert len(masked) == 1
        for row in group.to_dict("records"):
            assert row["demand"] == row[row["label"].lower()]


def test_questions_differ_by_the_source_alone():
    for _, group in read("superstitions").groupby("pair"):
        masked = set()
        for row in group.to_dict("records"):
            texts = SOURCES[row["label"]][row["split"]]
            (source,) = (max((t for t in texts if t in row["instruction"]), key=len),)
            masked.add(row["instruction"].replace(source, "SOURCE"))
        assert len(masked) == 1


def test_works_are_described_and_asked_about_alike():
    """Only the first sentence, the claim of whose work it is, may differ."""
    for _, group in read("works").groupby("pair"):
        first, second = (text.split(". ", 1) for text in group["instruction"])
        assert first[1] == second[1] and first[0] != second[0]
