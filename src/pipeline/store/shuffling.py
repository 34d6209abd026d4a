"""Rows of a store in random order, without loading it."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pipeline.store.store import ActivationStore

PIECE = 32
"""Rows that are read in one go: few enough to mix, enough for a disk to read forward."""


def shuffled_batches(
    store: ActivationStore,
    sites: Sequence[str],
    kept: Bool[np.ndarray, " rows"],
    *,
    batch_rows: int,
    buffer_rows: int,
    seed: int,
) -> Iterator[dict[str, Tensor]]:
    """Every kept row once, in float32, in batches of several sites' activations [rows, width].

    Memory holds one buffer of all sites; each batch has `batch_rows` rows, the last one what is
    left. The order is `shuffled_rows`'.
    """
    left: dict[str, Tensor] = {}
    for rows in shuffled_rows(np.flatnonzero(kept), buffer_rows=buffer_rows, seed=seed):
        # Shards are read forward; the shuffle is made by taking batches out of order.
        ordered = np.sort(rows)
        places = torch.from_numpy(np.searchsorted(ordered, rows))
        buffer = {site: store[site][ordered] for site in sites}
        begun = len(left[sites[0]]) if left else 0
        start = 0
        while start + batch_rows - begun <= len(rows):
            taken = places[start : start + batch_rows - begun]
            batch = {site: buffer[site][taken].float() for site in sites}
            yield {s: torch.cat([left[s], x]) for s, x in batch.items()} if begun else batch
            start, begun = start + len(taken), 0
        rest = {site: buffer[site][places[start:]].float() for site in sites}
        left = {s: torch.cat([left[s], x]) for s, x in rest.items()} if begun else rest
        # Before the next is read: two would be held otherwise.
        del buffer
    if left and len(left[sites[0]]):
        yield left


def shuffled_rows(
    rows: Int[np.ndarray, " rows"], *, buffer_rows: int, seed: int
) -> Iterator[Int[np.ndarray, " buffer"]]:
    """Row numbers of one buffer after the other, shuffled.

    The rows are cut into pieces of `PIECE` consecutive ones; pieces are drawn at random from the
    whole store, hence from many shards, until the buffer is full; its rows are then shuffled.

    Raises:
        ValueError: a buffer smaller than two pieces, in which nothing would mix.
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
