"""Effects of causal tracing, paired with the corrupted run of the same noise."""

import pandas as pd

from pipeline.data.roles import BASELINE

PARTS = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "next token",
    "further tokens",
    "last token",
)
"""Parts of a prompt from the subject on, in order. A subject of one token has only the last one;
`next token` follows the subject.
"""
NOTHING = "nothing"
"""Value of the axis `restored` of the corrupted run itself."""


def indirect_effects(scores: pd.DataFrame, parts: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Compute score(restored) - score(corrupted) of each sample, part and layer, over draws.

    Args:
        scores: of samples under the conditions of one arm of `causal_trace`.
        parts: which `part`s each `sample` has; a part that a prompt lacks has no effect.
        metric: whose scores are compared.

    Returns:
        The sample's columns, `restored`, `layer` and, as `score`, the mean effect over draws.

    Raises:
        ValueError: no such metric, or no corrupted run.
    """
    rows = scores[scores["metric"] == metric]
    corrupted = rows[rows["restored"] == NOTHING]
    if corrupted.empty:
        raise ValueError(f"no corrupted run with the metric {metric!r}")
    keys = ["sample", "draw"]
    before = corrupted[[*keys, "score"]].rename(columns={"score": "corrupted"})
    restored = rows[rows["restored"].notna() & (rows["restored"] != NOTHING)]
    paired = restored.merge(before, on=keys, validate="many_to_one")
    paired = paired.merge(
        parts[["sample", "part"]], left_on=["sample", "restored"], right_on=["sample", "part"]
    )
    paired["score"] -= paired["corrupted"]
    group = ["sample", "restored", "layer"]
    first = paired.drop(columns=["condition", "draw", "corrupted", "part"])
    means = paired.groupby(group)["score"].mean()
    about = first.drop_duplicates(group).drop(columns="score")
    return about.merge(means.reset_index(), on=group)


def clean_and_corrupted(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return each sample's score without noise, and, as `corrupted`, its mean over draws of it."""
    rows = scores[scores["metric"] == metric]
    corrupted = rows[rows["restored"] == NOTHING].groupby("sample")["score"].mean()
    clean = rows[rows["role"] == BASELINE]
    return clean.merge(corrupted.rename("corrupted").reset_index(), on="sample")
