"""The embedded model's card: one table in files and Markdown, other seeds beside it."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.embedded import card
from pipeline.embedded.training import Recipe

MEASURED = pd.DataFrame(
    [
        ["lists", True, "items of a short list", 4.0, 6.0, 300, 5.1, 4.9, 5.3, "bootstrap", True],
        ["refusal", True, "refused", 0.95, math.inf, 300, 0.9, 0.8, 0.96, "wilson", False],
        ["steps", False, "without steps", 0.0, math.inf, 150, 1 / 3, 0.2, 0.5, "wilson", True],
        ["hops", False, "alone", 0.0, math.inf, 1, 1.0, math.nan, math.nan, "none", True],
    ],
    columns=[
        "behaviour",
        "core",
        "measure",
        "at_least",
        "at_most",
        "n",
        "mean",
        "low",
        "high",
        "interval",
        "passed",
    ],
)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(card, "training_hash", lambda: "c0de")

    def make(name, recipe, measured=MEASURED):
        folder = tmp_path / name
        folder.mkdir()
        card.record_training(folder, recipe, {"documents": 1234567, "last loss": 1.23456})
        card.record_measured(folder, measured)
        return folder

    return make


def row_of(text, measure):
    line = next(line for line in text.splitlines() if f"| {measure} |" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_is_written_is_read(model):
    pd.testing.assert_frame_equal(card.read_measured(model("a", Recipe())), MEASURED, rtol=1e-6)


def test_card_shows_recipe_figures_and_every_row(model):
    text = card.write_card(model("a", Recipe()))
    assert "`c0de`" in text
    assert "| documents | 1,234,567 |" in text and "| last loss | 1.235 |" in text
    assert f"| steps | {Recipe().steps:,} |" in text
    assert row_of(text, "items of a short list") == [
        "lists", "core", "items of a short list", "4 to 6", "5.100",
        "4.900 to 5.300 (bootstrap)", "300",
    ]  # fmt: skip
    assert row_of(text, "refused")[3:5] == [">= 0.95", "0.900 (**missed**)"]
    assert row_of(text, "without steps")[1:5] == ["target", "without steps", "reported", "0.333"]


def test_other_seed_stands_beside_by_name_of_the_row(model):
    folder = model("a", Recipe())
    others = MEASURED[::-1].assign(mean=[0.1, 0.2, 0.3, 0.4], passed=[True, True, False, True])
    other = model("b", replace(Recipe(), seed=7), others)
    card.record_other_seed(folder, other)
    text = card.write_card(folder)
    assert row_of(text, "measured")[-1] == "seed 7"
    assert row_of(text, "items of a short list")[-1] == "0.400"
    assert row_of(text, "refused")[-1] == "0.300 (**missed**)"


def test_only_another_seed_of_the_same_recipe_is_compared(model):
    folder, same = model("a", Recipe()), model("b", Recipe())
    with pytest.raises(ValueError, match="seed"):
        card.record_other_seed(folder, same)
    shorter = model("c", replace(Recipe(), seed=7, steps=5))
    with pytest.raises(ValueError, match="recipe"):
        card.record_other_seed(folder, shorter)
    changed = model("d", replace(Recipe(), seed=7))
    record = card.read_training(changed) | {"hash": "0"}
    (changed / "training.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="code"):
        card.record_other_seed(folder, changed)
