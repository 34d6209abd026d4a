"""R² of predicted numbers, with an interval over clusters."""

import numpy as np
import pandas as pd

from pipeline.measures.statistics import Estimate, percentile_interval, resampling_counts


def r_squared_estimate(
    target: pd.Series, predicted: pd.Series, cluster: pd.Series, *, seed: int
) -> Estimate:
    """Estimate R² = 1 - Σ (y - ŷ)² / Σ (y - ȳ)² with a percentile bootstrap of whole clusters.

    ȳ is the mean of the rows themselves, so that 0 is the best constant and predictions on other
    rows than the fitted ones may be below 0. Each resample has its own ȳ.

    Args:
        target: y.
        predicted: ŷ.
        cluster: whose values are resampled together.
        seed: of the bootstrap.
    """
    codes, names = pd.factorize(cluster, sort=True)
    y, error = target.to_numpy(dtype=float), (target - predicted).to_numpy(dtype=float)
    # Centred first: the sum of squares below would lose digits of a large mean.
    y = y - y.mean()
    sums = np.stack(
        [np.bincount(codes, weights=each) for each in (np.ones_like(y), y, y**2, error**2)], 1
    )
    m = len(names)
    (r2,) = _ratios(sums.sum(0, keepdims=True))
    if m == 1:
        return Estimate(float(r2), len(y), 0, np.nan, np.nan, np.nan, "none")
    resampled = _ratios(resampling_counts(m, seed) @ sums)
    low, high = percentile_interval(resampled, m)
    stderr = float(resampled.std(ddof=1))
    return Estimate(float(r2), len(y), 0, stderr, float(low), float(high), "bootstrap")


def _ratios(sums: np.ndarray) -> np.ndarray:
    n, total, squares, errors = sums.T
    return np.asarray(1 - errors / (squares - total**2 / n))
