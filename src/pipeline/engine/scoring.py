"""Scores of prompts under conditions from one forward pass each; logits are never kept."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.edit_table import EditTable
from pipeline.engine.generation import check_context
from pipeline.model.hooks import positions, visiting
from pipeline.model.loading import LanguageModel

Measure = Callable[[Tensor, Tensor], Tensor]
"""From logits [rows, vocab] after each row's last token, and its prompt's number, to scores."""


def score_last(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    measure: Measure,
    *,
    batch_tokens: int,
) -> Float[Tensor, "conditions prompts ..."]:
    """Reduce the logits after each prompt's last token to scores, under every condition."""

    def reduce(logits: Tensor, ids: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        return measure(logits[:, -1], numbers)

    return _run(model, prompts, conditions, reduce, logits_to_keep=1, batch_tokens=batch_tokens)


def cross_entropy(
    model: LanguageModel,
    texts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    *,
    batch_tokens: int,
) -> Float[Tensor, "conditions texts"]:
    """Mean negative log-probability of each text's tokens, in nats per token, the first left out.

    To position rules the first token is the prompt and the rest is generated.
    """

    def reduce(logits: Tensor, ids: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
        logs = logits[:, :-1].float().log_softmax(-1)
        losses = -logs.gather(-1, ids[:, 1:, None])[..., 0]
        inside = (mask[:, 1:] * mask[:, :-1]).float()
        return (losses * inside).sum(1) / inside.sum(1)

    if min(map(len, texts)) < 2:
        raise ValueError("a text of fewer than 2 tokens has no cross-entropy")
    return _run(
        model,
        texts,
        conditions,
        reduce,
        prompt_length=1,
        logits_to_keep=0,
        batch_tokens=batch_tokens,
    )


def _run(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    reduce: Callable[[Tensor, Tensor, Tensor, Int[Tensor, " rows"]], Tensor],
    *,
    logits_to_keep: int,
    batch_tokens: int,
    prompt_length: int | None = None,
) -> Tensor:
    check_context(model, prompts)
    lengths = [len(prompt) for prompt in prompts]
    results: list[list[Tensor | None]] = [[None] * len(prompts) for _ in conditions]
    for chunk in plan(len(conditions), lengths, batch_tokens=batch_tokens):
        used = sorted({row.condition for row in chunk.rows})
        table = EditTable(model, [conditions[c] for c in used])
        ids, mask = model.pad([prompts[row.prompt] for row in chunk.rows])
        absolute = positions(mask)
        numbers = torch.tensor([row.prompt for row in chunk.rows], device=model.device)
        own = [prompt_length or lengths[row.prompt] for row in chunk.rows]
        with torch.inference_mode(), visiting(model, table.visits):
            table.set_rows(
                [used.index(row.condition) for row in chunk.rows],
                torch.tensor(own, device=model.device),
                numbers,
            )
            table.set_positions(absolute.masked_fill(mask == 0, -1))
            logits = model.hf(
                ids,
                attention_mask=mask,
                position_ids=absolute,
                use_cache=False,
                logits_to_keep=logits_to_keep,
            ).logits
            scores = reduce(logits, ids, mask, numbers).cpu()
        table.check_fired()
        for row, score in zip(chunk.rows, scores, strict=True):
            results[row.condition][row.prompt] = score
    return torch.stack([torch.stack([s for s in row if s is not None]) for row in results])
