"""Interventions on activations: add, subtract or project out a direction, replace, patch; rank one.

Every field may differ by prompt: `PerPrompt`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.conditions import Field
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def _check_width(name: str, value: Field, width: int, site: Site) -> None:
    wide = value.shape[-1] if np.ndim(value) else 0
    if wide != width:
        raise ValueError(f"{name} is {wide} wide, at {site} it must be {width}")


@dataclass(frozen=True, eq=False)
class _Directed:
    """An intervention along a direction [width], of a strength."""

    direction: Field
    strength: Field = 1.0

    def __post_init__(self) -> None:
        # A number would broadcast to the same change in every dimension, which nobody has fitted.
        if np.ndim(self.direction) == 0:
            raise ValueError("direction is a number; valid: a vector [width]")

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raises a ValueError if the direction is not as wide as the site."""
        _check_width("direction", self.direction, model.width(site), site)


@dataclass(frozen=True, eq=False)
class Add(_Directed):
    """Steering: x + strength * direction.

    `direction` [d_model] in the units of the activation, not normalised; strength 0 changes
    nothing. Source: Turner et al. 2023, "Activation addition".

    Raises:
        ValueError: the direction is a number.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction added."""
        return hidden + self.strength * self.direction


@dataclass(frozen=True, eq=False)
class Subtract(_Directed):
    """Steering the other way: x - strength * direction.

    Raises:
        ValueError: as `Add`.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction taken away."""
        return hidden - self.strength * self.direction


@dataclass(frozen=True, eq=False)
class ProjectOut(_Directed):
    """Directional ablation: x - strength * (x . r) r with r the direction at length 1.

    Strength 1 leaves no component along the direction, whose own length does not matter.
    Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction".

    Raises:
        ValueError: as `Add`.
    """

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the component along the direction removed."""
        unit = self.direction / self.direction.norm(dim=-1, keepdim=True)
        return hidden - self.strength * (hidden * unit).sum(-1, keepdim=True) * unit


@dataclass(frozen=True, eq=False)
class Replace:
    """Put a value [width], or a number, in the activation's place: zero, a mean, a patched state.

    Activation patching takes `PerPrompt` of the activations of another run.
    """

    value: Field

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raises a ValueError if the value is neither a number nor as wide as the site."""
        if np.ndim(self.value):
            _check_width("value", self.value, model.width(site), site)

    def edit(self, hidden: Tensor) -> Tensor:
        """The value at every position of hidden [rows, pos, d_model]."""
        return self.value.expand_as(hidden)


@dataclass(frozen=True, eq=False)
class RankOne:
    """A change of rank one in a down projection's weights, as an edit at `mlp_down`.

    W + delta uT: output + (u . input) delta, with `u` [mlp_act] and `delta` [d_model]. No weight is
    touched, so edits of several conditions run in one batch; at position rule `all` it is the
    change of the weights itself. Source: Meng et al. 2022, "Locating and editing factual
    associations in GPT" (ROME).
    """

    u: Field
    delta: Field

    def check(self, model: LanguageModel, site: Site) -> None:
        """Raises a ValueError if the site is another one, or u or delta is not of its width."""
        if site.component != "mlp_down":
            raise ValueError(f"{site}: a change of rank one is made at mlp_down")
        _check_width("u", self.u, model.width(Site(site.layer, "mlp_act")), site)
        _check_width("delta", self.delta, model.d_model, site)

    def edit(self, hidden: Tensor) -> Tensor:
        """The projection [rows, pos, mlp_act + d_model] with its output changed."""
        read, written = hidden.tensor_split([self.u.shape[-1]], -1)
        strength = (read * self.u).sum(-1, keepdim=True)
        return torch.cat([read, written + strength * self.delta], -1)
