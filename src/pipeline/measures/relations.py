"""Faithfulness and causality of linear relations, at settings that val rows choose."""

import pandas as pd

from pipeline.measures.statistics import estimate


def at_chosen(rows: pd.DataFrame, axes: list[str]) -> pd.DataFrame:
    """Select each label's test rows at the values of `axes` with the best mean score on val rows.

    The first values if several are best. A label without val rows is left out.

    Args:
        rows: `label`, `split`, `score` and the axes.
        axes: the columns to choose values of.
    """
    scored = rows.dropna(subset=["score"])
    means = scored[scored["split"] == "val"].groupby(["label", *axes], sort=True)["score"].mean()
    if means.empty:
        return scored.iloc[:0]
    best = means.index.to_frame(index=False).iloc[
        [means.index.get_loc(key) for key in means.groupby(level="label").idxmax()]
    ]
    return scored[scored["split"] == "test"].merge(best, on=["label", *axes])


def shares_by_label(rows: pd.DataFrame, cluster: str, seed: int) -> pd.DataFrame:
    """Estimate each label's mean score of 0s and 1s: `mean`, `low`, `high` and `n`, by `label`."""
    estimates = {
        label: estimate(group["score"], group[cluster], proportion=True, seed=seed)
        for label, group in rows.groupby("label", sort=False)
    }
    columns = ["mean", "low", "high", "n"]
    return pd.DataFrame(
        {
            label: {name: getattr(each, name) for name in columns}
            for label, each in estimates.items()
        }
    ).T.reindex(columns=columns)
