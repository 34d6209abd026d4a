"""Batches in parts, once the device's memory has not held a whole one."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from pipeline.model.loading import LanguageModel

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MOST = 256
"""Parts after which it is not the batch that is too large."""


def in_parts(model: LanguageModel, run: Callable[[int], T]) -> T:
    """What `run` makes when it divides its batches into `model.parts`: twice as many if they burst.

    The model keeps the number for what it runs next. Rows that are packed in another way are the
    same up to rounding, not to the byte.

    Raises:
        torch.OutOfMemoryError: a 256th of a batch is too large as well.
    """
    while True:
        try:
            return run(model.parts)
        except torch.OutOfMemoryError:
            if model.parts == _MOST:
                raise
        # Only behind that clause nothing holds on to what the batch held.
        model.parts *= 2
        logger.warning(
            "memory ran out: batches have a %s of model.batch_tokens from here on, and results are "
            "those of whole ones up to rounding",
            "half" if model.parts == 2 else f"{model.parts}th",
        )


def in_batches(model: LanguageModel, batch_tokens: int, run: Callable[[int], T]) -> T:
    """What `run` makes, given how many tokens its batches may have: half as many if they burst."""
    return in_parts(model, lambda parts: run(batch_tokens // parts or 1))
