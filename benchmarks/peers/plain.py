"""Hooked passes in plain transformers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


@dataclass(frozen=True)
class Patch:
    """What an activation is set to at one token of each row.

    Attributes:
        layer: whose block's output it is, or attention's; -1: the embedding.
        columns: of the left-padded rows, from their end.
        values: [batch, width].
        head: whose output it is, before the output projection; None: the whole stream.
        added: whether the values are added instead.
    """

    layer: int
    columns: list[int]
    values: Tensor
    head: int | None = None
    added: bool = False

    def apply(self, hidden: Tensor) -> Tensor:
        """The activation [batch, pos, ...] with the patch."""
        rows, columns = torch.arange(len(hidden)), torch.tensor(self.columns) + hidden.shape[1]
        hidden = hidden.clone()
        hidden[rows, columns] = self.values + hidden[rows, columns] if self.added else self.values
        return hidden


def patched(model: LanguageModel, ids: Tensor, mask: Tensor, patches: Sequence[Patch]) -> Tensor:
    """Logits after the last token [batch, vocab], under all patches."""

    def stream(patch: Patch, module: Any, args: Any, output: Tensor) -> Tensor:
        return patch.apply(output)

    def head(patch: Patch, number: int, module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        width = patch.values.shape[-1]
        part = slice(number * width, (number + 1) * width)
        hidden = args[0].clone()
        hidden[..., part] = patch.apply(hidden[..., part])
        return (hidden,)

    handles = []
    for patch in patches:
        if patch.head is not None:
            projection = model.blocks[patch.layer].get_submodule("self_attn.o_proj")
            handles.append(projection.register_forward_pre_hook(partial(head, patch, patch.head)))
        else:
            embedding = model.hf.get_input_embeddings()
            module = embedding if patch.layer < 0 else model.blocks[patch.layer]
            handles.append(module.register_forward_hook(partial(stream, patch)))
    try:
        return model.hf(**inputs(ids, mask), logits_to_keep=1).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Update:
    """A rank-one update of a layer's down projection."""

    layer: int
    u: Tensor
    delta: Tensor


def updated(model: LanguageModel, ids: Tensor, mask: Tensor, update: Update) -> Tensor:
    """Logits after the last token [batch, vocab], with the weights edited and put back."""
    weight = model.blocks[update.layer].get_parameter("mlp.down_proj.weight").data
    before = weight.clone()
    weight += torch.outer(update.delta, update.u)
    try:
        return model.hf(**inputs(ids, mask), logits_to_keep=1).logits[:, -1]
    finally:
        weight.copy_(before)


def jacobian(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    positions: Sequence[int],
    layer: int,
    dimensions: Sequence[int],
) -> Tensor:
    """Rows of the mean over prompts of d(last state) / d(state), a backward pass for each row."""
    ids, mask = model.pad(prompts)
    columns = torch.tensor([at - len(p) for p, at in zip(prompts, positions, strict=True)])
    rows, states, outputs = torch.arange(len(ids)), [], []

    def begin(module: Any, args: Any, output: Tensor) -> Tensor:
        states.append(output.detach().requires_grad_())
        return states[0]

    def end(module: Any, args: Any, output: Tensor) -> None:
        outputs.append(output[:, -1])

    handles = [
        model.blocks[layer].register_forward_hook(begin),
        model.blocks[-1].register_forward_hook(end),
    ]
    try:
        with torch.enable_grad():
            model.decoder(**inputs(ids, mask), use_cache=False)
            gradients = [
                torch.autograd.grad(outputs[0][:, dimension].sum(), states[0], retain_graph=True)[0]
                for dimension in dimensions
            ]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([g[rows, columns].mean(0) for g in gradients])


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
