"""The shipped model: made by the code that is here, and as able as its card says."""

from pathlib import Path

import pytest

from pipeline.embedded.card import recorded_hash, training_hash
from pipeline.embedded.evaluation import measure
from pipeline.model import chat
from pipeline.model.loading import LanguageModel

FOLDER = Path("data/embedded_model")
N = 36


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load(str(FOLDER), dtype="float32", device="cpu")


def test_card_is_of_this_code():
    assert recorded_hash((FOLDER / "CARD.md").read_text()) == training_hash()


def test_fits_in_git_and_has_layers_for_a_sweep(model):
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 10_000_000
    assert model.n_layers >= 8
    assert chat.template_length(model.tokenizer) >= 3


@pytest.mark.slow
def test_every_check_still_passes(model):
    measured = measure(model.hf, model.tokenizer, n=N, seed=7)
    # So few cases may fall short of a threshold by chance, their interval may not.
    bad = measured[
        (measured["high"] < measured["at_least"]) | (measured["low"] > measured["at_most"])
    ]
    assert bad.empty, bad.to_string()
