"""Run a model from the residual stream at the input of one of its blocks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.loading import LanguageModel


@contextmanager
def starting_at(
    model: LanguageModel, layer: int, hidden: Float[Tensor, "batch pos d_model"]
) -> Iterator[None]:
    """Run only the blocks from `layer` on, with `hidden` as the residual stream at its input.

    `layer` must be at least 1. At `n_layers` only the final norm and the unembedding run.
    """
    skipped = list(model.blocks[:layer])
    precomputed = _Precomputed(hidden)
    try:
        for index in range(layer):
            model.blocks[index] = precomputed
        yield
    finally:
        for index, block in enumerate(skipped):
            model.blocks[index] = block


class _Precomputed(nn.Module):
    """Replaces a block and returns a precomputed residual stream."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.hidden
