"""Read the next-token distribution after each prompt."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.config.declared import OneOrMore
from pipeline.engine.chunks import passes
from pipeline.engine.limits import check_context
from pipeline.engine.memory import in_batches
from pipeline.model.hooks import run_to_logits
from pipeline.model.loading import LanguageModel


def next_tokens(
    model: LanguageModel, prompts: pd.DataFrame, *, top: OneOrMore = 10
) -> pd.DataFrame:
    """Tabulate the most likely tokens after each prompt, with the entropy of the distribution.

    p = softmax(logits) in float64, entropy = -Σ p log p over the vocabulary, in nats.

    Args:
        model: the model.
        prompts: a dataset with `sample`, `label`, `split`, `topic` and `tokens`.
        top: tokens per prompt.

    Returns:
        One row per sample and rank, 1 the most likely: `sample`, `label`, `split`, `topic`,
        `rank`, `token`, `piece` (the token's text), `probability`, `entropy`.

    Raises:
        ValueError: `top` below 1 or above the vocabulary, or a prompt longer than the context.
    """
    vocabulary = model.config.vocab_size
    if not 1 <= top <= vocabulary:
        raise ValueError(f"top = {top} tokens; valid: 1 to {vocabulary}")
    tokens = [[int(token) for token in row] for row in prompts["tokens"]]
    check_context(model, tokens)
    probabilities, ids, entropies = in_batches(
        model, model.batch_tokens, partial(_distributions, model, tokens, top)
    )
    samples = prompts[["sample", "label", "split", "topic"]]
    return (
        samples.iloc[np.repeat(np.arange(len(samples)), top)]
        .assign(
            rank=np.tile(np.arange(1, top + 1), len(samples)),
            token=ids.flatten().numpy(),
            piece=[model.piece(token) for token in ids.flatten().tolist()],
            probability=probabilities.flatten().numpy(),
            entropy=entropies.repeat_interleave(top).numpy(),
        )
        .reset_index(drop=True)
    )


def _distributions(
    model: LanguageModel, prompts: Sequence[Sequence[int]], top: int, batch_tokens: int
) -> tuple[Float64[Tensor, "prompts top"], Tensor, Float64[Tensor, " prompts"]]:
    probabilities = torch.empty(len(prompts), top, dtype=torch.float64)
    ids = torch.empty(len(prompts), top, dtype=torch.long)
    entropies = torch.empty(len(prompts), dtype=torch.float64)
    for block in passes(model, [len(prompt) for prompt in prompts], batch_tokens):
        rows, mask = model.pad([prompts[number] for number in block])
        with torch.inference_mode():
            logits = run_to_logits(model, rows, mask)[:, -1]
            p = logits.double().softmax(-1)
            best = p.topk(top)
            probabilities[block], ids[block] = best.values.cpu(), best.indices.cpu()
            entropies[block] = torch.special.entr(p).sum(-1).cpu()
    return probabilities, ids, entropies
