"""Directions between two classes of prompts by three fits, and control directions."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from pipeline.methods.probes.fitting import logistic_weight
from pipeline.model.finite import check_finite, is_finite

FitDirection = Callable[[Tensor, Tensor], Tensor]
"""Maps positive and negative activations [rows, d_model] to a direction [d_model]."""
CONTROLS = ("shuffled", "covariance", "isotropic")


def difference_of_means(
    positive: Float[Tensor, "positives d_model"], negative: Float[Tensor, "negatives d_model"]
) -> Float64[Tensor, " d_model"]:
    """Compute mean(positive) - mean(negative) in float64, not normalised.

    Raises:
        ValueError: a class that is no matrix, has no rows or activations that are not finite, or
            classes of different widths.
    """
    for name, rows in (("positive", positive), ("negative", negative)):
        if not isinstance(rows, Tensor) or rows.ndim != 2:
            shape = list(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"the {name} class is {shape}; valid: a tensor [rows, d_model]")
        if len(rows) == 0:
            raise ValueError(f"difference of means: the {name} class has no rows")
        check_finite(is_finite(rows), rows.dtype, f"activations of the {name} class")
    if positive.shape[1] != negative.shape[1]:
        raise ValueError(
            f"difference of means: the classes are {positive.shape[1]} and {negative.shape[1]} wide"
        )
    return positive.double().mean(0) - negative.double().mean(0)


def principal_direction(
    positive: Float[Tensor, "pairs d_model"], negative: Float[Tensor, "pairs d_model"]
) -> Float64[Tensor, " d_model"]:
    """Fit the first principal direction of paired differences, about zero.

    The unit u that maximises sum_i (u . (positive_i - negative_i))^2, on the side on which the mean
    difference lies, with the norm of the mean difference. About zero, not about the mean: centring
    would remove what all pairs have in common. It equals the principal direction of states centred
    on the middle of their pair. Source: Zou et al. 2023; "pca_center" of repeng.

    Raises:
        ValueError: as `difference_of_means`.
    """
    mean = difference_of_means(positive, negative)
    differences = positive.double() - negative.double()
    direction = torch.linalg.svd(differences, full_matrices=False).Vh[0]
    return _with_norm_of(mean, direction if direction @ mean >= 0 else -direction)


def logistic_direction(
    positive: Float[Tensor, "positives d_model"],
    negative: Float[Tensor, "negatives d_model"],
    *,
    penalty: float = 1.0,
) -> Float64[Tensor, " d_model"]:
    """Fit the weight of a logistic regression of the class, with the norm of the mean difference.

    It has the norm of mean(positive) - mean(negative), so that a strength is as long for every fit.
    See `probes.fitting.logistic_weight`.

    Raises:
        ValueError: as `difference_of_means`.
    """
    mean = difference_of_means(positive, negative)
    states = torch.cat([positive, negative]).double().numpy()
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    return _with_norm_of(mean, torch.from_numpy(logistic_weight(states, labels, penalty)))


def control_direction(
    source: str,
    positive: Float[Tensor, "positives d_model"],
    negative: Float[Tensor, "negatives d_model"],
    *,
    norm: float,
    seed: int,
    draw: int,
    fit: FitDirection = difference_of_means,
) -> Float64[Tensor, " d_model"]:
    """Draw a label-independent control direction with the norm of the fitted direction.

    `shuffled`: the same `fit` with permuted labels. `covariance`: a Gaussian draw with the
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
        direction = fit(both[order[: len(positive)]], both[order[len(positive) :]])
    elif source == "covariance":
        weights = torch.from_numpy(rng.standard_normal(len(both)))
        direction = weights @ both
    else:
        direction = torch.from_numpy(rng.standard_normal(both.shape[1]))
    return direction * (norm / direction.norm())


def _with_norm_of(
    mean: Float64[Tensor, " d_model"], direction: Tensor
) -> Float64[Tensor, " d_model"]:
    norm = direction.norm()
    return direction if norm == 0 else direction * (mean.norm() / norm)
