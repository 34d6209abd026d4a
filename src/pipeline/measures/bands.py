"""Curves over layers with 95 % bands, simultaneous where enough clusters are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.special import ndtr, stdtrit

from pipeline.measures.statistics import (
    FEWEST,
    LEVEL,
    effective_rows,
    estimate,
    resampling_counts,
    wilson,
)

FURTHEST = 10.0
"""Own standard errors within which 95 % of a layer's resamples have to lie: 2 to 4 if scores are
normal."""
_UNEVEN = 4.0
"""The same in standard errors of the layer: 2 if clusters weigh alike."""


@dataclass(frozen=True)
class Band:
    """A curve and its band.

    Attributes:
        mean: mean over the scored rows of each layer.
        low: lower edge; NaN without an interval, as for a layer with a single cluster.
        high: upper edge.
        pointwise: layers with fewer than `FEWEST` scored clusters, or whose resamples lie further
            from the mean than `FURTHEST`, as of very skewed scores or of one cluster that has most
            rows. Their interval is that of `statistics.estimate`. The true curve lies inside the
            other layers' band at all of them together with 95 % probability.
    """

    mean: Float[np.ndarray, " layer"]
    low: Float[np.ndarray, " layer"]
    high: Float[np.ndarray, " layer"]
    pointwise: Bool[np.ndarray, " layer"]


def band_over(
    scores: pd.DataFrame,
    column: str,
    values: Sequence[Any],
    *,
    cluster: str,
    share: bool,
    bounded: bool = False,
    seed: int,
) -> Band:
    """Compute the mean score at each value of a column, such as each layer, with its band.

    Whole clusters are resampled. c is the 95 % quantile over resamples of max_layer |mean* - mean|
    / stderr, converted to the quantile of Student's t for the layer's number of clusters. Shares:
    Wilson's interval at c and the effective number of rows, so that the band keeps its width at 0
    and 1; likewise means of scores from 0 to 1, with mean (1 - mean) / stderr^2 rows. Other means:
    mean -+ max(c, q) stderr, with q the same quantile for the standard error of each resample
    (bootstrap-t), which is wider for skewed scores. In simulations all cover 95 % of curves, but
    for scores as skewed as reciprocal ranks: 88 % with 10 clusters, 90 % with 23. Layers beyond
    `FURTHEST` have an interval of their own.

    Args:
        scores: `score`, the column and the cluster; NaN = unscored.
        column: the curve's x axis.
        values: its values, in order.
        cluster: the column whose values are resampled together.
        share: whether all scores are 0 or 1.
        bounded: whether all scores are from 0 to 1.
        seed: of the bootstrap.

    Source: Hall 1988 (bootstrap-t); Korn and Graubard 1998 (effective number of rows).
    """
    scored = scores[scores["score"].notna()]
    options: dict[str, Any] = {"index": cluster, "columns": column, "values": "score"}
    sums, counts = (
        scored.pivot_table(**options, aggfunc=how)
        .reindex(columns=list(values))
        .fillna(0.0)
        .astype(float)
        for how in ("sum", "count")
    )
    clusters = (counts > 0).sum().to_numpy()
    pointwise = clusters < FEWEST
    if not pointwise.all():
        enough = sums.loc[:, ~pointwise].to_numpy(), counts.loc[:, ~pointwise].to_numpy()
        pointwise[~pointwise] = _far(*enough, share or bounded, seed)
    mean, low, high = (np.full(len(values), np.nan) for _ in range(3))
    for place, value in enumerate(values):
        if pointwise[place]:
            rows = scores[scores[column] == value]
            own = estimate(rows["score"], rows[cluster], proportion=share, seed=seed)
            mean[place], low[place], high[place] = own.mean, own.low, own.high
    if not pointwise.all():
        enough = sums.loc[:, ~pointwise].to_numpy(), counts.loc[:, ~pointwise].to_numpy()
        together = _simultaneous(*enough, share, bounded, seed)
        mean[~pointwise], low[~pointwise], high[~pointwise] = together
    return Band(mean, low, high, pointwise)


def _far(
    sums: Float[np.ndarray, "cluster layer"],
    counts: Float[np.ndarray, "cluster layer"],
    between_0_and_1: bool,
    seed: int,
) -> Bool[np.ndarray, " layer"]:
    """Whether a layer's resamples lie too far from its mean for a band with other layers."""
    (mean,), (stderr,), means, stderrs = _resampled(sums, counts, seed)
    flat = stderr < 1e-12
    own = np.where(stderrs > 1e-6 * stderr, stderrs, stderr)
    deviations = np.abs(means - mean)
    plain, studentized = (
        np.quantile(np.nan_to_num(deviations / np.where(flat, 1.0, scale)), LEVEL, axis=0)
        for scale in (stderr, own)
    )
    # Bands of shares have no statistic of a resample's own.
    skewed = (studentized > FURTHEST) & (not between_0_and_1)
    return np.asarray(((plain > _UNEVEN) | skewed) & ~flat)


