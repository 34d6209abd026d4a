"""What a peer's functions are repeated by: batches of prompts, one condition after the other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.plain import Steered, Update, decode, inputs
from pipeline.engine.chunks import passes
from pipeline.model.loading import LanguageModel

Prompts = Sequence[list[int]]
Residuals = Callable[[LanguageModel, Tensor, Tensor], list[Tensor]]


def residuals(
    model: LanguageModel,
    prompts: Prompts,
    size: int,
    of: Residuals,
) -> dict[str, Tensor]:
    """Each block's output at each prompt's last token, `size` prompts at a time in their order."""
    with torch.inference_mode():
        parts = [
            of(model, *model.pad(prompts[first : first + size]))
            for first in range(0, len(prompts), size)
        ]
    layers = zip(*parts, strict=True)
    return {f"blocks.{n}.resid_post": torch.cat(values) for n, values in enumerate(layers)}


def scores(
    model: LanguageModel,
    prompts: Prompts,
    steered: Sequence[Steered],
    rule: str,
    of: Callable[[LanguageModel, Tensor, Tensor, Steered, str], Tensor],
) -> Tensor:
    """Logits after the last token [conditions, prompts, vocab], one hooked pass per condition."""
    ids, mask = model.pad(prompts)
    with torch.inference_mode():
        return torch.stack([of(model, ids, mask, one, rule) for one in steered])


def changed(
    model: LanguageModel,
    prompts: Prompts,
    changes: Sequence[Any],
    of: Callable[[LanguageModel, Tensor, Tensor, Any], Tensor],
) -> Tensor:
    """Logits after the last token [changes, prompts, vocab], one hooked pass per change."""
    ids, mask = model.pad(prompts)
    with torch.inference_mode():
        return torch.stack([of(model, ids, mask, change) for change in changes])


def updated(
    model: LanguageModel,
    updates: Sequence[tuple[Update, Prompts]],
    of: Callable[[LanguageModel, Tensor, Tensor, Update], Tensor],
) -> Tensor:
    """Logits after the last token [updates, prompts, vocab] of each update's own prompts."""
    with torch.inference_mode():
        return torch.stack([of(model, *model.pad(prompts), update) for update, prompts in updates])


def completions(
    model: LanguageModel,
    prompts: Prompts,
    steered: Sequence[Steered],
    rule: str,
    new: int,
    of: Callable[[LanguageModel, Tensor, Tensor, Steered, str, int], Tensor],
) -> list[list[int]]:
    """Greedy tokens of every prompt under every condition, one hooked `generate` per condition."""
    ids, mask = model.pad(prompts)
    with torch.inference_mode():
        return [row for one in steered for row in of(model, ids, mask, one, rule, new).tolist()]


def unhooked(model: LanguageModel, prompts: Prompts, new: int) -> list[list[int]]:
    """Greedy tokens of every prompt, by one batched `generate`."""
    ids, mask = model.pad(prompts)
    with torch.inference_mode():
        return decode(model, ids, mask, new).tolist()


def base_forward(model: LanguageModel, prompts: Prompts, batch_tokens: int) -> None:
    """The base model over the engine's batches and nothing else: what collection cannot beat."""
    with torch.inference_mode():
        for block in passes(model, [len(p) for p in prompts], batch_tokens):
            ids, mask = model.pad([prompts[p] for p in block])
            model.decoder(**inputs(ids, mask), use_cache=False)
