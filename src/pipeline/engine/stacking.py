"""Stack the interventions of many rows into one, with rows as the first axis of each field."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Fitted, Intervention, PerPrompt

Layout = tuple[type, tuple[tuple[str, Any], ...]]
"""Type of an intervention and, for each field, its shape and whether it differs by prompt; for a
`Fitted` field its identity. Interventions of equal layout can be stacked."""


def layout(intervention: Intervention) -> Layout:
    """Return the layout of an intervention."""
    fields = vars(intervention).items()
    return type(intervention), tuple((name, _shape(value)) for name, value in fields)


def _shape(value: Any) -> Any:
    if isinstance(value, Fitted):
        return id(value)
    return isinstance(value, PerPrompt), tuple(np.shape(value))


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
        for name, value in vars(interventions[0]).items():
            values = [getattr(intervention, name) for intervention in interventions]
            if isinstance(value, Fitted):
                self._shared[name] = value.to(device)
            elif isinstance(value, PerPrompt):
                self._per_prompt[name] = _PerPromptRows(values, device, dtype)
            else:
                tensors = [torch.as_tensor(number, dtype=dtype) for number in values]
                self._stacked[name] = torch.stack(tensors).to(device)

    def take(self, index: Int[Tensor, " rows"], prompts: Int[Tensor, " rows"]) -> Any:
        """Gather one intervention for rows, given each row's index in the stack and prompt."""
        rows = {name: values[index] for name, values in self._stacked.items()}
        rows |= {name: of.take(index, prompts) for name, of in self._per_prompt.items()}
        beside_positions = {name: _beside_positions(values) for name, values in rows.items()}
        return self._type(**self._shared, **beside_positions)


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


def _beside_positions(values: Tensor) -> Tensor:
    """Reshape values [rows, *field] to [rows, 1, *field], and numbers to [rows, 1, 1]."""
    return values[:, None, None] if values.ndim == 1 else values[:, None]
