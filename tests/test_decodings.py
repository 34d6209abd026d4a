"""Conditions that are decoded in other ways than the rest of their run."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, WIDTH, in_batches_of, random_prompts, tiny

from pipeline.engine.chunks import Chunk, plan, plan_decodings
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding, choose, row_keys
from pipeline.engine.generation import generate, generate_chunk
from pipeline.engine.sweeps import Part, complete
from pipeline.methods.interventions import Add
from pipeline.methods.prompting.decodings import forced_continuations
from pipeline.model.sites import Site

PROMPTS = random_prompts(5)
RUN = Decoding(4, temperature=1.0)
DECODINGS = [
    None,
    Decoding(4, temperature=1.0, forbidden=tuple(range(50, 200))),
    Decoding(7, temperature=0.5),
    Decoding(2),
    Decoding(4, temperature=1.0, top_p=0.4, repeats=3),
    Decoding(4, temperature=1.0, top_k=2),
]
EDITS = [
    (),
    *(
        (Edit(Site(layer, "resid_pre"), Add(torch.linspace(-2, 2, WIDTH)), rule),)
        for layer, rule in ((1, "last"), (2, "generated"))
    ),
]
CONDITIONS = [Condition(edits=edits, decoding=of) for edits, of in product(EDITS, DECODINGS)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_condition_is_decoded_as_in_a_run_by_itself(family):
    model = tiny(family)
    together = generate(model, PROMPTS, CONDITIONS, RUN, seed=3, batch_tokens=150)
    alone = [
        replace(completion, condition=number)
        for number, condition in enumerate(CONDITIONS)
        for completion in generate(
            model,
            PROMPTS,
            [replace(condition, decoding=None)],
            condition.decoding or RUN,
            seed=3,
            batch_tokens=150,
        )
    ]
    assert together == alone
    told = {number: c for number, c in enumerate(together) if CONDITIONS[c.condition].decoding}
    assert any(c.repeat == 2 for c in told.values())
    assert all(token < 50 for c in together if c.condition % 6 == 1 for token in c.tokens)


def test_the_plan_keeps_decodings_apart_and_covers_every_row_once():
    lengths = [5, 9, 2, 7, 30]
    decodings = [RUN, DECODINGS[2], RUN, DECODINGS[4], DECODINGS[2]]
    chunks = plan_decodings(decodings, lengths, batch_tokens=64)
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    rows = [(row.condition, row.prompt, row.repeat) for chunk in chunks for row in chunk.rows]
    assert len(rows) == len(set(rows))
    assert set(rows) == {
        (c, p, repeat)
        for c, decoding in enumerate(decodings)
        for p in range(5)
        for repeat in range(decoding.repeats)
    }
    assert all(len({decodings[row.condition] for row in chunk.rows}) == 1 for chunk in chunks)
    assert max(len({row.condition for row in chunk.rows}) for chunk in chunks) == 2


def test_conditions_of_one_decoding_are_packed_as_ever():
    lengths = [len(prompt) for prompt in PROMPTS]
    chunks = plan_decodings([RUN] * 4, lengths, batch_tokens=60)
    assert chunks == plan(4, lengths, batch_tokens=60, new_tokens=4)
    with pytest.raises(ValueError, match="no condition to run"):
        plan_decodings([], lengths, batch_tokens=60)


def test_a_chunk_of_two_decodings_is_refused():
    (first, second) = plan_decodings([RUN, DECODINGS[2]], [3], batch_tokens=100)
    both = Chunk(7, first.rows + second.rows, 2)
    conditions = [Condition(), Condition(decoding=DECODINGS[2])]
    with pytest.raises(ValueError, match="chunk 7 has rows of 2 decodings; valid: 1"):
        generate_chunk(tiny("llama"), [[5, 6, 7]], conditions, both, RUN, seed=0, samples=[0])


def test_limits_are_those_of_each_decoding(monkeypatch):
    model, edits = tiny("llama"), EDITS[2]
    generate(model, PROMPTS, [Condition(edits=edits, decoding=Decoding(2))], Decoding(1))
    monkeypatch.setattr(model.hf, "forward", None)
    with pytest.raises(ValueError, match="no sequence has positions 'generated'"):
        generate(model, PROMPTS, [Condition(edits=edits, decoding=Decoding(1))], Decoding(2))
    with pytest.raises(ValueError, match="exceed the context"):
        generate(model, PROMPTS, [Condition(), Condition(decoding=Decoding(10**6))])


def test_a_table_of_completions_has_each_conditions_own(tmp_path):
    frame = pd.DataFrame({"sample": range(5), "tokens": [np.array(p) for p in PROMPTS]})
    named = tuple(replace(c, axes={"number": n}) for n, c in enumerate(CONDITIONS))
    part = Part("arm", named, frame.assign(split="x"))
    table = complete(in_batches_of(60), [part], tmp_path, decoding=RUN, seed=3)
    number = table["condition"].map({c.id: c.axes["number"] for c in named})
    rows = table.assign(number=number).sort_values(["number", "sample", "repeat"])
    expected = generate(tiny("llama"), PROMPTS, CONDITIONS, RUN, seed=3)
    assert [tuple(tokens) for tokens in rows["tokens"]] == [c.tokens for c in expected]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_forced_tokens_take_the_place_of_an_end(temperature, monkeypatch):
    """As the plain loop: complete, put the tokens after it, and complete that prompt again."""
    model = tiny("llama")
    ends = frozenset(range(0, 200, 3))
    monkeypatch.setattr(type(model), "end_tokens", property(lambda _: ends))
    forced, longest = (100, 103), 12
    decoding = Decoding(longest, temperature=temperature, forced=forced, times=2)
    completions = generate(model, PROMPTS, [Condition(decoding=decoding)], seed=3, batch_tokens=90)
    keys = row_keys(3, list(range(len(PROMPTS))), [0] * len(PROMPTS))
    n_forced = 0
    for completion in completions:
        prompt, key = list(PROMPTS[completion.prompt]), keys[completion.prompt, None]
        tokens, left, stopped = [], 2, "length"
        while len(tokens) < longest:
            logits = model.hf(torch.tensor([prompt + tokens])).logits[0, -1:]
            token = int(choose(logits, decoding, key, torch.tensor([len(tokens)])))
            if token in ends and not left:
                stopped = "end"
                break
            if token in ends:
                left, n_forced = left - 1, n_forced + 1
                tokens += forced[: longest - len(tokens)]
            else:
                tokens.append(token)
        assert (list(completion.tokens), completion.stopped) == (tokens, stopped)
    assert n_forced > len(PROMPTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": []}, r"texts = \[\]; valid: one or more"),
        ({"texts": [""]}, "none empty"),
        ({"times": [0]}, r"times = \[0\]; valid: one or more, from 1 on"),
        ({"decoding": {"times": 1}}, "decoding: 'times' is unknown"),
    ],
)
def test_wrong_continuations_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        list(
            forced_continuations(
                tiny("llama"), **{"texts": [" a"], "times": [1], "decoding": {}, **options}
            )
        )
