"""Hooked passes by steering-vectors."""

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from benchmarks.peers.plain import Steered, decode, inputs
from pipeline.model.loading import LanguageModel


def logits(model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str) -> Tensor:
    """Logits after the last token [batch, vocab]."""
    with _applied(model, steered, rule):
        return model.hf(**inputs(ids, mask), logits_to_keep=1).logits[:, -1]


def tokens(
    model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str, new: int
) -> Tensor:
    """Greedy tokens [batch, new tokens]."""
    with _applied(model, steered, rule):
        return decode(model, ids, mask, new)


def _applied(model: LanguageModel, steered: Steered, rule: str) -> AbstractContextManager[Any]:
    from steering_vectors import SteeringVector

    layer, vector = steered
    at = {"all": slice(None), "last": [-1]}[rule]
    return SteeringVector({layer: vector}).apply(model.hf, token_indices=at, min_token_index=None)
