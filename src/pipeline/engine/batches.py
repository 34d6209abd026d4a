"""Rows that are decoded together; they leave and others enter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from pipeline.engine.cache import cache_of, joined, selected
from pipeline.engine.edit_table import EditTable
from pipeline.model.hooks import positions
from pipeline.model.loading import LanguageModel


@dataclass
class Batch:
    """Left-padded rows between two steps.

    `rows` are their numbers in the chunk and `latest` their last tokens, which the cache does not
    hold yet; `mask` is that of the tokens it holds.
    """

    rows: list[int]
    latest: Int[Tensor, " rows"]
    mask: Int[Tensor, "rows pos"]
    cache: DynamicCache

    def step(self, model: LanguageModel, table: EditTable) -> Float[Tensor, "rows vocab"]:
        """Feed the last token of each row, and return the logits after it."""
        self.mask = pad(self.mask, (0, 1), value=1)
        absolute = positions(self.mask)[:, -1:]
        table.set_positions(absolute)
        return model.hf(
            self.latest[:, None],
            attention_mask=self.mask,
            position_ids=absolute,
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]

    def keep(self, stay: Sequence[int]) -> "Batch | None":
        """The rows at these indexes, without the pads that all of them begin with."""
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
    """One batch of the rows of all, the narrower ones padded on the left; None of none."""
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
