"""Completions -> the long table of scores: a row per condition, sample, repeat and metric."""

from collections.abc import Callable, Mapping

import pandas as pd

CONDITION = [
    "condition",
    "arm",
    "intervention",
    "source",
    "draw",
    "layer",
    "strength",
    "positions",
]
SAMPLE = ["sample", "repeat", "split", "label", "topic"]


def score_table(
    completions: pd.DataFrame, metrics: Mapping[str, Callable[[pd.DataFrame], pd.Series]]
) -> pd.DataFrame:
    """Every metric on the completions of each condition and split.

    Returns:
        Columns `CONDITION`, `SAMPLE`, metric, score (NaN where there is none).
    """
    return pd.concat(
        [
            samples[CONDITION + SAMPLE].assign(metric=name, score=metric(samples))
            for _, samples in completions.groupby(["condition", "split"], sort=False)
            for name, metric in metrics.items()
        ],
        ignore_index=True,
    )
