"""Whatever the model, the prompts, the conditions and the packing: the naive loop's answers."""

from itertools import product

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, VOCAB, tiny
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate, generate_chunk
from pipeline.engine.scoring import score_change
from pipeline.methods.interventions import Add, ProjectOut, Replace, Subtract
from pipeline.model.sites import Site

STEPS = 4
SHORTEST = 3
bounded = settings(
    max_examples=5,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


def every_family(test):
    """The test for each family, each with cases of its own: hypothesis would draw all the same."""

    def own(family):
        seed(FAMILIES.index(family))(test)(family=family)

    return pytest.mark.parametrize("family", FAMILIES)(own)


# Blocks, width and weights. Conditions name a layer modulo the model's number of blocks.
shapes = st.tuples(st.integers(1, LAYERS), st.sampled_from([32, 48]), st.integers(0, 2))
packings = st.integers(1, 600)
some_prompts = st.lists(
    st.lists(st.integers(4, VOCAB - 1), min_size=SHORTEST, max_size=11), min_size=1, max_size=3
)
rules = st.one_of(
    st.sampled_from(["all", "after_first", "last", "generated"]),
    st.sets(st.integers(-SHORTEST, SHORTEST - 1), min_size=1).map(tuple),
)
kinds = st.sampled_from([Add, Subtract, ProjectOut, Replace])
components = st.sampled_from(["resid_pre", "resid_post", "attn_out", "mlp_out"])
strengths = st.sampled_from([-1.5, 0.5, 2.0])
# Plain values: what they mean is made of them in the tests.
edits = st.tuples(
    st.integers(0, LAYERS - 1), components, kinds, st.integers(0, 9), strengths, rules
)
grids = st.lists(st.lists(edits, max_size=3), min_size=1, max_size=3)


def direction(number: int, width: int) -> torch.Tensor:
    return 3 * torch.randn(width, generator=torch.Generator().manual_seed(number))


def conditions_of(grid, model) -> list[Condition]:
    def edit(layer, component, kind, number, strength, rule):
        vector = direction(number, model.d_model)
        how = Replace(vector) if kind is Replace else kind(vector, strength)
        return Edit(Site(layer % model.n_layers, component), how, rule)

    return [Condition(edits=tuple(edit(*drawn) for drawn in own)) for own in grid]


@every_family
@bounded
@given(shape=shapes, grid=grids, prompts=some_prompts, batch_tokens=packings)
def test_completions_and_scores_are_those_of_the_naive_loop(
    family, shape, grid, prompts, batch_tokens
):
    model = tiny(family, *shape)
    conditions = conditions_of(grid, model)
    expected = {
        (c, p): naive.generate(model, prompt, condition, STEPS)
        for (c, condition), (p, prompt) in product(enumerate(conditions), enumerate(prompts))
    }
    done = generate(model, prompts, conditions, Decoding(STEPS), batch_tokens=batch_tokens)
    assert [(c.condition, c.prompt) for c in done] == list(expected)
    naive.assert_same(
        [((c.condition, c.prompt), c.tokens, *expected[c.condition, c.prompt]) for c in done]
    )
    forward = {
        c: condition
        for c, condition in enumerate(conditions)
        if all(edit.positions != "generated" for edit in condition.edits)
    }
    if forward:
        scores = score_change(
            model,
            prompts,
            list(forward.values()),
            lambda read: torch.stack([read.logits(), read.clean()], 1),
            batch_tokens=batch_tokens,
        )
        for (row, c), (p, prompt) in product(enumerate(forward), enumerate(prompts)):
            clean = naive.logits(model, prompt, Condition(), len(prompt))[-1]
            for found, logits in zip(scores[row, p], (expected[c, p][1][0], clean), strict=True):
                tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
                assert (found - logits).abs().max() <= tolerance


@every_family
@bounded
@given(
    shape=shapes,
    grid=grids,
    prompts=some_prompts,
    one=packings,
    other=packings,
    random=st.randoms(use_true_random=False),
)
def test_sampled_tokens_are_the_same_in_every_order_and_packing(
    family, shape, grid, prompts, one, other, random
):
    model = tiny(family, *shape)
    conditions = conditions_of(grid, model)
    decoding = Decoding(STEPS, temperature=0.9, top_p=0.95, repeats=2)

    def sampled(order, samples, batch_tokens):
        asked = [prompts[s] for s in samples]
        lengths = [len(prompt) for prompt in asked]
        own = [conditions[c] for c in order]
        settings = {"batch_tokens": batch_tokens, "new_tokens": STEPS, "repeats": 2}
        return {
            (order[c.condition], samples[c.prompt], c.repeat): (c.tokens, c.stopped)
            for chunk in plan(len(own), lengths, **settings)
            for c in generate_chunk(model, asked, own, chunk, decoding, seed=1, samples=samples)
        }

    order, samples = list(range(len(conditions))), list(range(len(prompts)))
    plain = sampled(order, samples, one)
    random.shuffle(order)
    random.shuffle(samples)
    assert sampled(order, samples, other) == plain
    assert len(plain) == len(conditions) * len(prompts) * 2


@every_family
@bounded
@given(shape=shapes, prompts=some_prompts, batch_tokens=packings, edit=edits)
def test_strength_zero_is_the_baseline(family, shape, prompts, batch_tokens, edit):
    model = tiny(family, *shape)
    layer, _, kind, number, _, rule = edit
    assume(kind is not Replace)
    unmoved = kind(direction(number, model.d_model), 0.0)
    nothing = Edit(Site(layer % model.n_layers, "resid_pre"), unmoved, rule)
    conditions = [Condition(), Condition(edits=(nothing,))]
    for decoding in (Decoding(STEPS), Decoding(STEPS, temperature=1.0, repeats=2)):
        done = generate(model, prompts, conditions, decoding, batch_tokens=batch_tokens)
        half = len(done) // 2
        assert [c.tokens for c in done[:half]] == [c.tokens for c in done[half:]]
