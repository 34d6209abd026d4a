"""How much of a difference is recovered, and how two lists of effects agree, with intervals."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from pipeline.measures.statistics import percentile_interval, resampling_counts


@dataclass(frozen=True)
class Interval:
    """A statistic with its 95 % interval; `n` rows or samples."""

    value: float
    low: float
    high: float
    n: int


def recovered(
    scores: pd.Series, intact: pd.Series, ablated: pd.Series, clusters: pd.Series, *, seed: int
) -> Interval:
    """Estimate the share of the difference between two references that scores recover.

    (mean(scores) - mean(ablated)) / (mean(intact) - mean(ablated)): 1 if they are as the intact
    model's, 0 if they are as with everything ablated. Not bounded. Interval: bootstrap of whole
    clusters, with all three means drawn together.

    Args:
        scores: a score per sample, indexed by sample.
        intact: those of the unedited model, of the same samples.
        ablated: those with all components ablated.
        clusters: what is resampled together, by sample.
        seed: of the bootstrap.

    Raises:
        ValueError: not the same samples, a sample without a score, or references with equal means.
    """
    table = pd.DataFrame({"scores": scores, "intact": intact, "ablated": ablated})
    if len(table) != len(scores) or table.isna().to_numpy().any():
        raise ValueError("scores and references are not of the same scored samples")
    codes, names = pd.factorize(clusters.loc[table.index], sort=True)
    sums = np.stack(
        [np.bincount(codes, table[name].to_numpy(dtype=float), len(names)) for name in table], 1
    )
    if np.isclose(sums[:, 1].sum(), sums[:, 2].sum(), rtol=1e-9, atol=1e-12):
        raise ValueError("the references have the same mean: there is nothing to recover")

    def share(totals: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "..."]:
        gained = totals[..., 0] - totals[..., 2]
        possible = totals[..., 1] - totals[..., 2]
        return np.asarray(gained / possible)

    value = float(share(sums.sum(0)))
    if len(names) == 1:
        return Interval(value, np.nan, np.nan, len(table))
    resampled = share(resampling_counts(len(names), seed) @ sums)
    low, high = map(float, percentile_interval(resampled, len(names)))
    return Interval(value, low, high, len(table))


def rank_agreement(
    first: Float[np.ndarray, " item"], second: Float[np.ndarray, " item"], *, seed: int
) -> Interval:
    """Compute Spearman's rank correlation of two lists, with a bootstrap interval over items.

    Raises:
        ValueError: fewer than 3 items.
    """
    if len(first) < 3:
        raise ValueError(f"{len(first)} items have no rank correlation; valid: 3 or more")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(first), (2000, len(first)))
    resampled = _spearman(first[drawn], second[drawn])
    low, high = map(float, percentile_interval(resampled[~np.isnan(resampled)], len(first)))
    return Interval(float(_spearman(first, second)), low, high, len(first))


def _spearman(
    first: Float[np.ndarray, "*draws item"], second: Float[np.ndarray, "*draws item"]
) -> Float[np.ndarray, "*draws"]:
    ranks = [rankdata(values, axis=-1) for values in (first, second)]
    x, y = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    with np.errstate(divide="ignore", invalid="ignore"):
        norms = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
        return np.asarray((x * y).sum(-1) / norms)
