"""A real trained model of somebody else's, where it is at hand: the text it is known to write."""

import os
from pathlib import Path

import pytest
import torch

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.methods.interventions import Add, ProjectOut
from pipeline.model import tokenization
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

EXTRAS = os.environ.get("ACTSWEEP_EXTRAS")
STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball"
)


@pytest.mark.skipif(EXTRAS is None, reason="ACTSWEEP_EXTRAS names no folder of extra models")
@pytest.mark.parametrize("batch_tokens", [700, 100_000])
def test_stories_are_told_as_known_alone_and_among_other_conditions(batch_tokens):
    """200 greedy tokens from the begin-of-sequence token, with an edit of strength 0 in place."""
    model = LanguageModel.load(str(Path(str(EXTRAS)) / "models" / "stories260k"), device="cpu")
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))

    def edited(intervention, layer: int) -> Condition:
        edit = Edit(Site(layer, "resid_post"), intervention, "all")
        return Condition({"layer": layer}, (edit,))

    conditions = [
        edited(Add(vector, 4.0), 1),
        Condition(),
        edited(ProjectOut(vector), 2),
        edited(Add(vector, 0.0), 1),
    ]
    prompt = [model.tokenizer.bos_token_id]
    # The second prompt is longer, so that the first is padded where they are packed together.
    other = tokenization.encode(model.tokenizer, "The dog was happy because")
    done = generate(model, [prompt, other], conditions, Decoding(200), batch_tokens=batch_tokens)
    steered, baseline, ablated, nothing = (c for c in done if c.prompt == 0)
    assert len(baseline.tokens) == 200
    assert baseline.text.strip().startswith(STORY)
    assert nothing.tokens == baseline.tokens
    assert not steered.text.strip().startswith(STORY)
    assert ablated.tokens != baseline.tokens
