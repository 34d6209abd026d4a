"""What edits of facts change: two sets of scores with similar names, which are not the same."""

import numpy as np
import pandas as pd

from pipeline.data.roles import BASELINE
from pipeline.measures.statistics import (
    Estimate,
    estimate,
    percentile_interval,
    resampling_counts,
)

ACCURACIES = {
    "reliability": ("edit", "target"),
    "generalization": ("paraphrase", "target"),
    "locality": ("neighbour", "answer"),
}
"""EasyEdit's: the share of prompts of a kind whose top token is that of a column. Locality counts
neighbours that are answered as without edit.
"""
COMPARISONS = {
    "efficacy": ("edit", "preferred"),
    "paraphrase": ("paraphrase", "preferred"),
    "neighbourhood": ("neighbour", "preferred"),
}
"""COUNTERFACT's: the share of prompts of a kind after which the target is likelier than the answer;
of neighbours, after which it is not.
"""
SCORE = "score"
"""The harmonic mean of the means of COUNTERFACT's three."""


def scores_of_edits(scores: pd.DataFrame, *, reference: str) -> pd.DataFrame:
    """Turn scores of samples into those of `ACCURACIES` and `COMPARISONS`.

    Facts count whose prompt to edit the unedited model continues with the answer, and among their
    neighbours those that it does.

    Args:
        scores: of samples under conditions, with the metrics `target`, `answer` and `preferred`,
            the dataset's `fact`, `kind` and `probe`, and the axes.
        reference: the arm whose baseline is the unedited model on bare prompts.

    Returns:
        The rows of `scores` that count, with `quantity`.

    Raises:
        ValueError: a missing column, arm or metric, or no fact that counts.
    """
    for column in ("fact", "kind", "probe"):
        if column not in scores:
            raise ValueError(f"no column {column!r}; valid are scores of `data.edited_facts`")
    clean = scores[
        (scores["arm"] == reference) & (scores["role"] == BASELINE) & (scores["metric"] == "answer")
    ]
    right = set(clean.loc[clean["score"] == 1, "probe"])
    facts = set(clean.loc[(clean["kind"] == "edit") & (clean["score"] == 1), "fact"])
    if not facts:
        raise ValueError(f"no fact is answered without edit in arm {reference!r}")
    counted = scores["fact"].isin(facts)
    counted &= (scores["kind"] != "neighbour") | scores["probe"].isin(right)
    rows = scores[counted]
    tables = []
    for name, (kind, metric) in (ACCURACIES | COMPARISONS).items():
        chosen = rows[(rows["kind"] == kind) & (rows["metric"] == metric)]
        if name == "neighbourhood":
            chosen = chosen.assign(score=1 - chosen["score"])
        tables.append(chosen.assign(quantity=name))
    return pd.concat(tables, ignore_index=True)


def estimates_of_edits(rows: pd.DataFrame, by: list[str], cluster: str, seed: int) -> pd.DataFrame:
    """Estimate every quantity and `SCORE` for each group of conditions.

    Args:
        rows: of `scores_of_edits`.
        by: columns that name the groups.
        cluster: a column whose values are resampled together.
        seed: of the bootstrap.

    Returns:
        A row for each group and quantity: the columns `by`, `quantity`, `mean`, `low`, `high`, `n`.
    """
    records = []
    for key, group in rows.groupby(by, sort=False, dropna=False):
        named = dict(zip(by, key, strict=True))
        for quantity, scored in group.groupby("quantity", sort=False):
            each = estimate(scored["score"], scored[cluster], proportion=True, seed=seed)
            records.append({**named, "quantity": quantity, **vars(each)})
        records.append({**named, "quantity": SCORE, **vars(harmonic(group, cluster, seed))})
    return pd.DataFrame(records)


def harmonic(rows: pd.DataFrame, cluster: str, seed: int) -> Estimate:
    """Estimate 3 / (1 / efficacy + 1 / paraphrase + 1 / neighbourhood); 0 if one of them is 0.

    The interval is the percentile bootstrap of whole clusters, as in `statistics.estimate`.
    """
    scored = rows[rows["quantity"].isin(COMPARISONS)].dropna(subset=["score"])
    counts, sums = (
        scored.pivot_table(index=cluster, columns="quantity", values="score", aggfunc=how)
        .reindex(columns=list(COMPARISONS))
        .fillna(0)
        .to_numpy(dtype=float)
        for how in ("count", "sum")
    )
    (mean,) = _harmonic(sums.sum(0, keepdims=True) / counts.sum(0, keepdims=True))
    clusters = len(sums)
    if clusters < 2:
        return Estimate(mean, len(scored), 0, np.nan, np.nan, np.nan, "none")
    weights = resampling_counts(clusters, seed)
    with np.errstate(invalid="ignore"):
        drawn = _harmonic((weights @ sums) / (weights @ counts))
    low, high = percentile_interval(drawn[np.isfinite(drawn)], clusters)
    spread = float(np.nanstd(drawn))
    return Estimate(mean, len(scored), 0, spread, float(low), float(high), "bootstrap")


def best_on_val(rows: pd.DataFrame, arms: list[str]) -> dict[str, str]:
    """Return each arm's condition with the largest harmonic mean on the val split.

    The first one if several are. An arm that has only a baseline, such as demonstrations in the
    prompt, is represented by it.

    Raises:
        ValueError: an arm without rows in the val split.
    """
    chosen = {}
    for arm in arms:
        val = rows[(rows["arm"] == arm) & (rows["split"] == "val")]
        if val.empty:
            raise ValueError(f"arm {arm!r} has no val prompts; valid: splits: [val, test]")
        edited = val[val["role"] != BASELINE]
        groups = (edited if len(edited) else val).groupby("condition", sort=False)
        means = {condition: _plain_harmonic(group) for condition, group in groups}
        chosen[arm] = max(means, key=lambda condition: means[condition])
    return chosen


def _plain_harmonic(rows: pd.DataFrame) -> float:
    means = rows.groupby("quantity")["score"].mean().reindex(list(COMPARISONS))
    return float(_harmonic(means.to_numpy(dtype=float)[None])[0])


def _harmonic(means: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return means.shape[-1] / (1 / means).sum(-1)
