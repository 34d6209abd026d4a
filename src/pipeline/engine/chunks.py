"""How work is packed: a pure function of what is asked, so that every run packs alike.

A chunk is the unit of work and of resuming: a block of prompts times a group of conditions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One sequence of a batch: indexes of its condition and prompt, and which repeat it is."""

    condition: int
    prompt: int
    repeat: int


@dataclass(frozen=True)
class Chunk:
    """Rows that run as one batch."""

    number: int
    rows: tuple[Row, ...]


def plan(
    n_conditions: int,
    lengths: Sequence[int],
    *,
    batch_tokens: int,
    new_tokens: int = 0,
    repeats: int = 1,
) -> list[Chunk]:
    """Pack conditions x prompts x repeats into chunks of at most `batch_tokens` tokens.

    Prompts are taken in order of length; a chunk's tokens are its rows times its longest sequence,
    `new_tokens` included. A single row over the budget is a chunk of its own.

    Raises:
        ValueError: `batch_tokens` below 1.
    """
    chunks: list[Chunk] = []
    for block in blocks(lengths, batch_tokens, new_tokens=new_tokens, repeats=repeats):
        cost = len(block) * repeats * (max(lengths[p] for p in block) + new_tokens)
        group = max(1, batch_tokens // cost)
        for start in range(0, n_conditions, group):
            rows = tuple(
                Row(condition, prompt, repeat)
                for condition in range(start, min(start + group, n_conditions))
                for prompt in block
                for repeat in range(repeats)
            )
            chunks.append(Chunk(len(chunks), rows))
    return chunks


def blocks(
    lengths: Sequence[int], batch_tokens: int, *, new_tokens: int = 0, repeats: int = 1
) -> Iterator[list[int]]:
    """Prompts by length, cut where the padded block would pass the budget."""
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens {batch_tokens} must be at least 1")
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
