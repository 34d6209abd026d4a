"""Continuous batching: rows leave a decoding batch as they finish, and new rows join."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from pipeline.engine.cache import cache_of, joined, selected
from pipeline.engine.edit_table import EditTable
from pipeline.model.hooks import token_positions
from pipeline.model.loading import LanguageModel


@dataclass
class Batch:
    """State of left-padded rows between two decoding steps.

    Attributes:
        rows: index of each row in the chunk.
        latest: last token of each row, not yet in the KV cache.
        mask: attention mask of the tokens in the cache.
        cache: KV cache.
    """

    rows: list[int]
    latest: Int[Tensor, " rows"]
    mask: Int[Tensor, "rows pos"]
    cache: DynamicCache

    def step(self, model: LanguageModel, table: EditTable) -> Float[Tensor, "rows vocab"]:
        """Feed the last token of each row and return the next-token logits."""
        self.mask = pad(self.mask, (0, 1), value=1)
        absolute = token_positions(self.mask)[:, -1:]
        table.set_positions(absolute)
        return model.hf(
            self.latest[:, None],
            attention_mask=self.mask,
            position_ids=absolute,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]

    def keep(self, stay: Sequence[int]) -> "Batch | None":
        """Select rows by index and drop padding columns that they all share; None if no row."""
        if not stay or len(stay) == len(self.rows):
            return self if stay else None
        index = torch.tensor(stay)
        mask = self.mask[index]
        pads = int(mask.argmax(1).min())
        return Batch(
            rows=[self.rows[i] for i in stay],
            latest=self.latest[index],
            mask=mask[:, pads:],
            cache=cache_of(
                selected(layer, index, slice(pads, None)) for layer in self.cache.layers
            ),
        )


def join(batches: Sequence[Batch]) -> Batch | None:
    """Concatenate batches, left-padding the narrower ones; None if there is no batch."""
    if len(batches) < 2:
        return batches[0] if batches else None
    width = max(batch.mask.shape[1] for batch in batches)
    short = [width - batch.mask.shape[1] for batch in batches]
    return Batch(
        rows=[row for batch in batches for row in batch.rows],
        latest=torch.cat([batch.latest for batch in batches]),
        mask=torch.cat([pad(b.mask, (n, 0)) for b, n in zip(batches, short, strict=True)]),
        cache=cache_of(map(joined, zip(*(batch.cache.layers for batch in batches), strict=True))),
    )
