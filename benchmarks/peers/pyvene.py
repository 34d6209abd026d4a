"""Collecting and adding interventions by pyvene; its wrapped model is kept from batch to batch."""

import functools
from typing import Any

from torch import Tensor

from benchmarks.peers.plain import Steered, inputs
from pipeline.model.loading import LanguageModel


def residuals(model: LanguageModel, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Each block's output at the last token [batch, d_model]."""
    collecting = _collecting(model)
    (_, found), _ = collecting(inputs(ids, mask), unit_locations={"base": ids.shape[1] - 1})
    return [value.squeeze(1) for value in found]


def logits(model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str) -> Tensor:
    """Logits after the last token [batch, vocab]."""
    at: dict[str, Any] = {"all": None, "last": {"base": ids.shape[1] - 1}}
    given = {**inputs(ids, mask), "logits_to_keep": 1}
    _, out = _adding(model, *steered)(given, unit_locations=at[rule])
    return out.logits[:, -1]


def tokens(
    model: LanguageModel, ids: Tensor, mask: Tensor, steered: Steered, rule: str, new: int
) -> Tensor:
    """Greedy tokens [batch, new tokens]."""
    # Told to act on the prompt and given no place in it, it acts everywhere; else after the prompt.
    _, out = _adding(model, *steered).generate(
        {"input_ids": ids, "attention_mask": mask},
        intervene_on_prompt=rule == "all",
        max_new_tokens=new,
        do_sample=False,
        pad_token_id=0,
    )
    return out[:, ids.shape[1] :]


@functools.lru_cache(maxsize=1)
def _collecting(model: LanguageModel) -> Any:
    import pyvene

    at = [
        {
            "layer": layer,
            "component": "block_output",
            "intervention_type": pyvene.CollectIntervention,
        }
        for layer in range(model.n_layers)
    ]
    return pyvene.IntervenableModel(at, model.hf)


@functools.lru_cache(maxsize=1)
def _adding(model: LanguageModel, layer: int, vector: Tensor) -> Any:
    import pyvene

    return pyvene.IntervenableModel(
        {
            "layer": layer,
            "component": "block_output",
            "intervention_type": pyvene.AdditionIntervention,
            "source_representation": vector,
        },
        model.hf,
    )
