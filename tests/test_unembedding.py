"""Directions through the final norm and the unembedding, against hand-set weights and gradients."""

import copy

import pytest
import torch
from families import FAMILIES, LAYERS, VOCAB, WIDTH, random_prompts, tiny, tokenizer

from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.starting import starting_at
from pipeline.model.unembedding import direct_logits

STREAM = Site(2, "resid_post")


def own(family: str) -> LanguageModel:
    """A copy whose norms have scales of their own, and whose logits are not capped."""
    hf = copy.deepcopy(tiny(family).hf)
    torch.manual_seed(1)
    for name, parameter in hf.named_parameters():
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.data.normal_(0.5, 0.3)
    hf.config.get_text_config().final_logit_softcapping = None
    return LanguageModel(hf, tokenizer(), name=family)


def centred(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(-1, keepdim=True)


def test_a_hand_set_unembedding_gives_the_norms_scale():
    """Token i reads dimension i: the logit is the scale there, less a 200th for all tokens."""
    model = own("llama")
    model.hf.lm_head.weight.data = torch.eye(VOCAB)[:, :WIDTH]
    scale = model.hf.model.norm.weight.data
    found = direct_logits(model, STREAM, torch.eye(WIDTH))
    expected = torch.zeros(WIDTH, VOCAB)
    expected[:, :WIDTH] = torch.diag(scale)
    torch.testing.assert_close(found, expected - scale[:, None] / VOCAB)
    torch.testing.assert_close(direct_logits(model, STREAM, 3 * torch.eye(WIDTH)[5]), 3 * found[5])


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_change_the_models_own_logits_so(family):
    """At a right angle to the stream the norm's denominator stands still: its gradient is ours."""
    model, ids = own(family), torch.tensor([random_prompts(1)[0]])
    draw = torch.Generator().manual_seed(2)
    x, direction = torch.randn(2, WIDTH, generator=draw)
    centring = family in ("gpt2", "neox", "neox_serial")
    seen = x - x.mean() if centring else x
    direction = direction - (direction @ seen) / (seen @ seen) * seen

    def logits(stream: torch.Tensor) -> torch.Tensor:
        hidden = stream.expand(1, ids.shape[1], WIDTH)
        with starting_at(model, LAYERS, hidden):
            return model.hf(ids, use_cache=False).logits[0, -1]

    _, change = torch.autograd.functional.jvp(logits, x, direction)
    size = seen.square().mean().sqrt()
    found = direct_logits(model, STREAM, direction)
    torch.testing.assert_close(found, centred(change) * size, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "post"), [("llama", False), ("gemma2", True), ("gpt2", False)])
def test_what_heads_and_neurons_hold_goes_through_their_output_projection(family, post):
    model = own(family)
    block = model.blocks[1]
    modules = {
        "z": (block.attn.c_proj if family == "gpt2" else block.self_attn.o_proj, "attention"),
        "mlp_act": (block.mlp.c_proj if family == "gpt2" else block.mlp.down_proj, "feedforward"),
    }
    for component, (projection, name) in modules.items():
        site = Site(1, component)
        inputs = torch.eye(model.width(site))
        bias = getattr(projection, "bias", None)
        with torch.no_grad():
            written = projection(inputs) - (0 if bias is None else bias)
        if post:
            written = written * (1 + getattr(block, f"post_{name}_layernorm").weight)
        expected = direct_logits(model, Site(1, "resid_post"), written)
        torch.testing.assert_close(direct_logits(model, site, inputs), expected)


def test_wrong_places_are_named():
    model = tiny("llama")
    with pytest.raises(ValueError, match="has no layer 9"):
        direct_logits(model, Site(9, "resid_post"), torch.zeros(WIDTH))
    with pytest.raises(ValueError, match=r"blocks.1.z\[2\]: directions of single heads or neurons"):
        direct_logits(model, Site(1, "z", 2), torch.zeros(8))
    with pytest.raises(ValueError, match=r"directions are 31 wide, blocks.2\.resid_post is 32"):
        direct_logits(model, STREAM, torch.zeros(31))
