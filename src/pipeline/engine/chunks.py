"""How work is packed: a pure function of what is asked, so that every run packs alike.

A chunk is the unit of work and of resuming: a block of prompts times a group of conditions.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.engine.decoding import Decoding
from pipeline.model.loading import LanguageModel


@dataclass(frozen=True)
class Row:
    """One sequence of a batch: indexes of its condition and prompt, and which repeat it is."""

    condition: int
    prompt: int
    repeat: int


@dataclass(frozen=True)
class Chunk:
    """Rows in the order they run, at most `slots` at a time: as some end, others enter."""

    number: int
    rows: tuple[Row, ...]
    slots: int


_WAVES = 4
"""Rows of a chunk for each that runs at a time: enough to enter, and little to lose."""

_CONDITIONS = 4
"""A block is as small as lets this many conditions of it be held at a time, to share its clean run
and pad less."""

_PASS = 1024
"""Tokens of a pass on a CPU: of more, what an operation leaves is in no cache, and lies in memory
that the system hands out anew each time."""

_READ = 512
"""The same where prompts are only read: as fast, and short ones are padded less."""

CHUNK_TOKENS = 1024
"""Tokens of a chunk of prompts that are only read; several conditions of it may run in a pass."""


def plan(
    n_conditions: int,
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    new_tokens: int = 0,
    repeats: int = 1,
) -> list[Chunk]:
    """Pack conditions x prompts x repeats into chunks whose rows hold `batch_tokens` at a time.

    Prompts are taken in order of length. A row counts as the longest sequence of its block,
    `new_tokens` included; a single row over the budget runs alone. The keys and values of a block's
    clean run, which its conditions share, come on top: a quarter of that at most where there are
    four conditions or more.

    Raises:
        ValueError: `batch_tokens` below 1, or no condition.
    """
    _check_any(n_conditions)
    return list(
        _packed(range(n_conditions), lengths, batch_tokens, new_tokens=new_tokens, repeats=repeats)
    )


def plan_decodings(
    decodings: Sequence[Decoding], lengths: Sequence[int], *, batch_tokens: int
) -> list[Chunk]:
    """Pack conditions as `plan` does, those of one decoding together; each has one of `decodings`.

    Raises:
        ValueError: `batch_tokens` below 1, or no condition.
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
    """Chunks of these conditions, numbered from `first`."""
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
    """The same rows as chunks that hold a part of the tokens at a time: fewer prompts and slots."""
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
    """Tokens of a block of prompts, of which several conditions are held at a time.

    Raises:
        ValueError: `batch_tokens` below 1.
    """
    _check(batch_tokens)
    return max(1, batch_tokens // min(_CONDITIONS, n_conditions))


def blocks(
    lengths: Sequence[int], batch_tokens: int, *, new_tokens: int = 0, repeats: int = 1
) -> Iterator[list[int]]:
    """Prompts by length, cut where the padded block would pass the budget."""
    _check(batch_tokens)
    block: list[int] = []
    for prompt in sorted(range(len(lengths)), key=lambda p: (lengths[p], p)):
        # In order of length, the newcomer is the longest.
        cost = (len(block) + 1) * repeats * (lengths[prompt] + new_tokens)
        if block and cost > batch_tokens:
            yield block
            block = []
        block.append(prompt)
    if block:
        yield block


def passes(model: LanguageModel, lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Prompts of each pass that reads them, on a CPU of at most 512 tokens.

    Of 100 prompts of 16 to 64 tokens, pads are 8 % then, and 15 % in passes of 1024.
    """
    return list(blocks(lengths, _at_most(_READ, model, batch_tokens)))


def pass_tokens(model: LanguageModel, batch_tokens: int) -> int:
    """Tokens of a pass of conditions, at most the budget.

    On a CPU 1024: more are slower there (a base model over 500 prompts: 13.1 s, at 4096 16.6 s),
    fewer as well where rows of a block compute one token each (60 conditions: 4.9 s, at 512 6.2 s).
    """
    return _at_most(_PASS, model, batch_tokens)


def _at_most(tokens: int, model: LanguageModel, batch_tokens: int) -> int:
    return min(batch_tokens, tokens) if model.device.type == "cpu" else batch_tokens


def _check_any(n_conditions: int) -> None:
    if n_conditions < 1:
        raise ValueError("there is no condition to run; an unedited one is `Condition()`")


def _check(batch_tokens: int) -> None:
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens {batch_tokens} must be at least 1")
