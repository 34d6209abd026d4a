"""Hooked passes in plain transformers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pipeline.model.hooks import token_positions
from pipeline.model.loading import LanguageModel

Steered = tuple[int, Tensor]
"""The block whose output is changed, and what is added to it."""


def inputs(ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What transformers' models take, with explicit positions as rows are padded on the left."""
    return {"input_ids": ids, "attention_mask": mask, "position_ids": token_positions(mask)}


def residuals(model: LanguageModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Each block's output at the last token [batch, d_model]."""
    found: list[Tensor] = []

    def keep(module: Any, args: Any, output: Tensor) -> None:
        found.append(output[:, -1].clone())

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    model.hf(**inputs(ids, mask), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def logits(model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str) -> Tensor:
    """Logits after the last token [batch, vocab]."""
    with adding(model, steered, rule):
        return model.hf(**inputs(ids, mask), logits_to_keep=1).logits[:, -1]


Neuron = tuple[int, int]
"""Layer and index of a neuron that is set to 0."""


def ablated(model: LanguageModel, ids: Tensor, mask: Tensor, neuron: Neuron) -> Tensor:
    """Logits after the last token [batch, vocab], where the neuron is set to 0."""
    layer, index = neuron

    def zero(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        hidden = args[0].clone()
        hidden[:, -1, index] = 0
        return (hidden,)

    projection = model.blocks[layer].get_submodule("mlp.down_proj")
    handle = projection.register_forward_pre_hook(zero)
    try:
        return model.hf(**inputs(ids, mask), logits_to_keep=1).logits[:, -1]
    finally:
        handle.remove()


def tokens(
    model: LanguageModel,
    ids: Tensor,
    mask: Tensor,
    steered: Steered,
    rule: str,
    new: int,
) -> Tensor:
    """Greedy tokens [batch, new tokens]."""
    with adding(model, steered, rule):
        return decode(model, ids, mask, new)


def decode(model: LanguageModel, ids: Tensor, mask: Tensor, new: int) -> Tensor:
    """Greedy tokens [batch, at most `new`] by transformers' batched `generate`, no hooks set."""
    settings: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    out = model.hf.generate(ids, attention_mask=mask, **settings)
    return out[:, ids.shape[1] :]


@contextmanager
def adding(model: LanguageModel, steered: Steered, rule: str) -> Iterator[None]:
    """Add at `all` positions, at the `last` of the prompt, or at those `generated` one by one."""
    layer, vector = steered
    at: dict[str, Callable[[Tensor], Tensor]] = {
        "all": lambda output: output + vector,
        "last": lambda output: torch.cat([output[:, :-1], output[:, -1:] + vector], 1),
        "generated": lambda output: output + vector if output.shape[1] == 1 else output,
    }
    handle = model.blocks[layer].register_forward_hook(lambda m, args, output: at[rule](output))
    try:
        yield
    finally:
        handle.remove()
