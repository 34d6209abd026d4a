"""Interventions of many rows as one: each field a tensor with the rows in front."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Fitted, Intervention, PerPrompt

Layout = tuple[type, tuple[tuple[str, Any], ...]]
"""Type and fields of interventions that can be stacked: of each field its shape and whether it
differs by prompt, or the identity of what is fitted."""


def layout(intervention: Intervention) -> Layout:
    """What interventions must have in common to be stacked."""
    fields = vars(intervention).items()
    return type(intervention), tuple((name, _shape(value)) for name, value in fields)


def _shape(value: Any) -> Any:
    if isinstance(value, Fitted):
        return id(value)
    return isinstance(value, PerPrompt), tuple(np.shape(value))


class Stack:
    """Interventions of one layout, of which rows are taken as one intervention.

    In that one a field of shape [*field] is [rows, 1, *field], and a number [rows, 1, 1], so that
    vectors and numbers broadcast against [rows, pos, width]. What is `Fitted` stays as it is.
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
        """One intervention for rows, from the intervention at each row's index for its prompt."""
        rows = {name: values[index] for name, values in self._stacked.items()}
        rows |= {name: of.take(index, prompts) for name, of in self._per_prompt.items()}
        beside_positions = {name: _beside_positions(values) for name, values in rows.items()}
        return self._type(**self._shared, **beside_positions)


class _PerPromptRows:
    """One field of several interventions, in each another for every prompt."""

    def __init__(
        self, fields: Sequence[PerPrompt], device: torch.device, dtype: torch.dtype
    ) -> None:
        # Fields are not stacked: many conditions may share one that is as long as the dataset.
        tensors = {id(field.of): field.of for field in fields}
        number = {identity: n for n, identity in enumerate(tensors)}
        self._tensors = list(tensors.values())
        self._number = torch.tensor([number[id(field.of)] for field in fields])
        self._device, self._dtype = device, dtype

    def take(
        self, index: Int[Tensor, " rows"], prompts: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows *field"]:
        """The field that the intervention at each row's index has for the row's prompt."""
        numbers, prompts = self._number[index.cpu()], prompts.cpu()
        shape = (len(numbers), *self._tensors[0].shape[1:])
        values = torch.empty(shape, dtype=self._dtype, device=self._device)
        for number in numbers.unique().tolist():
            rows = (numbers == number).nonzero()[:, 0]
            of = self._tensors[number]
            taken = of[prompts[rows].to(of.device)]
            values[rows.to(self._device)] = taken.to(self._device, self._dtype)
        return values


def _beside_positions(values: Tensor) -> Tensor:
    """Values [rows, *field] as [rows, 1, *field]; numbers as [rows, 1, 1]."""
    return values[:, None, None] if values.ndim == 1 else values[:, None]
