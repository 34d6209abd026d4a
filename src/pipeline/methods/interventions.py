"""What can be done to an activation: add a direction, take it away, project it out, replace it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Add:
    """Steering: x + strength * direction.

    `direction` [d_model] in the units of the activation, not normalised; strength 0 changes
    nothing. Source: Turner et al. 2023, "Activation addition".

    Raises:
        ValueError: the direction is a number.
    """

    direction: Tensor
    strength: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_direction(self.direction)

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction added."""
        return hidden + self.strength * self.direction


@dataclass(frozen=True, eq=False)
class Subtract:
    """Steering the other way: x - strength * direction.

    Raises:
        ValueError: as `Add`.
    """

    direction: Tensor
    strength: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_direction(self.direction)

    def edit(self, hidden: Tensor) -> Tensor:
        """Hidden [rows, pos, d_model] with the direction taken away."""
        return hidden - self.strength * self.direction


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """Directional ablation: x - strength * (x . r) r with r the direction at length 1.

    Strength 1 leaves no component along the direction, whose own length does not matter.
    Source: Arditi et al. 2024, "Refusal in language models is mediated by a single direction".

    Raises:
        ValueError: as `Add`.
    """

    direction: Tensor
    strength: float | Tensor = 1.0

    def __post_init__(self) -> None:
        _check_direction(self.direction)

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


def _check_direction(direction: Tensor) -> None:
    # A number would broadcast: the same change in every dimension is no direction that was fitted.
    if direction.ndim == 0:
        raise ValueError(f"direction {float(direction):g} is a number; valid: a vector [width]")
