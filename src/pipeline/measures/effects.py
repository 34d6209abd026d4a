"""Effects of conditions on a score: mean changes against the baseline, tested over clusters."""

import numpy as np
import pandas as pd

from pipeline.measures.significance import benjamini_hochberg, p_not_zero
from pipeline.measures.statistics import cluster_means

_PAIR = ["sample", "repeat"]


def effects_over_clusters(
    edited: pd.DataFrame, baseline: pd.DataFrame, by: list[str], *, cluster: str
) -> pd.DataFrame:
    """Compute the mean change of a score under each condition, tested over clusters.

    Clusters count alike. p: two-sided t test of the scored clusters' mean changes, NaN for fewer
    than 2 of them; `p_adjusted`: Benjamini-Hochberg over all conditions tested.

    Args:
        edited: scores of one metric: `sample`, `repeat`, `score`, `cluster` and `by`.
        baseline: the same without intervention.
        by: the columns that name a condition.
        cluster: the column whose values are independent.

    Returns:
        A row per condition: `by`, `effect`, `stderr`, `n` scored samples, scored `clusters`, `p`,
        `p_adjusted`.

    Raises:
        ValueError: a sample without its baseline, or fewer than 2 clusters.
    """
    before = baseline.set_index(_PAIR)["score"]
    keys = pd.MultiIndex.from_frame(edited[_PAIR])
    if not keys.isin(before.index).all():
        raise ValueError("a sample has no score without intervention")
    change = edited["score"].to_numpy(dtype=float) - before.loc[keys].to_numpy(dtype=float)
    numbers = edited.groupby(by, sort=False).ngroup()
    changes = pd.DataFrame({"score": change, "condition": numbers, cluster: edited[cluster]})
    clusters = changes[cluster].nunique()
    if clusters < 2:
        raise ValueError(f"{clusters} {cluster} has no test over {cluster}s; valid: 2 or more")
    # A condition without a score is no column of the pivoted table.
    means = cluster_means(changes, "condition", cluster).reindex(columns=range(numbers.max() + 1))
    effect, scored = means.mean(), means.count()
    stderr = means.std(ddof=1) / np.sqrt(scored)
    p = p_not_zero(effect.to_numpy(), stderr.to_numpy(), scored.to_numpy(dtype=float))
    table = edited[by].drop_duplicates().reset_index(drop=True)
    return table.assign(
        effect=effect.to_numpy(),
        stderr=stderr.to_numpy(),
        n=changes.groupby("condition")["score"].count().to_numpy(),
        clusters=scored.to_numpy(),
        p=p,
        p_adjusted=benjamini_hochberg(p),
    )
