"""What a work costs at least, by arithmetic, and what the machine could do in a second."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.model.loading import DTYPES, LanguageModel


@dataclass(frozen=True)
class Rates:
    """Measured on this machine: of one large product of matrices, and of summing a large array."""

    flop_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Need:
    """Operations that a work cannot do without, and bytes that have to be read from memory."""

    flop: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        """The least time: as long as the slower of both takes, the other hidden behind it."""
        return max(self.flop / rates.flop_per_second, self.bytes / rates.bytes_per_second)


def forward_need(model: LanguageModel, tokens: float, logits: int, passes: int = 1) -> Need:
    """Two operations for each weight and token, and the weights read once in each pass.

    Attention's own products (under 5 % at these lengths) and norms are left out.

    Args:
        model: the model.
        tokens: that run through all blocks, or as many parts of blocks.
        logits: tokens whose logits are computed.
        passes: over the model, if as many tokens as possible run at once.
    """
    blocks = sum(weight.numel() for weight in model.blocks.parameters())
    head = model.hf.lm_head.weight.numel() if logits else 0
    return Need(
        flop=2 * (blocks * tokens + head * logits),
        bytes=(blocks + head) * passes * model.dtype.itemsize,
    )


def decoding_need(
    model: LanguageModel, prefilled: float, rows: int, prompt: float, new: float
) -> Need:
    """The same for completions, and the keys and values read at each step.

    Args:
        model: the model.
        prefilled: tokens of prompts that run through all blocks.
        rows: completions.
        prompt: mean length of a prompt.
        new: mean length of a completion; its last token is not fed.
    """
    steps = max(new - 1, 0)
    need = forward_need(model, prefilled + rows * steps, int(rows * new), passes=int(new))
    each = 2 * model.config.num_key_value_heads * model.config.head_dim * model.n_layers
    read = rows * steps * (prompt + max(steps - 1, 0) / 2) * each * model.dtype.itemsize
    return Need(need.flop, need.bytes + read)


@functools.cache
def rates(device: str, dtype: str) -> Rates:
    """The best of five tries each, after one that is not counted.

    The matrices are as wide as lets a product take 50 ms, and at most 8192: processors that have no
    instructions for bfloat16 multiply it fifty times as slowly as float32.
    """
    width = 256
    while width < 8192 and _best(_product(width, device, dtype), device) < 0.05:
        width *= 2
    array = torch.ones(2**26, device=device)
    return Rates(
        flop_per_second=2 * width**3 / _best(_product(width, device, dtype), device),
        bytes_per_second=array.nbytes / _best(array.sum, device),
    )


def _product(width: int, device: str, dtype: str) -> Callable[[], torch.Tensor]:
    matrix = torch.randn(width, width, device=device, dtype=DTYPES[dtype])
    return lambda: matrix @ matrix


def _best(run: Callable[[], Any], device: str) -> float:
    return min([_seconds(run, device) for _ in range(6)][1:])


def _seconds(run: Callable[[], Any], device: str) -> float:
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
