"""Cached and hooked passes by TransformerLens.

Since its version 4 it wraps the transformers model itself. The weights stay as they are: no
compatibility mode, which would fold the norms and centre the weights.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from benchmarks.peers.plain import Neuron, Patch, Steered, inputs
from pipeline.model.loading import LanguageModel


def residuals(
    model: LanguageModel, ids: Tensor, mask: Tensor, *, stop: bool = False
) -> list[Tensor]:
    """Each block's output at the last token [batch, d_model]; `stop` spares the logits."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    given = inputs(ids, mask)
    _, cache = _bridge(model).run_with_cache(
        given.pop("input_ids"),
        names_filter=names,
        pos_slice=-1,
        stop_at_layer=model.n_layers if stop else None,
        **given,
    )
    return [cache[name].squeeze(1) for name in names]


def logits(model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str) -> Tensor:
    """Logits after the last token [batch, vocab]."""
    layer, vector = steered
    at = {"all": slice(None), "last": slice(-1, None)}[rule]

    def add(hidden: Tensor, hook: Any) -> Tensor:
        hidden[:, at] += vector
        return hidden

    return _hooked(model, ids, mask, f"blocks.{layer}.hook_resid_post", add)


def ablated(model: LanguageModel, ids: Tensor, mask: Tensor, neuron: Neuron) -> Tensor:
    """Logits after the last token [batch, vocab], where the neuron is set to 0."""
    layer, index = neuron

    def zero(hidden: Tensor, hook: Any) -> Tensor:
        hidden[:, -1, index] = 0
        return hidden

    return _hooked(model, ids, mask, f"blocks.{layer}.mlp.out.hook_in", zero)


def head(model: LanguageModel, ids: Tensor, mask: Tensor, patches: Sequence[Patch]) -> Tensor:
    """Logits after the last token [batch, vocab], with one head's output at it set to a value."""
    (patch,) = patches

    def put(hidden: Tensor, hook: Any) -> Tensor:
        hidden[:, -1, patch.head] = patch.values
        return hidden

    return _hooked(model, ids, mask, f"blocks.{patch.layer}.attn.o.hook_in", put)


def tokens(
    model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str, new: int
) -> Tensor:
    """Greedy tokens [batch, new tokens]."""
    layer, vector = steered

    def add(hidden: Tensor, hook: Any) -> Tensor:
        return hidden + vector if rule == "all" or hidden.shape[1] == 1 else hidden

    bridge = _bridge(model)
    with bridge.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)]):
        out = bridge.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            return_type="tokens",
            verbose=False,
        )
    return out[:, ids.shape[1] :]


def _hooked(
    model: LanguageModel, ids: Tensor, mask: Tensor, name: str, hook: Callable[..., Tensor]
) -> Tensor:
    given = inputs(ids, mask)
    out = _bridge(model).run_with_hooks(
        given.pop("input_ids"), fwd_hooks=[(name, hook)], logits_to_keep=1, **given
    )
    return out[:, -1]


# Wraps a copy, since the modules of what it is given are replaced.
@functools.lru_cache(maxsize=1)
def _bridge(model: LanguageModel) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        model.name, hf_model=copy.deepcopy(model.hf), tokenizer=model.tokenizer, dtype=model.dtype
    )
