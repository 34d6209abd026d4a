"""The same work as a loop of hooked passes, in plain transformers or with another library."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.chunks import blocks
from pipeline.model.hooks import positions
from pipeline.model.loading import LanguageModel

Steered = tuple[int, Tensor]
"""The block whose output is changed, and what is added to it."""

Hooked = Callable[[LanguageModel, Steered, str], AbstractContextManager[Any]]


@contextmanager
def plain_hook(model: LanguageModel, steered: Steered, rule: str) -> Iterator[None]:
    """Add at `all` positions, at the `last` of the prompt, or at those `generated` one by one."""
    layer, vector = steered

    def hook(module: Any, args: Any, output: Tensor) -> Tensor | None:
        if rule == "generated" and output.shape[1] > 1:
            return None
        if rule == "last":
            output[:, -1] += vector
            return output
        return output + vector

    handle = model.blocks[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def steering_vectors_hook(
    model: LanguageModel, steered: Steered, rule: str
) -> AbstractContextManager[Any]:
    """The same with steering-vectors' own hooks."""
    from steering_vectors import SteeringVector

    layer, vector = steered
    at = {"all": slice(None), "last": [-1]}[rule]
    return SteeringVector({layer: vector}).apply(model.hf, token_indices=at, min_token_index=None)


def hooked(rule: str) -> tuple[dict[str, Hooked], list[str]]:
    """The ways to hook that this environment has, and what it lacks."""
    found: dict[str, Hooked] = {"transformers, plain hooks": plain_hook}
    if rule == "generated":
        return found, ["steering-vectors: has no rule for generated positions alone"]
    if find_spec("steering_vectors") is None:
        return found, ["steering-vectors: not installed, see benchmarks/requirements-peers.txt"]
    return {**found, "steering-vectors": steering_vectors_hook}, []


def scores(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    steered: Sequence[Steered],
    rule: str,
    how: Hooked,
) -> Tensor:
    """Logits after the last token [conditions, prompts, vocab], one hooked pass per condition."""
    ids, mask = model.pad(prompts)
    found = []
    with torch.inference_mode():
        for one in steered:
            with how(model, one, rule):
                out = model.hf(
                    ids, attention_mask=mask, position_ids=positions(mask), logits_to_keep=1
                )
                found.append(out.logits[:, -1])
    return torch.stack(found)


def completions(
    model: LanguageModel,
    prompts: Sequence[list[int]],
    steered: Sequence[Steered],
    rule: str,
    new_tokens: int,
    how: Hooked,
) -> list[list[int]]:
    """Greedy tokens of every prompt under every condition, one hooked `generate` per condition."""
    found = []
    for one in steered:
        with how(model, one, rule):
            found += decode(model, prompts, new_tokens)
    return found


def decode(model: LanguageModel, prompts: Sequence[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy tokens of every prompt, by transformers' own batched `generate`."""
    ids, mask = model.pad(prompts)
    with torch.inference_mode():
        out = model.hf.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return out[:, ids.shape[1] :].tolist()


def base_forward(model: LanguageModel, prompts: Sequence[list[int]], batch_tokens: int) -> None:
    """The base model over the same batches, and nothing else: what collection cannot beat."""
    with torch.inference_mode():
        for block in blocks([len(p) for p in prompts], batch_tokens):
            ids, mask = model.pad([prompts[p] for p in block])
            model.decoder(ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)


def hidden_states(
    model: LanguageModel, prompts: Sequence[list[int]], size: int
) -> dict[str, Tensor]:
    """Each block's output at each prompt's last token: hooks, prompts in their own order."""
    found: dict[str, list[Tensor]] = {f"blocks.{n}.resid_post": [] for n in range(model.n_layers)}

    def keeping(name: str) -> Callable[..., None]:
        return lambda module, args, output: found[name].append(output[:, -1].clone())

    handles = [
        block.register_forward_hook(keeping(f"blocks.{n}.resid_post"))
        for n, block in enumerate(model.blocks)
    ]
    with torch.inference_mode():
        for first in range(0, len(prompts), size):
            ids, mask = model.pad(prompts[first : first + size])
            model.hf(ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(values) for name, values in found.items()}
