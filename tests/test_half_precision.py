"""Edits in bfloat16 and float16 against the same rounded weights in float32."""

import copy
import functools

import pytest
import torch
from families import FAMILIES, WIDTH, random_prompts, tiny

from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PromptPositions
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add, ProjectOut, Replace
from pipeline.model.hooks import with_hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

PROMPTS = random_prompts(6, seed=11)
HALVES = [torch.bfloat16, torch.float16]


@functools.cache
def pair(family: str, dtype: torch.dtype) -> tuple[LanguageModel, LanguageModel]:
    """A model in half precision, and its weights in float32."""
    half = copy.deepcopy(tiny(family).hf).to(dtype)
    whole = copy.deepcopy(half).float()
    return LanguageModel(half, None, name=family), LanguageModel(whole, None, name=family)


def vector() -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", HALVES)
def test_edited_logits_stay_near_single_precision(family, dtype):
    """Packed together, left-padded: within 5 roundings (3.9 % and 0.5 %) of the largest logit."""
    own = PromptPositions("own", [(n % 3, len(p) - 1) for n, p in enumerate(PROMPTS)])
    conditions = [
        Condition(edits=(Edit(Site(1, component), intervention, rule),))
        for component in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        for intervention in (Add(vector(), 2.0), ProjectOut(vector()), Replace(vector()))
        for rule in ("all", "last", own)
    ]
    low, high = (
        score_last(model, PROMPTS, [Condition(), *conditions], lambda x: x, batch_tokens=10**6)
        for model in pair(family, dtype)
    )
    most = 5 * torch.finfo(dtype).eps * high.abs().amax((1, 2))
    assert ((low.float() - high).abs().amax((1, 2)) <= most).all()
    assert (high[1:] != high[0]).flatten(1).any(1).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", HALVES)
def test_strength_zero_leaves_every_bit(family, dtype):
    model, _ = pair(family, dtype)
    nothing = Condition(edits=(Edit(Site(1, "resid_post"), Add(vector(), 0.0)),))
    clean, edited = (
        score_last(model, PROMPTS, [condition], lambda x: x, batch_tokens=200)
        for condition in (Condition(), nothing)
    )
    assert clean.dtype == dtype
    assert torch.equal(clean, edited)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", HALVES)
def test_a_projection_taken_out_leaves_what_one_rounding_does(family, dtype):
    """|u.x| <= eps/2 |x|: the projection is in float32, and only its result is rounded."""
    model, _ = pair(family, dtype)
    unit = vector() / vector().norm()
    taken = Condition(edits=(Edit(Site(1, "resid_post"), ProjectOut(vector())),))
    seen: list[torch.Tensor] = []
    with with_hooks(model, {Site(2, "resid_pre"): seen.append}):
        score_last(model, PROMPTS, [taken], lambda x: x, batch_tokens=10**6)
    _, mask = model.pad(sorted(PROMPTS, key=len))
    # The clean run comes first.
    left = seen[-1][mask.bool()].float()
    bound = torch.finfo(dtype).eps / 2 * left.norm(dim=-1)
    assert ((left @ unit).abs() <= bound + 1e-6).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_collected_keeps_its_type(dtype):
    model, _ = pair("gemma2", dtype)
    values, _ = collect(model, PROMPTS, [Site(1, "z"), Site(2, "resid_post")], "all")
    assert {value.dtype for value in values.values()} == {dtype}
