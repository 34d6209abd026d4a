"""Read the rows of a store in random order, without loading all of it into memory."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.store.store import ActivationStore

PIECE = 32
"""Consecutive rows that are read together: few enough to mix, enough for sequential reads."""


def shuffled_batches(
    store: ActivationStore,
    sites: Sequence[str],
    kept: Bool[np.ndarray, " rows"],
    *,
    batch_rows: int,
    buffer_rows: int,
    seed: int,
) -> Iterator[dict[str, Tensor]]:
    """Yield every row of the mask `kept` once, in shuffled batches of activations by site.

    Batches are float32 [batch_rows, width] per site; the last one may be smaller. One buffer of all
    sites is in memory at a time. The order is that of `shuffled_rows`.
    """
    leftover: dict[str, Tensor] = {}
    for rows in shuffled_rows(np.flatnonzero(kept), buffer_rows=buffer_rows, seed=seed):
        # Read in ascending order, then shuffle in memory: sequential reads are faster.
        ascending = np.sort(rows)
        order = torch.from_numpy(np.searchsorted(ascending, rows))
        buffer = {site: store[site][ascending] for site in sites}
        n_leftover = len(leftover[sites[0]]) if leftover else 0
        start = 0
        while start + batch_rows - n_leftover <= len(rows):
            batch_order = order[start : start + batch_rows - n_leftover]
            batch = {site: buffer[site][batch_order].float() for site in sites}
            yield (
                {s: torch.cat([leftover[s], x]) for s, x in batch.items()} if n_leftover else batch
            )
            start, n_leftover = start + len(batch_order), 0
        tail = {site: buffer[site][order[start:]].float() for site in sites}
        leftover = {s: torch.cat([leftover[s], x]) for s, x in tail.items()} if n_leftover else tail
        # Free this buffer before the next one is read.
        del buffer
    if leftover and len(leftover[sites[0]]):
        yield leftover


def shuffled_rows(
    rows: Int[np.ndarray, " rows"], *, buffer_rows: int, seed: int
) -> Iterator[Int[np.ndarray, " buffer"]]:
    """Yield shuffled row numbers, one buffer at a time.

    Rows are split into pieces of `PIECE` consecutive rows. Pieces are drawn at random from the
    whole store, hence from many shards, until the buffer is full; then its rows are shuffled.

    Raises:
        ValueError: the buffer holds less than two pieces, so that rows would not mix.
    """
    if buffer_rows < 2 * PIECE:
        raise ValueError(f"buffer_rows {buffer_rows} must be at least {2 * PIECE}")
    rng = np.random.default_rng(seed)
    pieces = [rows[start : start + PIECE] for start in range(0, len(rows), PIECE)]
    order = rng.permutation(len(pieces))
    per_buffer = buffer_rows // PIECE
    for start in range(0, len(order), per_buffer):
        chosen = order[start : start + per_buffer]
        yield rng.permutation(np.concatenate([pieces[piece] for piece in chosen]))
