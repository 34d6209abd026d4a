"""What can be done to an activation: add a direction, take it away, project it out, replace it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Add:
    """Steering: x + strength * direction.

    `direction` [d_model] in the units of the activation, not normalised; strength 0 changes
    nothing. Source: Turner et al. 2023, "Activation addition".
    """

    direction: Tensor
    strength: float | Tensor = 1.0

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction added."""
        return hidden + self.strength * self.direction


@dataclass(frozen=True, eq=False)
class Subtract:
    """Steering the other way: x - strength * direction."""

    direction: Tensor
    strength: float | Tensor = 1.0

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction taken away."""
        return hidden - self.strength * self.direction


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """Directional ablation: x - strength * (x . r) r with r the direction at length 1.

    Strength 1 leaves no component along the direction, whose own length does not matter.
    Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction".
    """

    direction: Tensor
    strength: float | Tensor = 1.0

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the component along the direction removed."""
        unit = self.direction / self.direction.norm(dim=-1, keepdim=True)
        return hidden - self.strength * (hidden * unit).sum(-1, keepdim=True) * unit


@dataclass(frozen=True, eq=False)
class Replace:
    """Put a value [d_model] in the activation's place: zero, a mean, or one from another run."""

    value: Tensor

    def edit(self, hidden: Tensor) -> Tensor:
        """The value at every position of hidden [rows, pos, d_model]."""
        return self.value.expand_as(hidden)
