"""Interventions: add, subtract or project out a direction, replace, set units, rank-one edit.

Every field may differ by prompt or by token: `PerPrompt`, `PerToken`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.conditions import Field, PerPrompt
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def _check_width(name: str, value: Field, width: int, site: Site) -> None:
    if np.ndim(value) > 1:
        raise ValueError(
            f"{name} has the shape {list(value.shape)}, at {site} it must be [{width}]"
        )
    wide = value.shape[-1] if np.ndim(value) else 0
    if wide != width:
        raise ValueError(f"{name} is {wide} wide, at {site} it must be {width}")


def _check_number(name: str, value: Field) -> None:
    """Fail if a field is no number, tensor or `PerPrompt`, before the model runs."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not isinstance(value, Tensor | PerPrompt):
        shown = type(value).__name__ if np.ndim(value) else repr(value)
        raise ValueError(f"{name} is {shown}; valid: a number or a tensor")
    if isinstance(value, Tensor) and (value.is_complex() or value.dtype is torch.bool):
        raise ValueError(f"{name} is of {value.dtype}; valid: a tensor of real numbers")


@dataclass(frozen=True, eq=False)
class _Directed:
    """An intervention along a direction [width] with a strength."""

    direction: Field
    strength: Field = 1.0

    def __post_init__(self) -> None:
        # A scalar would silently broadcast to all dimensions.
        if np.ndim(self.direction) == 0:
            raise ValueError("direction is a number; valid: a vector [width]")
        if not isinstance(self.direction, Tensor | PerPrompt):
            raise ValueError(
                f"direction is a {type(self.direction).__name__}; valid: a tensor [width]"
            )
        _check_number("direction", self.direction)
        _check_number("strength", self.strength)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raise a ValueError if the direction, or a strength by dimension, has the wrong width."""
        _check_width("direction", self.direction, model.width(site), site)
        if np.ndim(self.strength):
            _check_width("strength", self.strength, model.width(site), site)


@dataclass(frozen=True, eq=False)
class Add(_Directed):
    """Add a steering vector: x + strength * direction.

    `direction` [d_model] is in the units of the activation, not normalised; strength 0 changes
    nothing. Source: Turner et al. 2023, "Activation addition".

    Raises:
        ValueError: the direction is a scalar.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Return hidden [rows, pos, d_model] with the direction added."""
        return hidden + self.strength * self.direction


@dataclass(frozen=True, eq=False)
class Subtract(_Directed):
    """Subtract a steering vector: x - strength * direction.

    Raises:
        ValueError: as `Add`.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Return hidden [rows, pos, d_model] with the direction subtracted."""
        return hidden - self.strength * self.direction


@dataclass(frozen=True, eq=False)
class ProjectOut(_Directed):
    """Ablate a direction: x - strength * (x . r) r with r the unit direction.

    Strength 1 removes the whole component along the direction; the direction's norm is irrelevant.
    Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction".

    Raises:
        ValueError: as `Add`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        vectors = self.direction.of if isinstance(self.direction, PerPrompt) else self.direction
        if not bool(vectors.any(-1).all()):
            raise ValueError("the direction to project out is zero")

    def edit(self, hidden: Tensor) -> Tensor:
        """Return hidden [rows, pos, d_model] without the component along the direction."""
        unit = self.direction / self.direction.norm(dim=-1, keepdim=True)
        return hidden - self.strength * (hidden * unit).sum(-1, keepdim=True) * unit


@dataclass(frozen=True, eq=False)
class Replace:
    """Replace the activation by a value [width] or a scalar: zero or mean ablation, patching.

    For activation patching, pass a `PerPrompt` of another run's activations, at several tokens a
    `PerToken`.
    """

    value: Field

    def __post_init__(self) -> None:
        _check_number("value", self.value)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raise a ValueError if the value is neither a scalar nor as wide as the site."""
        if np.ndim(self.value):
            _check_width("value", self.value, model.width(site), site)

    def edit(self, hidden: Tensor) -> Tensor:
        """Return the value at every position of hidden [rows, pos, d_model]."""
        return self.value.expand_as(hidden)


@dataclass(frozen=True, eq=False)
class SetUnits:
    """Set single units of an activation, such as neurons of `mlp_act`: x[units] := values.

    Zero or mean ablation, or clamping, of `units` [k] to `values` [k]; all other units stay. Units
    are stored as indices: a sweep over all n neurons of a layer holds n numbers, not n x n.
    """

    units: Field
    values: Field

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raise a ValueError if there is not one value a unit, or the site lacks a unit."""
        shapes = [list(np.shape(field)) for field in (self.units, self.values)]
        if len(shapes[0]) != 1 or shapes[0] != shapes[1] or not shapes[0][0]:
            raise ValueError(
                f"units and values have the shapes {shapes[0]} and {shapes[1]}; valid: [k] each"
            )
        width, units = model.width(site), _all_values(self.units)
        if units.is_floating_point() or units.dtype is torch.bool:
            raise ValueError(f"units are of {units.dtype}; valid: whole numbers")
        if units.min() < 0 or units.max() >= width:
            wrong = units[(units < 0) | (units >= width)][0]
            raise ValueError(f"no unit {int(wrong)} at {site}; valid: 0 to {width - 1}")

    def edit(self, hidden: Tensor) -> Tensor:
        """Return hidden [rows, pos, width] with the units set."""
        shape = (*hidden.shape[:-1], self.units.shape[-1])
        values = self.values.to(hidden.dtype).expand(shape)
        return hidden.scatter(-1, self.units.long().expand(shape), values)


def _all_values(field: Field) -> Tensor:
    return torch.as_tensor(field.of if isinstance(field, PerPrompt) else field)


@dataclass(frozen=True, eq=False)
class RankOne:
    """A rank-one update of the MLP down projection's weights, applied as an edit at `mlp_down`.

    W + delta uT: output + (u . input) delta, with `u` [mlp_act] and `delta` [d_model]. The weights
    are not modified, so that edits of several conditions run in one batch; with position rule `all`
    it is equivalent to the weight update. Source: Meng et al. 2022, "Locating and editing factual
    associations in GPT" (ROME).
    """

    u: Field
    delta: Field

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raise a ValueError if the site is not `mlp_down`, or u or delta has the wrong width."""
        if site.component != "mlp_down":
            raise ValueError(f"{site}: a change of rank one is made at mlp_down")
        _check_width("u", self.u, model.width(Site(site.layer, "mlp_act")), site)
        _check_width("delta", self.delta, model.d_model, site)

    def edit(self, hidden: Tensor) -> Tensor:
        """Return the projection's input and edited output [rows, pos, mlp_act + d_model]."""
        read, written = hidden.tensor_split([self.u.shape[-1]], -1)
        strength = (read * self.u).sum(-1, keepdim=True)
        return torch.cat([read, written + strength * self.delta], -1)