def _resampled(
    sums: Float[np.ndarray, "cluster layer"], counts: Float[np.ndarray, "cluster layer"], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return means and standard errors of the scores [1, layer] and of resamples of clusters."""
    weights = resampling_counts(len(sums), seed).astype(float)
    return (*_ratios(np.ones((1, len(sums))), sums, counts), *_ratios(weights, sums, counts))


def _simultaneous(
    sums: Float[np.ndarray, "cluster layer"],
    counts: Float[np.ndarray, "cluster layer"],
    share: bool,
    bounded: bool,
    seed: int,
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    (mean,), (stderr,), means, stderrs = _resampled(sums, counts, seed)
    m, n = (counts > 0).sum(axis=0).astype(float), counts.sum(axis=0)
    # By the lower tail, which does not round to 1.
    largest = _largest(means - mean, stderr, seed) * np.sqrt(m / (m - 1))
    wider = -stdtrit(m - 1, ndtr(-largest))
    if share or bounded:
        # Scores between 0 and 1 vary less than 0s and 1s with their mean: they count as more rows.
        layers = zip(mean, n if share else np.full_like(n, np.inf), m, stderr**2, strict=True)
        return mean, *wilson(mean, np.array([effective_rows(*each) for each in layers]), wider)
    # A resample without variance has no statistic of its own.
    own = np.where(stderrs > 1e-6 * stderr, stderrs, stderr)
    critical = np.maximum(wider, _largest(means - mean, own, seed))
    return mean, mean - critical * stderr, mean + critical * stderr


def _largest(
    deviations: Float[np.ndarray, "resample layer"],
    stderr: Float[np.ndarray, "*resample layer"],
    seed: int,
) -> float:
    """Return the 95 % quantile over resamples of the largest statistic of any layer.

    A layer without variance has no statistic; it contributes standard normal noise. NaN, of a
    resample without a scored row of a layer, counts as 0.
    """
    flat = stderr < 1e-12
    noise = np.abs(np.random.default_rng(seed).standard_normal(deviations.shape))
    t = np.nan_to_num(np.abs(deviations) / np.where(flat, 1.0, stderr))
    return float(np.quantile(np.where(flat, noise, t).max(axis=1), LEVEL))


def _ratios(
    weights: Float[np.ndarray, "resample cluster"],
    sums: Float[np.ndarray, "cluster layer"],
    counts: Float[np.ndarray, "cluster layer"],
) -> tuple[Float[np.ndarray, "resample layer"], Float[np.ndarray, "resample layer"]]:
    """Compute means over rows and their linearised standard errors, for each resample."""
    with np.errstate(divide="ignore", invalid="ignore"):
        n, m = weights @ counts, weights @ (counts > 0)
        mean = (weights @ sums) / n
        squares = (
            weights @ sums**2
            - 2 * mean * (weights @ (sums * counts))
            + mean**2 * (weights @ counts**2)
        )
        variance = np.maximum(squares, 0) * m / (m - 1) / n**2
    return mean, np.sqrt(variance)
