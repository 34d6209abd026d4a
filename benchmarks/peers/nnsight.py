"""Traced passes by nnsight.

It reads the source of what stands in a `with` and runs that within the model, so that nothing can
be returned from inside.
"""

# ruff: noqa: RET504

import copy
import functools
from typing import Any

from torch import Tensor

from benchmarks.peers.plain import Steered, inputs
from pipeline.model.loading import LanguageModel


def residuals(model: LanguageModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Each block's output at the last token [batch, d_model]."""
    traced = _traced(model)
    with traced.trace(inputs(ids, mask)):
        kept: Any = [block.output[:, -1] for block in traced.model.layers]
        found = kept.save()
    return found


def residuals_alone(model: LanguageModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """The same, and the pass ends before the logits."""
    traced = _traced(model)
    with traced.trace(inputs(ids, mask)) as tracer:
        kept: Any = [block.output[:, -1] for block in traced.model.layers]
        found = kept.save()
        tracer.stop()
    return found


def logits(model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str) -> Tensor:
    """Logits after the last token [batch, vocab]."""
    traced = _traced(model)
    layer, vector = steered
    at = {"all": slice(None), "last": slice(-1, None)}[rule]
    with traced.trace(inputs(ids, mask), logits_to_keep=1):
        traced.model.layers[layer].output[:, at] += vector
        found = traced.output.logits[:, -1].save()
    return found


def tokens(
    model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str, new: int
) -> Tensor:
    """Greedy tokens [batch, new tokens]."""
    traced = _traced(model)
    layer, vector = steered
    first = {"all": 0, "generated": 1}[rule]
    given = {"input_ids": ids, "attention_mask": mask}
    settings: dict[str, Any] = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    with traced.generate(given, **settings) as tracer:
        for _ in tracer.iter[first:new]:
            traced.model.layers[layer].output[:] += vector
        found = tracer.result.save()
    return found[:, ids.shape[1] :]


# Wraps a copy, since it hooks all modules of what it is given.
@functools.lru_cache(maxsize=1)
def _traced(model: LanguageModel) -> Any:
    from nnsight import TransformersModel

    return TransformersModel(
        copy.deepcopy(model.hf), tokenizer=model.tokenizer, task="text-generation"
    )
