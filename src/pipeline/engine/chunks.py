"""Pack prompts and conditions into chunks and batches.

A chunk is a block of prompts times a group of conditions: the unit of work and of resuming.
Packing is a pure function of its arguments, so a resumed run gets the same chunks.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.engine.decoding import Decoding
from pipeline.model.loading import LanguageModel


@dataclass(frozen=True)
class Row:
    """One sequence of a batch, given by condition index, prompt index and repeat number."""

    condition: int
    prompt: int
    repeat: int


@dataclass(frozen=True)
class Chunk:
    """Rows in the order they run, at most `slots` at a time: new rows replace finished ones."""

    number: int
    rows: tuple[Row, ...]
    slots: int


_WAVES = 4
"""Rows of a chunk per slot: enough to refill slots, few enough to lose little in a crash."""

_CONDITIONS = 4
"""Conditions of a block that fit into a batch together: they share its clean run, and smaller
blocks need less padding."""

_PASS = 1024
"""Tokens of a forward pass on a CPU. In larger passes, results of an operation outgrow the CPU
cache and live in memory that the system allocates anew each time."""

_READ = 512
"""Tokens of a forward pass without decoding on a CPU: as fast as 1024, with less padding."""

CHUNK_TOKENS = 1024
"""Tokens of a chunk without decoding; one pass may run several conditions of it."""


def plan(
    n_conditions: int,
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    new_tokens: int = 0,
    repeats: int = 1,
) -> list[Chunk]:
    """Pack conditions x prompts x repeats into chunks that run `batch_tokens` at a time.

    Prompts are sorted by length. Every row is charged the padded length of its block plus
    `new_tokens`; a single row over the budget runs alone. The KV cache of the block's clean run,
    shared by its conditions, is not in the budget: it adds at most a quarter with four or more
    conditions.

    Raises:
        ValueError: `batch_tokens` is below 1, or there is no condition.
    """
    _check_any(n_conditions)
    return list(
        _packed(range(n_conditions), lengths, batch_tokens, new_tokens=new_tokens, repeats=repeats)
    )


def plan_decodings(
    decodings: Sequence[Decoding], lengths: Sequence[int], *, batch_tokens: int
) -> list[Chunk]:
    """Pack conditions as `plan` does, with one decoding per chunk.

    `decodings` has one entry per condition.

    Raises:
        ValueError: `batch_tokens` is below 1, or there is no condition.
    """
    _check_any(len(decodings))
    chunks: list[Chunk] = []
    for decoding in dict.fromkeys(decodings):
        chunks += _packed(
            [number for number, other in enumerate(decodings) if other == decoding],
            lengths,
            batch_tokens,
            new_tokens=decoding.max_new_tokens,
            repeats=decoding.repeats,
            first=len(chunks),
        )
    return chunks


def _packed(
    conditions: Sequence[int],
    lengths: Sequence[int],
    batch_tokens: int,
    *,
    new_tokens: int,
    repeats: int,
    first: int = 0,
) -> Iterator[Chunk]:
    """Yield the chunks of the given conditions, numbered from `first`."""
    number = itertools.count(first)
    share = block_tokens(batch_tokens, len(conditions))
    for block in blocks(lengths, share, new_tokens=new_tokens, repeats=repeats):
        slots = max(1, batch_tokens // (max(lengths[p] for p in block) + new_tokens))
        group = max(1, _WAVES * slots // (len(block) * repeats))
        for start in range(0, len(conditions), group):
            rows = tuple(
                Row(condition, prompt, repeat)
                for condition in conditions[start : start + group]
                for prompt in block
                for repeat in range(repeats)
            )
            yield Chunk(next(number), rows, slots)


def divided(chunk: Chunk, parts: int) -> list[Chunk]:
    """Split a chunk into smaller ones with 1 / `parts` of its prompts and slots each."""
    prompts = sorted({row.prompt for row in chunk.rows})
    size = math.ceil(len(prompts) / parts)
    slots = max(1, min(chunk.slots, len(chunk.rows)) // parts)
    return [
        Chunk(
            chunk.number,
            tuple(row for row in chunk.rows if row.prompt in prompts[first : first + size]),
            slots,
        )
        for first in range(0, len(prompts), size)
    ]


def block_tokens(batch_tokens: int, n_conditions: int) -> int:
    """Return the token budget of a block, so that up to four conditions of it fill a batch.

    Raises:
        ValueError: `batch_tokens` is below 1.
    """
    _check(batch_tokens)
    return max(1, batch_tokens // min(_CONDITIONS, n_conditions))


def blocks(
    lengths: Sequence[int], batch_tokens: int, *, new_tokens: int = 0, repeats: int = 1
) -> Iterator[list[int]]:
    """Sort prompts by length and split them where the padded block would exceed the budget."""
    _check(batch_tokens)
    block: list[int] = []
    for prompt in sorted(range(len(lengths)), key=lambda p: (lengths[p], p)):
        # Prompts are sorted by length: this one is the longest of its block.
        cost = (len(block) + 1) * repeats * (lengths[prompt] + new_tokens)
        if block and cost > batch_tokens:
            yield block
            block = []
        block.append(prompt)
    if block:
        yield block


def passes(model: LanguageModel, lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group prompts into forward passes without decoding, of at most 512 tokens on a CPU.

    With 100 prompts of 16 to 64 tokens, 8 % is padding; in passes of 1024 tokens it is 15 %.
    """
    return list(blocks(lengths, _at_most(_READ, model, batch_tokens)))


def pass_tokens(model: LanguageModel, batch_tokens: int) -> int:
    """Return the token budget of a forward pass under conditions: at most 1024 on a CPU.

    Larger passes are slower there (a base model over 500 prompts: 13.1 s, with 4096 tokens 16.6 s).
    So are smaller ones if each row computes one token (60 conditions: 4.9 s, with 512 6.2 s).
    """
    return _at_most(_PASS, model, batch_tokens)


def _at_most(tokens: int, model: LanguageModel, batch_tokens: int) -> int:
    return min(batch_tokens, tokens) if model.device.type == "cpu" else batch_tokens


def _check_any(n_conditions: int) -> None:
    if n_conditions < 1:
        raise ValueError("no condition to run; the unedited model is `Condition()`")


def _check(batch_tokens: int) -> None:
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens {batch_tokens} must be at least 1")
