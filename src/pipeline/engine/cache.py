"""Keys and values of rows that leave and enter, and that grow by a token at a time."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 32
"""Tokens that there is memory for behind those that are held, where rows are decoded."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one block [rows, head, pos, width], with room behind them.

    Transformers' own layer copies all it holds with every token; this one when the room is full.

    Args:
        keys: memory for keys, of which the first `held` positions are in use.
        values: the same.
        held: number of tokens.
    """

    def __init__(self, keys: Tensor, values: Tensor, held: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._memory = (keys, values)
        self._show(held)

    def _show(self, held: int) -> None:
        self.keys, self.values = (memory[:, :, :held] for memory in self._memory)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens; returns all."""
        held = self.get_seq_length()
        tokens = held + key_states.shape[2]
        keys, values = self._memory
        if tokens > keys.shape[2]:
            room = tokens - held + _ROOM
            keys, values = (_aligned([states], held, room) for states in (self.keys, self.values))
            self._memory = keys, values
        keys[:, :, held:tokens] = key_states
        values[:, :, held:tokens] = value_states
        self._show(tokens)
        return self.keys, self.values


def cache_of(layers: Iterable[DynamicLayer]) -> DynamicCache:
    """A cache that has these layers."""
    cache = DynamicCache()
    cache.layers.extend(layers)
    return cache


def view(layer: DynamicLayer, held: int) -> DynamicLayer:
    """The first tokens of a layer, not copied."""
    seen = DynamicLayer()
    seen.lazy_initialization(layer.keys, layer.values)
    seen.keys, seen.values = layer.keys[:, :, :held], layer.values[:, :, :held]
    return seen


def selected(
    layer: DynamicLayer,
    index: Int[Tensor, " rows"],
    positions: slice = slice(None),
    *,
    room: int = _ROOM,
) -> GrowingLayer:
    """Copies of rows of a layer, of these positions, with room for so many more.

    By `index_select`, which on a CPU is eight times as fast as brackets.
    """

    def taken(states: Tensor) -> Tensor:
        own = states[:, :, positions]
        memory = _memory(own, len(index), own.shape[2] + room)
        torch.index_select(own, 0, index.to(own.device), out=memory[:, :, : own.shape[2]])
        return memory

    held = layer.keys[:, :, positions].shape[2]
    return GrowingLayer(taken(layer.keys), taken(layer.values), held)


def joined(layers: Sequence[DynamicLayer]) -> GrowingLayer:
    """The rows of all, the shorter ones behind zeros."""
    held = max(layer.get_seq_length() for layer in layers)
    keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
    return GrowingLayer(_aligned(keys, held, _ROOM), _aligned(values, held, _ROOM), held)


def _memory(
    like: Float[Tensor, "_ head _ width"], rows: int, tokens: int
) -> Float[Tensor, "rows head tokens width"]:
    return like.new_empty(rows, like.shape[1], tokens, like.shape[3])


def _aligned(parts: Sequence[Tensor], end: int, room: int) -> Tensor:
    """The rows of all parts, each part's last token before `end`, with room behind."""
    memory = _memory(parts[0], sum(map(len, parts)), end + room)
    for rows, part in zip(memory.split([len(part) for part in parts]), parts, strict=True):
        begin = end - part.shape[2]
        # Pads are masked, which hides any number but nan.
        rows[:, :, :begin] = 0
        rows[:, :, begin:end] = part
    return memory
