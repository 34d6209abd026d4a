"""Split batches into smaller parts after the device runs out of memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.model.loading import LanguageModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST = 256
"""Most parts of a batch: if such a small one does not fit, the batch size is not the cause."""


def in_parts(model: LanguageModel, run: Callable[[int], T]) -> T:
    """Call `run` with `model.parts`, doubling the number of parts while memory runs out.

    The model keeps the number for later batches. Rows that are packed differently give the same
    results up to rounding, not bit for bit.

    Raises:
        torch.OutOfMemoryError: a 256th of a batch does not fit either.
    """
    while True:
        try:
            return run(model.parts)
        except torch.OutOfMemoryError:
            if model.parts == _MOST:
                raise
        # Outside the except clause, so that the traceback no longer holds the batch's tensors.
        model.parts *= 2
        logger.warning(
            "memory ran out: batches have a %s of model.batch_tokens from now on; results are the "
            "same up to rounding",
            "half" if model.parts == 2 else f"{model.parts}th",
        )


def in_batches(model: LanguageModel, batch_tokens: int, run: Callable[[int], T]) -> T:
    """Call `run` with a token budget per batch, halving it while memory runs out."""
    return in_parts(model, lambda parts: run(batch_tokens // parts or 1))
