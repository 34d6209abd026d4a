"""Interventions of many rows as one: each field a tensor with the rows in front."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.engine.conditions import Fitted, Intervention

Layout = tuple[type, tuple[tuple[str, Any], ...]]
"""Type and fields of interventions that can be stacked: each field's shape, or the identity of what
is fitted."""


def layout(intervention: Intervention) -> Layout:
    """What interventions must have in common to be stacked."""
    fields = vars(intervention).items()
    return type(intervention), tuple((name, _shape(value)) for name, value in fields)


def _shape(value: Any) -> Any:
    return id(value) if isinstance(value, Fitted) else tuple(np.shape(value))


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
        for name, value in vars(interventions[0]).items():
            if isinstance(value, Fitted):
                self._shared[name] = value.to(device)
                continue
            values = [torch.as_tensor(getattr(item, name), dtype=dtype) for item in interventions]
            self._stacked[name] = _beside_positions(torch.stack(values).to(device))

    def take(self, index: Int[Tensor, " rows"]) -> Any:
        """One intervention for rows, each of which undergoes the intervention at its index."""
        rows = {name: values[index] for name, values in self._stacked.items()}
        return self._type(**self._shared, **rows)


def _beside_positions(values: Tensor) -> Tensor:
    """Values [rows, *field] as [rows, 1, *field]; of numbers [rows, 1, 1]."""
    return values[:, None, None] if values.ndim == 1 else values[:, None]
