"""Correct p-values for the number of tests."""

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr
from scipy.stats import false_discovery_control


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust p-values for the chance of any false finding among all tests.

    In increasing order, max_{j <= i} min(1, (n - j + 1) p_j). Source: Holm 1979.
    """
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust p-values for the expected share of false findings. Benjamini and Hochberg 1995."""
    return np.asarray(false_discovery_control(p)) if len(p) else p


def p_above_zero(
    mean: Float[np.ndarray, " test"],
    stderr: Float[np.ndarray, " test"],
    n: Float[np.ndarray, " test"],
) -> Float[np.ndarray, " test"]:
    """Compute the one-sided p-value of means of n independent differences: Student's t test.

    A mean without variance is certain: p is 0 if it is above 0, else 1.
    """
    return np.where(stderr > 0, _upper_tail(mean, stderr, n), np.where(mean > 0, 0.0, 1.0))


def p_not_zero(
    mean: Float[np.ndarray, "*axes test"],
    stderr: Float[np.ndarray, "*axes test"],
    n: Float[np.ndarray, "*axes test"] | int,
) -> Float[np.ndarray, "*axes test"]:
    """Compute the two-sided p-value of means of n independent differences: Student's t test.

    A mean without variance is certain: p is 1 if it is 0, else 0.
    """
    p = 2 * _upper_tail(np.abs(mean), stderr, n)
    return np.where(stderr > 0, p, np.where(mean == 0, 1.0, 0.0))


def _upper_tail(
    mean: Float[np.ndarray, "*axes test"],
    stderr: Float[np.ndarray, "*axes test"],
    n: Float[np.ndarray, "*axes test"] | int,
) -> Float[np.ndarray, "*axes test"]:
    """Compute P(T >= mean / stderr) of Student's t with n - 1 degrees of freedom."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = mean / stderr
    tail: Float[np.ndarray, "*axes test"] = stdtr(
        n - 1, -np.nan_to_num(t, nan=0.0, posinf=np.inf, neginf=-np.inf)
    )
    return tail
