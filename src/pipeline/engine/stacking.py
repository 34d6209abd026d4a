"""Stack the interventions of many rows into one, with rows as the first axis of each field."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Fitted, Intervention, PerPrompt, PerToken

Layout = tuple[type, tuple[tuple[str, Any], ...]]
"""Type of an intervention and, for each field, its shape and whether it differs by prompt or token;
for a `Fitted` field its identity. Interventions of equal layout can be stacked."""


def layout(intervention: Intervention) -> Layout:
    """Return the layout of an intervention."""
    fields = vars(intervention).items()
    return type(intervention), tuple((name, _shape(value)) for name, value in fields)


def _shape(value: Any) -> Any:
    if isinstance(value, Fitted):
        return id(value)
    if isinstance(value, PerPrompt):
        return type(value), tuple(value.of.shape[1:])
    return None, tuple(np.shape(value))


class Stack:
    """Interventions of one layout, which can be gathered by row into a single intervention.

    In the gathered intervention, a field [*field] is [rows, 1, *field] and a number [rows, 1, 1],
    so that vectors and numbers broadcast against [rows, pos, width]. `Fitted` fields are shared.
    """

    def __init__(
        self, interventions: Sequence[Intervention], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._type = type(interventions[0])
        self._shared: dict[str, Fitted] = {}
        self._stacked: dict[str, Tensor] = {}
        self._per_prompt: dict[str, _PerPromptRows] = {}
        self._per_token: dict[str, int] = {}
        for name, value in vars(interventions[0]).items():
            values = [getattr(intervention, name) for intervention in interventions]
            if isinstance(value, Fitted):
                self._shared[name] = value.to(device)
            elif isinstance(value, PerPrompt):
                self._per_prompt[name] = _PerPromptRows(values, device, dtype)
                if isinstance(value, PerToken):
                    self._per_token[name] = value.of.shape[1]
            else:
                tensors = [torch.as_tensor(number, dtype=dtype) for number in values]
                self._stacked[name] = torch.stack(tensors).to(device)

    def take(self, index: Int[Tensor, " rows"], prompts: Int[Tensor, " rows"]) -> Any:
        """Gather one intervention for rows, given each row's index in the stack and prompt."""
        rows = {name: values[index] for name, values in self._stacked.items()}
        rows |= {name: of.take(index, prompts) for name, of in self._per_prompt.items()}
        fields = {
            name: values if name in self._per_token else _beside_positions(values)
            for name, values in rows.items()
        }
        return self._type(**self._shared, **fields)

    @property
    def tokens(self) -> int | None:
        """Tokens of a prompt that have a value; None if no field differs by token."""
        return min(self._per_token.values(), default=None)

    def at(self, intervention: Any, absolute: Int[Tensor, "rows pos"]) -> Any:
        """Gather an intervention of `take` at the absolute positions of the next tokens."""
        fields = {name: getattr(intervention, name) for name in self._per_token}
        gathered = {name: _at_positions(values, absolute) for name, values in fields.items()}
        return replace(intervention, **gathered) if gathered else intervention


class _PerPromptRows:
    """One `PerPrompt` field of several interventions."""

    def __init__(
        self, fields: Sequence[PerPrompt], device: torch.device, dtype: torch.dtype
    ) -> None:
        # Not stacked, because many conditions may share a field that is as long as the dataset.
        tensors = {id(field.of): field.of for field in fields}
        number = {identity: n for n, identity in enumerate(tensors)}
        self._tensors = list(tensors.values())
        self._number = torch.tensor([number[id(field.of)] for field in fields])
        self._device, self._dtype = device, dtype

    def take(
        self, index: Int[Tensor, " rows"], prompts: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows *field"]:
        """Gather the field of each row, given its index in the stack and its prompt."""
        numbers, prompts = self._number[index.cpu()], prompts.cpu()
        shape = (len(numbers), *self._tensors[0].shape[1:])
        values = torch.empty(shape, dtype=self._dtype, device=self._device)
        for number in numbers.unique().tolist():
            rows = (numbers == number).nonzero()[:, 0]
            of = self._tensors[number]
            field_rows = of[prompts[rows].to(of.device)]
            values[rows.to(self._device)] = field_rows.to(self._device, self._dtype)
        return values


def _at_positions(values: Tensor, absolute: Int[Tensor, "rows pos"]) -> Tensor:
    """Gather values [rows, tokens, *field] as [rows, pos, *field], and numbers as [rows, pos, 1].

    Positions without a value, which no rule selects, get any.
    """
    index = absolute.clamp(0, values.shape[1] - 1).to(values.device)
    rows = torch.arange(len(values), device=values.device)
    gathered = values[rows[:, None], index]
    return gathered[..., None] if gathered.ndim == 2 else gathered


def _beside_positions(values: Tensor) -> Tensor:
    """Reshape values [rows, *field] to [rows, 1, *field], and numbers to [rows, 1, 1]."""
    return values[:, None, None] if values.ndim == 1 else values[:, None]
