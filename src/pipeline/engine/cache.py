"""KV cache with preallocated memory, whose rows can be selected and concatenated."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 32
"""Tokens to preallocate beyond the current length while decoding."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one block [rows, head, pos, width], with spare capacity.

    `DynamicLayer` copies the whole cache for every token; this one only when it is full.

    Args:
        keys: memory for keys, of which the first `held` positions are in use.
        values: memory for values, in the same way.
        held: number of cached tokens.
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
        """Append keys and values of new tokens, and return all keys and values."""
        n_cached = self.get_seq_length()
        tokens = n_cached + key_states.shape[2]
        keys, values = self._memory
        if tokens > keys.shape[2]:
            room = tokens - n_cached + _ROOM
            keys, values = (
                _aligned([states], n_cached, room) for states in (self.keys, self.values)
            )
            self._memory = keys, values
        keys[:, :, n_cached:tokens] = key_states
        values[:, :, n_cached:tokens] = value_states
        self._show(tokens)
        return self.keys, self.values


def cache_of(layers: Iterable[DynamicLayer]) -> DynamicCache:
    """Build a KV cache from layers."""
    cache = DynamicCache()
    cache.layers.extend(layers)
    return cache


def view(layer: DynamicLayer, held: int) -> DynamicLayer:
    """Return the first `held` tokens of a layer, without a copy."""
    prefix = DynamicLayer()
    prefix.lazy_initialization(layer.keys, layer.values)
    prefix.keys, prefix.values = layer.keys[:, :, :held], layer.values[:, :, :held]
    return prefix


def selected(
    layer: DynamicLayer,
    index: Int[Tensor, " rows"],
    positions: slice = slice(None),
    *,
    room: int = _ROOM,
) -> GrowingLayer:
    """Copy rows and positions of a layer, with capacity for `room` more tokens.

    `index_select` is eight times as fast as indexing on a CPU.
    """

    def copied(states: Tensor) -> Tensor:
        sliced = states[:, :, positions]
        memory = _memory(sliced, len(index), sliced.shape[2] + room)
        torch.index_select(sliced, 0, index.to(sliced.device), out=memory[:, :, : sliced.shape[2]])
        return memory

    length = layer.keys[:, :, positions].shape[2]
    return GrowingLayer(copied(layer.keys), copied(layer.values), length)


def joined(layers: Sequence[DynamicLayer]) -> GrowingLayer:
    """Concatenate the rows of layers, left-padding the shorter ones with zeros."""
    length = max(layer.get_seq_length() for layer in layers)
    keys, values = [layer.keys for layer in layers], [layer.values for layer in layers]
    return GrowingLayer(_aligned(keys, length, _ROOM), _aligned(values, length, _ROOM), length)


def _memory(
    like: Float[Tensor, "_ head _ width"], rows: int, tokens: int
) -> Float[Tensor, "rows head tokens width"]:
    return like.new_empty(rows, like.shape[1], tokens, like.shape[3])


def _aligned(parts: Sequence[Tensor], end: int, room: int) -> Tensor:
    """Concatenate rows, right-aligned so that each part ends at `end`, with `room` after it."""
    memory = _memory(parts[0], sum(map(len, parts)), end + room)
    for rows, part in zip(memory.split([len(part) for part in parts]), parts, strict=True):
        begin = end - part.shape[2]
        # The attention mask hides any padding value except NaN.
        rows[:, :, :begin] = 0
        rows[:, :, begin:end] = part
    return memory
