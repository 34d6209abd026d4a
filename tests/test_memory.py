"""A batch that memory does not hold is run in parts, with the same results."""

import weakref

import pytest
import torch
from families import WIDTH, random_prompts, tiny

from pipeline.engine.chunks import plan
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.engine.memory import in_parts
from pipeline.engine.scoring import cross_entropy, score_change, score_last
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site

PROMPTS = random_prompts(12)
CONDITIONS = [
    Condition(),
    *(
        Condition({"layer": n}, (Edit(Site(n, "resid_pre"), Add(torch.full((WIDTH,), 0.5))),))
        for n in range(4)
    ),
]
BATCH = 400


def completions(model, prompts=PROMPTS):
    lengths = [len(prompt) for prompt in prompts]
    (chunk,) = plan(5, lengths, batch_tokens=10_000, new_tokens=6, repeats=4)
    decoding = Decoding(6, temperature=1.0, repeats=4)
    samples = range(len(prompts))
    return generate_chunk(model, prompts, CONDITIONS, chunk, decoding, seed=3, samples=samples)


WORKS = {
    "completions": completions,
    "completions of one prompt": lambda m: completions(m, [max(PROMPTS, key=len)]),
    "logits": lambda m: score_last(m, PROMPTS, CONDITIONS, lambda x: x, batch_tokens=BATCH),
    "change": lambda m: score_change(
        m, PROMPTS, CONDITIONS, lambda r: r.logits(1) - r.clean(1), batch_tokens=BATCH
    ),
    "losses": lambda m: cross_entropy(m, PROMPTS, CONDITIONS, batch_tokens=BATCH),
    "activations": lambda m: collect(
        m, PROMPTS, [Site(1, "resid_post")], "all", batch_tokens=BATCH
    )[0][Site(1, "resid_post")],
}


def bursting(monkeypatch, model, tokens):
    """Let the model's passes hold so many tokens, and count those that do not."""
    whole, burst = model.decoder.forward, []

    def forward(input_ids, *rest, **more):
        if input_ids.numel() > tokens:
            burst.append(input_ids.numel())
            raise torch.OutOfMemoryError("planted")
        return whole(input_ids, *rest, **more)

    monkeypatch.setattr(model.decoder, "forward", forward)
    return burst


@pytest.mark.parametrize("work", WORKS)
def test_a_batch_that_bursts_is_run_in_parts_from_there_on(work, monkeypatch, caplog):
    model = tiny("llama")
    monkeypatch.setattr(model, "parts", 1)
    expected = WORKS[work](model)
    burst = bursting(monkeypatch, model, 40)
    found = WORKS[work](model)
    if work.startswith("completions"):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.parts > 1 and len(burst) == len(caplog.messages) > 0
    assert caplog.messages[0].startswith("memory ran out: batches have a half of model.batch_tok")
    burst.clear()
    WORKS[work](model)
    assert not burst


def test_what_no_part_is_small_enough_for_is_raised(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model, "parts", 1)
    bursting(monkeypatch, model, 0)
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        completions(model)


def test_what_a_batch_held_is_free_before_a_smaller_one_is_tried(monkeypatch):
    model, earlier = tiny("llama"), []
    monkeypatch.setattr(model, "parts", 1)

    def run(parts):
        assert not any(batch() for batch in earlier)
        batch = torch.zeros(1)
        earlier.append(weakref.ref(batch))
        if parts < 4:
            raise torch.OutOfMemoryError
        return parts

    assert in_parts(model, run) == 4
