"""Tests of means, and corrections of their p-values for the number of tests.

A p-value is NaN where there was no test, as of a mean over a single cluster. It stays NaN when
corrected, and is not counted among the tests.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr
from scipy.stats import false_discovery_control


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust p-values for the chance of any false finding among all tests.

    In increasing order, max_{j <= i} min(1, (n - j + 1) p_j). Source: Holm 1979.
    """
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    factors = len(order) - np.arange(len(order))
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust p-values for the expected share of false findings. Benjamini and Hochberg 1995."""
    adjusted, is_test = np.full(len(p), np.nan), ~np.isnan(p)
    if is_test.any():
        adjusted[is_test] = false_discovery_control(p[is_test])
    return adjusted


def p_above_zero(
    mean: Float[np.ndarray, " test"],
    stderr: Float[np.ndarray, " test"],
    n: Float[np.ndarray, " test"],
) -> Float[np.ndarray, " test"]:
    """Compute the one-sided p-value of means of n independent differences: Student's t test.

    If all differences are equal, t is infinite, and p is that of their signs: 2^-n above 0, else 1.
    Without a standard error, or of fewer than 2 differences, a mean is not tested: NaN.
    """
    of_signs = np.where(mean > 0, 2.0 ** -np.asarray(n, dtype=float), 1.0)
    p = np.where(stderr > 0, _upper_tail(mean, stderr, n), of_signs)
    return np.where(_is_testable(mean, stderr, n), p, np.nan)


def p_not_zero(
    mean: Float[np.ndarray, "*axes test"],
    stderr: Float[np.ndarray, "*axes test"],
    n: Float[np.ndarray, "*axes test"] | int,
) -> Float[np.ndarray, "*axes test"]:
    """Compute the two-sided p-value of means of n independent differences: Student's t test.

    If all differences are equal, t is infinite, and p is that of their signs: 2^(1 - n), or 1 if
    they are 0. Without a standard error, or of fewer than 2 differences, a mean is not tested: NaN.
    """
    p = 2 * _upper_tail(np.abs(mean), stderr, n)
    p = np.where(stderr > 0, p, np.where(mean == 0, 1.0, 2.0 ** (1 - np.asarray(n, dtype=float))))
    return np.where(_is_testable(mean, stderr, n), p, np.nan)


def _is_testable(
    mean: Float[np.ndarray, "*axes test"],
    stderr: Float[np.ndarray, "*axes test"],
    n: Float[np.ndarray, "*axes test"] | int,
) -> Bool[np.ndarray, "*axes test"]:
    testable: np.ndarray = np.isfinite(mean) & np.isfinite(stderr) & (np.asarray(n) > 1)
    return testable


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
