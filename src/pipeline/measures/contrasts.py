"""The effect of one axis of a grid of conditions, all other axes equal."""

import pandas as pd

from pipeline.measures.statistics import Estimate, paired_difference


def contrast(
    scores: pd.DataFrame,
    axis: str,
    low: object,
    high: object,
    *,
    others: list[str],
    cluster: str,
    share: bool,
    seed: int,
) -> Estimate:
    """Estimate the mean score at one value of an axis - that at another, all else equal.

    Pairs agree in sample, repeat and the axes of `others`; all settings of these count alike.

    Args:
        scores: scores of one metric, with the axes as columns.
        axis: the axis.
        low: its value on the side that is subtracted.
        high: its value on the other side.
        others: the other axes of the grid.
        cluster: the column whose values are resampled together.
        share: whether all scores are 0 or 1.
        seed: of the bootstrap.

    Raises:
        ValueError: as `paired_difference`, such as a setting that only one side has.
    """
    keys = pd.Series(
        list(scores[["repeat", *others]].itertuples(index=False, name=None)),
        index=scores.index,
        dtype=object,
    ).map(str)
    keyed = scores.assign(repeat=keys)
    return paired_difference(
        keyed[keyed[axis] == high],
        keyed[keyed[axis] == low],
        cluster=cluster,
        share=share,
        seed=seed,
    )
