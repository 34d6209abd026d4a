"""The down projection, its input and output side by side; changes of rank one in its weights."""

import copy

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny

from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.edit_table import EditTable
from pipeline.engine.generation import generate
from pipeline.engine.restart import BaseRun
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add, RankOne, Replace
from pipeline.model.hooks import read
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import direct_logits

PROMPTS = random_prompts(5)
STEPS = 4
OWN = PromptPositions("own", [tuple(range(n % 3, len(p))) for n, p in enumerate(PROMPTS)])


def normal(*shape: int, seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rank_one(model: LanguageModel, seed: int) -> RankOne:
    neurons = model.width(Site(0, "mlp_act"))
    return RankOne(normal(neurons, seed=seed), normal(WIDTH, seed=seed + 100))


def at(layer: int, intervention, rule="all") -> Condition:
    return Condition(edits=(Edit(Site(layer, "mlp_down"), intervention, rule),))


def with_weights(model: LanguageModel, layer: int, edit: RankOne) -> LanguageModel:
    """A copy of the model whose weights are really changed."""
    changed = LanguageModel(copy.deepcopy(model.hf), model.tokenizer, name=model.name)
    projection, _ = changed.module_of(Site(layer, "mlp_act"))
    update = torch.outer(edit.delta, edit.u)
    transposed = projection.__class__.__name__ == "Conv1D"
    projection.weight.data += update.T if transposed else update
    return changed


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rank_one_edit_is_a_change_of_the_weights(family):
    model = tiny(family)
    edits = [(layer, rank_one(model, 2 * layer + n)) for layer in range(LAYERS) for n in range(2)]
    conditions = [Condition(), *(at(layer, edit) for layer, edit in edits)]
    scores = score_last(model, PROMPTS, conditions, lambda x: x, batch_tokens=300)
    done = generate(model, PROMPTS, conditions, Decoding(STEPS), batch_tokens=300)
    tokens = {(c.condition, c.prompt): c.tokens for c in done}
    rows = []
    for number, (layer, edit) in enumerate(edits, 1):
        changed = with_weights(model, layer, edit)
        for p, prompt in enumerate(PROMPTS):
            expected, logits = naive.generate(changed, prompt, Condition(), STEPS)
            rows.append(((number, p), tokens[number, p], expected, logits))
            tolerance = 1e-5 * max(1.0, float(logits[0].abs().max()))
            assert (scores[number, p] - logits[0]).abs().max() <= tolerance, (number, p)
        assert not torch.allclose(scores[number], scores[0], atol=1e-2)
    naive.assert_same(rows)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox", "olmo2"])
def test_edits_of_the_projection_at_some_tokens_are_the_naive_loop(family):
    """In rank one and in other ways, and in two layers at once."""
    model = tiny(family)
    width = model.width(Site(1, "mlp_down"))
    each = PerPrompt(normal(len(PROMPTS), WIDTH, seed=4))
    conditions = [
        Condition(),
        at(1, rank_one(model, 1), "last"),
        at(2, rank_one(model, 2), OWN),
        at(3, rank_one(model, 3), "generated"),
        at(1, RankOne(rank_one(model, 1).u, each), OWN),
        at(1, Add(normal(width, seed=5))),
        at(2, Replace(normal(width, seed=6)), (0, -2)),
        Condition(edits=at(1, rank_one(model, 4)).edits + at(3, rank_one(model, 5)).edits),
    ]
    rows = []
    for done in generate(model, PROMPTS, conditions, Decoding(STEPS), batch_tokens=200):
        condition = conditions[done.condition]
        if done.condition == 4:
            condition = at(1, RankOne(rank_one(model, 1).u, each.of[done.prompt]), OWN)
        expected = naive.generate(model, PROMPTS[done.prompt], condition, STEPS, done.prompt)
        rows.append(((done.condition, done.prompt), done.tokens, *expected))
    naive.assert_same(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_read_as_what_goes_in_and_what_comes_out(family):
    model = tiny(family)
    ids, mask = model.pad(PROMPTS[:1])
    site, neurons = Site(2, "mlp_down"), Site(2, "mlp_act")
    values = read(model, [site, neurons], ids, mask)
    inputs, outputs = values[site].tensor_split([model.width(neurons)], -1)
    projection, _ = model.module_of(neurons)
    assert torch.equal(inputs, values[neurons])
    torch.testing.assert_close(outputs, projection(inputs), atol=1e-5, rtol=1e-5)


def test_it_is_collected_in_its_width():
    model = tiny("gemma2")
    sites = [Site(1, component) for component in ("mlp_act", "mlp_down")]
    values, rows = collect(model, PROMPTS, sites, "last", batch_tokens=40)
    assert values[sites[1]].shape == (len(rows), 48 + WIDTH)
    torch.testing.assert_close(values[sites[1]][:, :48], values[sites[0]])


def test_its_block_is_the_first_that_changes():
    model = tiny("llama")
    table = EditTable(model, [at(2, rank_one(model, 1), "last"), at(0, rank_one(model, 1))])
    width = max(map(len, PROMPTS))
    starts = BaseRun(model, PROMPTS, range(5), table).starts
    assert list(starts.values()) == [(2, width - 1), (0, 0)]


def test_what_does_not_fit_is_refused_before_the_model_runs(monkeypatch):
    model = tiny("llama")
    edit = rank_one(model, 1)
    monkeypatch.setattr(model.hf, "forward", None)
    wrong = {
        r"blocks\.1\.mlp_out: a change of rank one is made at mlp_down": (edit, "mlp_out"),
        r"u is 32 wide, at blocks\.1\.mlp_down it must be 48": (
            RankOne(edit.delta, edit.delta),
            "mlp_down",
        ),
        r"delta is 48 wide, at blocks\.1\.mlp_down it must be 32": (
            RankOne(edit.u, edit.u),
            "mlp_down",
        ),
        r"direction is 32 wide, at blocks\.1\.mlp_down it must be 80": (
            Add(edit.delta),
            "mlp_down",
        ),
    }
    for message, (intervention, component) in wrong.items():
        condition = Condition(edits=(Edit(Site(1, component), intervention),))
        with pytest.raises(ValueError, match=message):
            score_last(model, PROMPTS, [condition], lambda x: x, batch_tokens=100)
    with pytest.raises(ValueError, match="only z has heads and only mlp_act has neurons"):
        Site(1, "mlp_down", 3)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp_down: directions of a projection's"):
        direct_logits(model, Site(1, "mlp_down"), torch.zeros(80))
