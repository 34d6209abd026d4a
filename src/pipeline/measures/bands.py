"""Curves over layers with 95 % bands, simultaneous where enough clusters are scored."""

import functools
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
    layers = _resampled(sums.to_numpy(), counts.to_numpy(), seed)
    pointwise = layers.clusters < FEWEST
    pointwise[~pointwise] = _far(layers.of(~pointwise), share or bounded)
    mean, low, high = (np.full(len(values), np.nan) for _ in range(3))
    for place in map(int, np.flatnonzero(pointwise)):
        rows = scores[scores[column] == values[place]]
        limits: dict[str, Any] = {"within": (0.0, 1.0)} if bounded else {}
        own = estimate(rows["score"], rows[cluster], proportion=share, seed=seed, **limits)
        mean[place], low[place], high[place] = own.mean, own.low, own.high
    together = _simultaneous(layers.of(~pointwise), share, bounded, seed)
    mean[~pointwise], low[~pointwise], high[~pointwise] = together
    return Band(mean, low, high, pointwise)


@dataclass(frozen=True)
class _Resampled:
    """Scored clusters and rows of each layer, its mean, and those of resamples of whole clusters.

    A resample without a scored row of a layer has NaN.
    """

    clusters: Float[np.ndarray, " layer"]
    rows: Float[np.ndarray, " layer"]
    mean: Float[np.ndarray, " layer"]
    stderr: Float[np.ndarray, " layer"]
    means: Float[np.ndarray, "resample layer"]
    stderrs: Float[np.ndarray, "resample layer"]

    def of(self, chosen: Bool[np.ndarray, " layer"]) -> "_Resampled":
        return _Resampled(**{name: values[..., chosen] for name, values in vars(self).items()})

    @functools.cached_property
    def flat(self) -> Bool[np.ndarray, " layer"]:
        """Layers without variance."""
        return self.stderr < 1e-12

    @functools.cached_property
    def own(self) -> Float[np.ndarray, "resample layer"]:
        """Standard errors of resamples; one without variance has the layer's."""
        return np.where(self.stderrs > 1e-6 * self.stderr, self.stderrs, self.stderr)

    def distances(
        self, stderr: Float[np.ndarray, "*resample layer"]
    ) -> Float[np.ndarray, "resample layer"]:
        """Compute the distance of each resample's mean in standard errors; 0 where it has none."""
        return np.nan_to_num(np.abs(self.means - self.mean) / np.where(self.flat, 1.0, stderr))


def _resampled(
    sums: Float[np.ndarray, "cluster layer"], counts: Float[np.ndarray, "cluster layer"], seed: int
) -> _Resampled:
    weights = resampling_counts(len(sums), seed).astype(float)
    (mean,), (stderr,) = _ratios(np.ones((1, len(sums))), sums, counts)
    clusters, rows = (counts > 0).sum(axis=0).astype(float), counts.sum(axis=0)
    return _Resampled(clusters, rows, mean, stderr, *_ratios(weights, sums, counts))


def _far(layers: _Resampled, between_0_and_1: bool) -> Bool[np.ndarray, " layer"]:
    """Whether a layer's resamples lie too far from its mean for a band with other layers."""
    plain, studentized = (
        np.quantile(layers.distances(stderr), LEVEL, axis=0)
        for stderr in (layers.stderr, layers.own)
    )
    # Bands of shares have no statistic of a resample's own.
    skewed = (studentized > FURTHEST) & (not between_0_and_1)
    return np.asarray(((plain > _UNEVEN) | skewed) & ~layers.flat)


def _simultaneous(
    layers: _Resampled, share: bool, bounded: bool, seed: int
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    mean, stderr, m = layers.mean, layers.stderr, layers.clusters
    if not len(mean):
        return mean, mean, mean
    # By the lower tail, which does not round to 1.
    largest = _largest(layers, stderr, seed) * np.sqrt(m / (m - 1))
    wider = -stdtrit(m - 1, ndtr(-largest))
    if share or bounded:
        # Scores between 0 and 1 vary less than 0s and 1s with their mean: they count as more rows.
        n = layers.rows if share else np.full_like(m, np.inf)
        rows = [effective_rows(*each) for each in zip(mean, n, m, stderr**2, strict=True)]
        return mean, *wilson(mean, np.array(rows), wider)
    critical = np.maximum(wider, _largest(layers, layers.own, seed))
    return mean, mean - critical * stderr, mean + critical * stderr


def _largest(layers: _Resampled, stderr: Float[np.ndarray, "*resample layer"], seed: int) -> float:
    """Return the 95 % quantile over resamples of the largest distance of any layer.

    A layer without variance contributes standard normal noise.
    """
    noise = np.abs(np.random.default_rng(seed).standard_normal(layers.means.shape))
    largest = np.where(layers.flat, noise, layers.distances(stderr)).max(axis=1)
    return float(np.quantile(largest, LEVEL))


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
