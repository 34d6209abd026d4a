"""Completions of every prompt under every condition."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from pipeline.engine.chunks import Chunk, plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding, choose, row_keys
from pipeline.engine.edit_table import EditTable
from pipeline.model.hooks import positions, visiting
from pipeline.model.loading import LanguageModel


@dataclass(frozen=True)
class Completion:
    """What one row became: tokens without the one that ended it, and `stopped` = end or length."""

    condition: int
    prompt: int
    repeat: int
    tokens: tuple[int, ...]
    text: str
    stopped: str


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
    batch_tokens: int = 16384,
) -> list[Completion]:
    """Complete every prompt under every condition, ordered by (condition, prompt, repeat).

    Raises:
        ValueError: a site the model does not have, a sequence longer than its context, or an edit
            that never touched a token.
    """
    chunks = plan(
        len(conditions),
        [len(prompt) for prompt in prompts],
        batch_tokens=batch_tokens,
        new_tokens=decoding.max_new_tokens,
        repeats=decoding.repeats,
    )
    done = [
        completion
        for chunk in chunks
        for completion in generate_chunk(
            model, prompts, conditions, chunk, decoding, seed=seed, samples=range(len(prompts))
        )
    ]
    return sorted(done, key=lambda c: (c.condition, c.prompt, c.repeat))


def generate_chunk(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    chunk: Chunk,
    decoding: Decoding,
    *,
    seed: int,
    samples: Sequence[int],
) -> list[Completion]:
    """Complete the rows of one chunk.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        conditions: all conditions.
        chunk: the rows to run.
        decoding: how.
        seed: of the sampling noise.
        samples: each prompt's number in the noise, so that a subset meets the noise of the whole.
    """
    check_context(model, prompts, decoding.max_new_tokens)
    rows = chunk.rows
    used = sorted({row.condition for row in rows})
    table = EditTable(model, [conditions[c] for c in used])
    owners = [used.index(row.condition) for row in rows]
    lengths = torch.tensor([len(prompts[row.prompt]) for row in rows], device=model.device)
    numbers = torch.tensor([row.prompt for row in rows], device=model.device)
    ids, mask = model.pad([prompts[row.prompt] for row in rows])
    keys = row_keys(seed, [samples[r.prompt] for r in rows], [r.repeat for r in rows])
    keys = keys.to(model.device)
    ends = torch.tensor(sorted(model.end_tokens), device=model.device)
    tokens: list[list[int]] = [[] for _ in rows]
    stopped = ["length"] * len(rows)
    alive = torch.arange(len(rows))
    cache = DynamicCache()
    with torch.inference_mode(), visiting(model, table.visits):
        table.set_rows(owners, lengths, numbers)
        for step in range(decoding.max_new_tokens):
            logits = _forward(model, table, ids, mask, cache)
            chosen = choose(logits, decoding, keys, torch.tensor([step]))
            ended = torch.isin(chosen, ends).cpu()
            for row, token, end in zip(
                alive.tolist(), chosen.tolist(), ended.tolist(), strict=True
            ):
                if end:
                    stopped[row] = "end"
                else:
                    tokens[row].append(token)
            if ended.all() or step + 1 == decoding.max_new_tokens:
                break
            if ended.any():
                stay = (~ended).nonzero()[:, 0]
                alive = alive[stay]
                keep = stay.to(model.device)
                chosen, keys, mask = chosen[keep], keys[keep], mask[keep]
                mask = _leave(cache, stay, mask)
                table.set_rows([owners[r] for r in alive.tolist()], lengths[alive], numbers[alive])
            ids = chosen[:, None]
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
    went_on = {owner for owner, t in zip(owners, tokens, strict=True) if t}
    table.check_fired(ended_at_once=set(owners) - went_on)
    return [
        Completion(r.condition, r.prompt, r.repeat, tuple(t), model.decode(t), end)
        for r, t, end in zip(rows, tokens, stopped, strict=True)
    ]


def check_context(model: LanguageModel, prompts: Sequence[Sequence[int]], new: int = 0) -> None:
    """Fail before the model runs if a sequence would not fit into its context."""
    limit = model.config.max_position_embeddings
    longest = max(map(len, prompts)) + new
    if longest > limit:
        raise ValueError(
            f"{longest} tokens (prompt and completion) pass the context of {model.name}: {limit}"
        )


def _forward(
    model: LanguageModel, table: EditTable, ids: Tensor, mask: Tensor, cache: DynamicCache
) -> Tensor:
    fed = ids.shape[1]
    absolute = positions(mask)
    table.set_positions(absolute.masked_fill(mask == 0, -1)[:, -fed:])
    return model.hf(
        ids,
        attention_mask=mask,
        position_ids=absolute[:, -fed:],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _leave(cache: DynamicCache, keep: Tensor, mask: Tensor) -> Tensor:
    """Drop the rows that ended, and the pads that all remaining rows begin with."""
    cache.batch_select_indices(keep)
    pads = int(mask.argmax(1).min())
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, pads:], layer.values[:, :, pads:]
    return mask[:, pads:]
