"""Difference-of-means directions between two classes of prompts, and control directions."""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

CONTROLS = ("shuffled", "covariance", "isotropic")


def difference_of_means(
    positive: Float[Tensor, "positives d_model"], negative: Float[Tensor, "negatives d_model"]
) -> Float64[Tensor, " d_model"]:
    """Compute mean(positive) - mean(negative) in float64, not normalised.

    Raises:
        ValueError: a class that is no matrix or has no rows, or classes of different widths.
    """
    for name, rows in (("positive", positive), ("negative", negative)):
        if not isinstance(rows, Tensor) or rows.ndim != 2:
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"the {name} class is {shape}; valid: a tensor [rows, d_model]")
        if len(rows) == 0:
            raise ValueError(f"difference of means: the {name} class has no rows")
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"difference of means: the classes are {positive.shape[1]} and {negative.shape[1]} wide"
        )
    return positive.double().mean(0) - negative.double().mean(0)


def control_direction(
    source: str,
    positive: Float[Tensor, "positives d_model"],
    negative: Float[Tensor, "negatives d_model"],
    *,
    norm: float,
    seed: int,
    draw: int,
) -> Float64[Tensor, " d_model"]:
    """Draw a label-independent control direction with the norm of the fitted direction.

    `shuffled`: the same fit with permuted labels. `covariance`: a Gaussian draw with the
    activations' covariance, sum_i g_i x_i with g standard normal. Both centre each class on its own
    mean: if the classes are far apart, most variance lies along their difference, and an uncentred
    draw, rescaled, would reproduce the fitted direction up to its sign. `isotropic`: a standard
    normal draw.

    Raises:
        ValueError: an unknown source, or one that needs within-label variance where there is none.
    """
    if source not in CONTROLS:
        raise ValueError(f"control {source!r} is unknown; valid: {', '.join(CONTROLS)}")
    rng = np.random.default_rng([seed, CONTROLS.index(source), draw])
    both = torch.cat([rows.double() - rows.double().mean(0) for rows in (positive, negative)])
    rounding = 1e-5 * torch.cat([positive, negative]).double().norm()
    if source != "isotropic" and both.norm() <= rounding:
        raise ValueError(
            f"control {source!r} cannot be drawn where the activations of a label are all alike; "
            "valid there: isotropic"
        )
    if source == "shuffled":
        order = torch.from_numpy(rng.permutation(len(both)))
        direction = difference_of_means(both[order[: len(positive)]], both[order[len(positive) :]])
    elif source == "covariance":
        weights = torch.from_numpy(rng.standard_normal(len(both)))
        direction = weights @ both
    else:
        direction = torch.from_numpy(rng.standard_normal(both.shape[1]))
    return direction * (norm / direction.norm())
