"""Completions -> the long table of scores: a row per condition, sample, repeat and metric."""

from collections.abc import Callable, Iterable, Mapping

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
TEXT_METRIC = "cross_entropy"
"""Of unrelated text: mean negative log-probability of its tokens, in nats."""


def score_table(
    completions: pd.DataFrame, metrics: Mapping[str, Callable[[pd.DataFrame], pd.Series]]
) -> pd.DataFrame:
    """Every metric on the completions of each condition and split.

    Returns:
        Columns `CONDITION`, `SAMPLE`, metric, score (NaN where there is none).
    """
    return long_table(
        samples[CONDITION + SAMPLE].assign(metric=name, score=metric(samples))
        for _, samples in completions.groupby(["condition", "split"], sort=False)
        for name, metric in metrics.items()
    )


def long_table(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables of scores joined; with their columns where there is none."""
    columns = [*CONDITION, *SAMPLE, "metric", "score"]
    found = [part[columns] for part in parts if len(part)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)
