"""Means with 95 % intervals: the only module that aggregates scores.

Rows of a cluster (repeats of a prompt, completions of a topic) are not independent: every standard
error and interval is computed over whole clusters.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtrit

LEVEL = 0.95
RESAMPLES = 2000
FEWEST = 10
"""Clusters below which equal scores have no interval, and curves no simultaneous band."""
FEW = 6
"""Clusters below which the distinct resamples are too few for percentiles."""
_Z = float(ndtri((1 + LEVEL) / 2))


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval.

    n: scored rows. n_unscored: rows with a NaN score, excluded from the mean. stderr: over
    clusters, NaN for a single one. interval: method behind low and high, "none" if they are NaN.
    """

    mean: float
    n: int
    n_unscored: int
    stderr: float
    low: float
    high: float
    interval: str


def summarise(
    scores: pd.DataFrame,
    by: list[str],
    *,
    shares: Collection[str],
    cluster: str,
    seed: int,
    bounded: Collection[str] = (),
) -> pd.DataFrame:
    """Estimate the mean of each group of `by`, in order of appearance.

    One row per group: the columns of `by` and the fields of `Estimate`. Shares get Wilson's
    interval, other metrics the cluster bootstrap (`estimate`). A group's row does not depend on
    which other groups exist.

    Args:
        scores: long table with the columns `metric`, `score`, `cluster` and those of `by`.
        by: the grouping columns; a missing value is a value of its own.
        shares: the metrics that declare scores of 0 or 1.
        cluster: the column whose values are resampled together: "sample", or "topic" for lists.
        seed: of the bootstrap.
        bounded: the metrics that declare scores from 0 to 1.

    Raises:
        ValueError: a column is missing, a score is infinite, or a share's is other than 0 or 1.
    """
    _require(scores, [*by, cluster, "metric", "score"])
    infinite = np.isinf(scores["score"].astype(float))
    if infinite.any():
        row = scores[infinite].iloc[0]
        raise ValueError(f"{row['metric']} scores {row['score']}; valid: finite numbers, NaN")
    in_shares = scores["metric"].isin(list(shares))
    outside = in_shares & scores["score"].notna() & ~scores["score"].isin([0, 1])
    if outside.any():
        row = scores[outside].iloc[0]
        raise ValueError(f"{row['metric']} is a share, but scores {row['score']}; valid: 0, 1, NaN")
    keys, estimates = [], []
    for _, group in scores.assign(_share=in_shares).groupby(by, sort=False, dropna=False):
        keys.append(group[by].iloc[[0]])
        options: dict[str, Any] = {"proportion": bool(group["_share"].all()), "seed": seed}
        if group["metric"].isin(list(bounded)).all():
            options["within"] = (0.0, 1.0)
        estimates.append(asdict(estimate(group["score"], group[cluster], **options)))
    if not keys:
        return scores[by].reindex(columns=[*by, *Estimate.__dataclass_fields__])
    return pd.concat([pd.concat(keys, ignore_index=True), pd.DataFrame(estimates)], axis=1)


