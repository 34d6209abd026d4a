"""Starting at the first layer and position touched, against the naive loop, and what it saves."""

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny

from pipeline.engine import scoring
from pipeline.engine.cache import GrowingLayer
from pipeline.engine.conditions import Condition, Edit, PromptPositions
from pipeline.engine.edit_table import EditTable
from pipeline.engine.restart import BaseRun
from pipeline.engine.scoring import cross_entropy, score_last
from pipeline.methods.interventions import Add, ProjectOut, Replace
from pipeline.model.sites import Site
from pipeline.model.starting import starting_at

PROMPTS = random_prompts(5, seed=3)
OWN = PromptPositions("own", [tuple(range(n % 3, len(p))) for n, p in enumerate(PROMPTS)])


def vector(seed: int) -> torch.Tensor:
    return 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def edits(*edits) -> Condition:
    return Condition(edits=tuple(Edit(Site(*site), how, rule) for site, how, rule in edits))


CONDITIONS = [
    Condition(),
    *(
        edits(((layer, "resid_pre"), Add(vector(layer)), rule))
        for layer in range(LAYERS)
        for rule in ("all", "after_first", "last", (-3, -1), (1,), OWN)
    ),
    edits(
        ((2, "resid_post"), Replace(vector(7)), (-2,)), ((1, "resid_pre"), Add(vector(8)), "last")
    ),
    edits(((3, "resid_post"), ProjectOut(vector(9)), "last")),
]


def count_tokens(model) -> tuple[list[int], list]:
    """Tokens that each block computes from now on, and the handles that stop counting."""
    counts = [0] * len(model.blocks)

    def counting(layer):
        def hook(module, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            counts[layer] += hidden.shape[0] * hidden.shape[1]

        return hook

    handles = [
        block.register_forward_pre_hook(counting(layer), with_kwargs=True)
        for layer, block in enumerate(model.blocks)
    ]
    return counts, handles


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_logits_of_the_naive_loop(family):
    model = tiny(family)
    scores = score_last(model, PROMPTS, CONDITIONS, lambda x: x, batch_tokens=150)
    for c, condition in enumerate(CONDITIONS):
        for p, prompt in enumerate(PROMPTS):
            _, logits = naive.generate(model, prompt, condition, 1, p)
            tolerance = 1e-5 * max(1.0, float(logits.abs().max()))
            assert (scores[c, p] - logits[0]).abs().max() <= tolerance, (condition, p)


@pytest.mark.parametrize("site", [(2, "resid_pre"), (1, "resid_post")])
def test_only_what_an_edit_can_change_is_computed(site):
    """One clean run of the prompts, and behind it one token per row from the edited stream on."""
    model = tiny("llama")
    conditions = [edits((site, Add(vector(n)), "last")) for n in range(6)]
    counts, handles = count_tokens(model)
    score_last(model, PROMPTS, [Condition(), *conditions], lambda x: x, batch_tokens=10**6)
    for handle in handles:
        handle.remove()
    clean = len(PROMPTS) * max(map(len, PROMPTS))
    restarted = clean + len(PROMPTS) * len(conditions)
    assert counts == [clean, clean, restarted, restarted]


def test_the_last_output_and_the_baseline_need_no_block_again():
    model = tiny("llama")
    behind = edits(((LAYERS - 1, "resid_post"), Add(vector(1)), "all"))
    counts, handles = count_tokens(model)
    score_last(model, PROMPTS, [Condition(), behind], lambda x: x, batch_tokens=10**6)
    cross_entropy(model, PROMPTS, [Condition(), behind], batch_tokens=10**6)
    for handle in handles:
        handle.remove()
    assert counts == [2 * len(PROMPTS) * max(map(len, PROMPTS))] * LAYERS


def test_conditions_that_start_with_the_model_need_no_clean_run():
    model = tiny("llama")
    counts, handles = count_tokens(model)
    everywhere = edits(((0, "resid_pre"), Add(vector(1)), "all"))
    score_last(model, PROMPTS, [everywhere], lambda x: x, batch_tokens=10**6)
    for handle in handles:
        handle.remove()
    assert counts == [len(PROMPTS) * max(map(len, PROMPTS))] * LAYERS


def test_decoding_grows_in_place_with_and_without_a_clean_run():
    model, everywhere = tiny("llama"), edits(((0, "resid_pre"), Add(vector(1)), "all"))
    for conditions in ([everywhere], [everywhere, Condition()]):
        table = EditTable(model, conditions)
        prefix = BaseRun(model, PROMPTS, range(5), table)
        for owner, start in prefix.starts.items():
            with torch.inference_mode():
                _, cache = prefix.restart(start, [owner] * 2, [0, 3])
                prefix.fill_cache(cache, start, [0, 3])
            assert len(cache.layers) == LAYERS
            for layer in cache.layers:
                assert isinstance(layer, GrowingLayer)
                assert layer.keys.shape[:3:2] == (2, prefix.width)


def test_a_start_is_the_first_layer_and_column_that_an_edit_changes():
    width = max(map(len, PROMPTS))
    generated = edits(((0, "resid_pre"), Add(vector(1)), "generated"))
    model, conditions = tiny("llama"), [*CONDITIONS[:6], *CONDITIONS[-2:], generated]
    found = BaseRun(model, PROMPTS, range(5), EditTable(model, conditions))
    assert list(found.starts.values()) == [
        (LAYERS, width),
        (0, 0),
        (0, 1),
        (0, width - 1),
        (0, width - 3),
        (0, 1),
        (1, width - 2),
        (LAYERS, width - 1),
        (LAYERS, width),
    ]


def test_blocks_are_put_back_after_an_error():
    model = tiny("llama")
    before = list(model.blocks)
    with pytest.raises(RuntimeError), starting_at(model, 3, torch.zeros(1, 2, WIDTH)):
        assert list(model.blocks)[:3] != before[:3]
        raise RuntimeError
    assert all(a is b for a, b in zip(model.blocks, before, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_cross_entropy_is_that_of_the_naive_loop_and_holds_few_logits(family, monkeypatch):
    monkeypatch.setattr(scoring, "_UNEMBEDDED", 7)
    model = tiny(family)
    conditions = [
        Condition(),
        edits(((2, "resid_pre"), Add(vector(1)), "all")),
        edits(((1, "resid_post"), ProjectOut(vector(2)), "generated")),
        edits(((LAYERS - 1, "resid_post"), ProjectOut(vector(5)), "generated")),
        edits(
            ((3, "resid_post"), Add(vector(3)), "all"), ((0, "resid_pre"), Add(vector(4)), "last")
        ),
    ]
    sizes = []
    handle = model.hf.get_output_embeddings().register_forward_hook(
        lambda module, args, output: sizes.append(output.shape[:-1].numel())
    )
    losses = cross_entropy(model, PROMPTS, conditions, batch_tokens=100)
    handle.remove()
    assert max(sizes) <= 7
    for c, condition in enumerate(conditions):
        for p, prompt in enumerate(PROMPTS):
            logits = naive.logits(model, prompt, condition, prompt_length=1)
            expected = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(prompt[1:]))
            assert losses[c, p] == pytest.approx(float(expected), abs=1e-5), (condition, p)
