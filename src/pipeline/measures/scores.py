"""The long table of scores, one row per condition, sample, repeat and metric, and its joins."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.errors import at_key

SCORE_COLUMNS = ["condition", "split", "sample", "repeat", "metric", "score"]
PROMPT = ["label", "topic"]
"""Prompt columns joined to every table of scores."""
TEXT = "text"
"""Split and label of unrelated texts."""


def score_completions(
    completions: pd.DataFrame, metrics: Mapping[str, Callable[[pd.DataFrame], Any]]
) -> pd.DataFrame:
    """Apply every metric to the completions of each condition and split, joined with their prompts.

    Returns:
        Columns `SCORE_COLUMNS`; unscored rows have a NaN score.

    Raises:
        ValueError: as `scores_of`, with the metric's name.
    """
    tables = []
    for _, samples in completions.groupby(["condition", "split"], sort=False):
        for name, metric in metrics.items():
            with at_key(f"metric {name}"):
                # A copy: a metric may change its table, but not that of the next.
                score = scores_of(metric, samples.copy())
            tables.append(samples[SCORE_COLUMNS[:4]].assign(metric=name, score=score))
    return long_table(tables)


def scores_of(metric: Callable[[pd.DataFrame], Any], samples: pd.DataFrame) -> pd.Series:
    """Apply a metric to samples, and check what it returns.

    Raises:
        ValueError: not one score per sample, a series with another index than that of `samples`, or
            a score that is neither finite nor NaN.
    """
    scores = metric(samples)
    if not hasattr(scores, "__len__") or len(scores) != len(samples):
        number = len(scores) if hasattr(scores, "__len__") else repr(scores)
        raise ValueError(f"gives {number} scores of {len(samples)} completions; valid: one each")
    if isinstance(scores, pd.Series) and not scores.index.equals(samples.index):
        raise ValueError(
            "gives scores with another index than that of `samples`, so that it is open which "
            "completion a score is of; valid: pd.Series(values, index=samples.index)"
        )
    numbers = pd.Series(scores, index=samples.index)
    try:
        if numbers.dtype.kind == "c":
            raise TypeError("complex")
        numbers = numbers.astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"gives {numbers.iloc[0]!r}; valid: a number, or NaN if unscored"
        ) from error
    if np.isinf(numbers).any():
        infinite = numbers[np.isinf(numbers)].iloc[0]
        raise ValueError(f"gives {infinite}; valid: a finite number, or NaN if unscored")
    return numbers


def long_table(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables of scores; without any, return an empty table with the same columns."""
    tables = [part[SCORE_COLUMNS] for part in parts if len(part)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=SCORE_COLUMNS)


def doubts(scores: pd.DataFrame, of_arms: Collection[str | None]) -> list[str]:
    """Describe metrics that cannot show an effect: they score nothing, or an arm's all rows alike.

    Args:
        scores: the long table.
        of_arms: the metrics that arms name.
    """
    found = []
    counts = scores.groupby("metric", sort=False)["score"].agg(["count", "nunique", "size"])
    for name, row in counts.iterrows():
        if row["count"] == 0:
            found.append(f"metric {name} scores none of its {row['size']} rows: all are NaN")
        elif name in of_arms and row["count"] > 1 and row["nunique"] == 1:
            found.append(f"metric {name} gives every completion and prompt the same score")
    return found


def with_prompts(table: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """Join a table with the columns of its prompts, including the dataset's extra columns.

    Each unrelated text is its own sample: its label is `TEXT` and its topic is the sample.
    """
    columns = [name for name in prompts if name not in ("tokens", "prompt")]
    columns = [name for name in columns if name not in table or name == "sample"]
    joined = table.merge(prompts[columns], on="sample", how="left", validate="many_to_one")
    if "split" in table and (table["split"] == TEXT).any():
        texts = (joined["split"] == TEXT).to_numpy()
        joined.loc[texts, "label"] = TEXT
        joined.loc[texts, "topic"] = joined.loc[texts, "sample"].astype(str)
    return joined


def with_conditions(table: pd.DataFrame, conditions: pd.DataFrame) -> pd.DataFrame:
    """Join a table with the role and axes of its conditions, keeping the order of rows.

    An axis replaces a prompt column of the same name.
    """
    columns = [name for name in table if name not in conditions or name == "condition"]
    return conditions.merge(table[columns], on="condition", how="right", validate="one_to_many")