def estimate(
    score: pd.Series,
    cluster: pd.Series,
    *,
    proportion: bool,
    seed: int,
    within: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Estimate the mean of the scored rows, with standard error and 95 % interval over clusters.

    Standard error (linearised ratio): sqrt(m / (m - 1) * sum_c (sum_c - n_c mean)^2) / n for m
    clusters of n_c rows; the usual standard error with one row per cluster.

    Proportion: Wilson's score interval. If clusters have several rows, n is the effective number
    of rows mean (1 - mean) / stderr^2, scaled by (z / t_{m-1})^2 (Korn and Graubard 1998), or the
    number of clusters if all scores are equal. Otherwise: percentile bootstrap of whole clusters
    with 2000 resamples, tails widened for few clusters (`percentile_interval`), and as wide as
    Student's with fewer than `FEW`; none if fewer than `FEWEST` clusters all have the same mean, as
    their resamples would have no spread either. `within`: the least and the greatest possible mean.

    Coverage of the mean of m clusters by the bootstrap, by simulation:

        m                  3    4    5    6    10   23   60
        normal             95   95   95   93   95   95   95 %    (without Student's: 75   87   91)
        lognormal, sd 1    84   82   82   82   86   89   91 %    (without Student's: 63   76   81)

    So a few skewed scores, such as perplexities, are less certain than their interval says.
    """
    scored = score.notna().to_numpy()
    n_unscored = int((~scored).sum())
    codes, names = pd.factorize(cluster[scored], sort=True)
    n, m = len(codes), len(names)
    if n == 0:
        return Estimate(np.nan, 0, n_unscored, np.nan, np.nan, np.nan, "none")
    sums = np.bincount(codes, weights=score[scored].to_numpy(dtype=float), minlength=m)
    counts = np.bincount(codes, minlength=m).astype(float)
    mean = sums.sum() / n
    variance = np.sum((sums - counts * mean) ** 2) * m / (m - 1) / n**2 if m > 1 else np.nan
    if proportion and m == n:
        name, bounds = "wilson", np.stack(wilson(mean, n))
    elif proportion:
        rows = effective_rows(mean, n, m, variance)
        if 0 < mean < 1 and m > 1:
            rows *= (_Z / stdtrit(m - 1, (1 + LEVEL) / 2)) ** 2
        name, bounds = "wilson_clustered", np.stack(wilson(mean, rows))
    elif m == 1 or (m < FEWEST and np.ptp(sums / counts) == 0):
        name, bounds = "none", np.full(2, np.nan)
    else:
        weights = resampling_counts(m, seed)
        resampled = (weights @ sums) / (weights @ counts)
        name, bounds = "bootstrap", percentile_interval(resampled, m)
        if m < FEW:
            half = stdtrit(m - 1, (1 + LEVEL) / 2) * np.sqrt(variance)
            bounds = np.array([min(bounds[0], mean - half), max(bounds[1], mean + half)])
        bounds = np.clip(bounds, *within)
    low, high = map(float, bounds)
    return Estimate(float(mean), n, n_unscored, float(np.sqrt(variance)), low, high, name)


def wilson(
    share: float | Float[np.ndarray, "*axes"],
    n: int | float | Float[np.ndarray, "*axes"],
    critical: float | Float[np.ndarray, "*axes"] = _Z,
) -> tuple[Float[np.ndarray, "*axes"], Float[np.ndarray, "*axes"]]:
    """Compute Wilson's score interval of a share: all p with |share - p| <= critical * se(p).

    (p + c^2/2n -+ c sqrt(p(1 - p)/n + c^2/4n^2)) / (1 + c^2/n). Wilson 1927.
    """
    share, n = np.asarray(share, dtype=float), np.asarray(n, dtype=float)
    square = critical**2 / n
    half = critical * np.sqrt(share * (1 - share) / n + square / (4 * n))
    centre = share + square / 2
    # Avoid rounding errors of 1e-17 where the bound is exactly 0 or 1.
    low = np.where(share == 0, 0.0, (centre - half) / (1 + square))
    high = np.where(share == 1, 1.0, (centre + half) / (1 + square))
    return low, high


def effective_rows(mean: float, n: int | float, m: int | float, variance: float) -> float:
    """Return the number of independent rows whose share would have this variance.

    mean (1 - mean) / variance for n rows in m clusters, at most n; m if all scores are equal.
    """
    if m == 1 or mean in (0, 1):
        return float(m)
    if variance == 0:
        return float(n if np.isfinite(n) else m)
    return float(min(n, mean * (1 - mean) / variance))


def paired_difference(
    steered: pd.DataFrame, baseline: pd.DataFrame, *, cluster: str, share: bool, seed: int
) -> Estimate:
    """Estimate mean steered - baseline over pairs of (sample, repeat).

    A pair is unscored if either side is. Shares: Newcombe's interval for paired shares, with the
    correlation over clusters, which keeps its coverage if few pairs change; otherwise the cluster
    bootstrap, with zero width if all differences are equal.

    Args:
        steered: scores of one metric and condition: `sample`, `repeat`, `score` and `cluster`.
        baseline: the same for another condition.
        cluster: the column whose values are resampled together.
        share: whether all scores are 0 or 1.
        seed: of the bootstrap.

    Raises:
        ValueError: a missing column, a duplicate row, or a row without its pair.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635 (method 10).
    """
    keys = ["sample", "repeat"]
    indexed = []
    for name, side in (("steered", steered), ("baseline", baseline)):
        _require(side, [*keys, cluster, "score"])
        if side.duplicated(keys).any():
            raise ValueError(f"{name} has several scores for one (sample, repeat); valid: one")
        # Keep the columns: `cluster` may be one of the keys.
        indexed.append(side.set_index(pd.MultiIndex.from_frame(side[keys])).sort_index())
    a, b = indexed
    unpaired = a.index.symmetric_difference(b.index)
    if len(unpaired):
        sample, repeat = unpaired[0]
        raise ValueError(f"sample {sample}, repeat {repeat} is on one side only; valid: both")
    differences = a["score"] - b["score"]
    found = estimate(differences, a[cluster], proportion=False, seed=seed)
    if not share or found.n == 0:
        return found
    paired = differences.notna()
    low, high = _newcombe(a["score"][paired], b["score"][paired], a[cluster][paired], seed)
    return replace(found, low=low, high=high, interval="newcombe_paired")


def _newcombe(
    steered: pd.Series, baseline: pd.Series, cluster: pd.Series, seed: int
) -> tuple[float, float]:
    """Combine Wilson's intervals of two paired shares by squares, with their correlation."""
    p, q = (estimate(side, cluster, proportion=True, seed=seed) for side in (steered, baseline))
    phi = _correlation(steered - p.mean, baseline - q.mean, cluster)
    if phi > 0:
        # Newcombe's correction for continuity: half a row, of effective ones if clusters have more.
        m, n = cluster.nunique(), p.n
        rows = n if m == n else min(effective_rows(e.mean, n, m, e.stderr**2) for e in (p, q))
        deviations = np.sqrt(p.mean * (1 - p.mean) * q.mean * (1 - q.mean))
        phi = max(phi - 1 / (2 * rows * deviations), 0.0)

    def distance(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0)))

    difference = p.mean - q.mean
    return (
        difference - distance(p.mean - p.low, q.high - q.mean),
        difference + distance(p.high - p.mean, q.mean - q.low),
    )


def _correlation(first: pd.Series, second: pd.Series, cluster: pd.Series) -> float:
    """Correlate two means, whose rows deviate so from them, over clusters; 0 without variance.

    The phi coefficient with one row per cluster. Rows of a cluster may agree less than its means,
    or, where prompts react in opposite ways, more.
    """
    a, b = (side.groupby(cluster.to_numpy()).sum().to_numpy() for side in (first, second))
    variances = float(a @ a) * float(b @ b)
    return float(a @ b) / float(np.sqrt(variances)) if variances > 1e-18 else 0.0


def cluster_means(scores: pd.DataFrame, columns: str, cluster: str) -> pd.DataFrame:
    """Average the scores of each cluster (rows) and value of `columns` (columns), ignoring NaN."""
    return scores.pivot_table(index=cluster, columns=columns, values="score", aggfunc="mean")


def topics_or_samples(rows: pd.DataFrame) -> pd.Series:
    """Return the topic of each row, or where it has none its sample, as what is independent."""
    # No topic begins with a blank.
    return rows["topic"].where(rows["topic"] != "", " " + rows["sample"].astype(str))


@lru_cache(maxsize=4)
def resampling_counts(clusters: int, seed: int) -> Int[np.ndarray, "resample cluster"]:
    """Draw how often each cluster occurs in each resample; a function of count and seed only."""
    rng = np.random.default_rng([seed, clusters])
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)


def percentile_interval(
    resampled: Float[np.ndarray, "resample *values"], clusters: int
) -> Float[np.ndarray, "2 *values"]:
    """Return 95 % intervals of statistics of resampled clusters, widened if they are few.

    Plain percentiles are too narrow by sqrt((m - 1) / m) and by z / t: by a third with six
    clusters. With fewer than `FEW` they stay too narrow: no resample reaches beyond the lowest and
    the highest cluster. Source: Hesterberg 2015 (expanded percentile interval).
    """
    tail = _tail(clusters)
    return np.asarray(np.quantile(resampled, [tail, 1 - tail], axis=0))


def _tail(clusters: int) -> float:
    widened = np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, (1 + LEVEL) / 2)
    return float(ndtr(-widened))


def _require(table: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        if column not in table:
            raise ValueError(f"no column {column!r}; there are: {', '.join(map(str, table))}")
