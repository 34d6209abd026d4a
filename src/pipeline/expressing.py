"""Which lists express which features together: an autoencoder read on a store, and clustered."""

import pandas as pd

from pipeline.measures.expression import (
    Clusters,
    active_places,
    cluster,
    expression_matrix,
    telling_features,
)
from pipeline.methods.sae import SparseAutoencoder
from pipeline.store.store import ActivationStore

CLUSTERS = (8, 12)
"""Of samples and of features, at most."""
EXPRESSED = 80
"""Features of an expression matrix, at most: the most attributed of those that tell lists apart."""
WHICH = f"at most {EXPRESSED}, the most attributed of those active in 5 to 95 % of lists"
BATCH = 1024
"""Rows that are encoded at once: whatever the dictionary's size, only those are in memory."""


def list_places(store: ActivationStore, lists: pd.DataFrame, ends: pd.Series) -> pd.DataFrame:
    """The store's rows of completions with an end: `row`, `sample` (the list's), `from_end`.

    Args:
        store: of prompts with their completions.
        lists: `sample`, and `tokens` of the prompt.
        ends: by a list's index in `lists`, the position of its end.
    """
    numbers = pd.Series(ends.index, lists.loc[ends.index, "sample"])
    rows = store.rows.reset_index(drop=True)
    rows = rows[rows["sample"].isin(numbers.index)]
    rows = rows.assign(row=rows.index, sample=rows["sample"].map(numbers))
    rows = rows[rows["position"] >= rows["sample"].map(lists["tokens"].map(len))]
    rows["from_end"] = rows["position"] - rows["sample"].map(ends)
    return rows[["row", "sample", "from_end"]]


def expressed(
    sae: SparseAutoencoder,
    store: ActivationStore,
    places: pd.DataFrame,
    attributed: pd.DataFrame,
    samples: int,
) -> pd.DataFrame:
    """Where the features to be shown are active, as the autoencoder says of what was recorded.

    Args:
        sae: the autoencoder.
        store: of its site.
        places: as from `list_places`.
        attributed: `feature` and `attribution` of its site.
        samples: number of lists.
    """
    sizes = attributed["attribution"].abs().groupby(attributed["feature"]).sum()
    rows = sae.rows_of(store)
    parts = []
    for start in range(0, len(places), BATCH):
        batch = places.iloc[start : start + BATCH]
        active = sae.encode(rows[batch["row"]].float()).numpy()
        part = active_places(active, batch[["sample", "from_end"]])
        parts.append(part[part["feature"].isin(sizes.index)])
    readings = pd.concat(parts, ignore_index=True)
    shown = telling_features(readings, sizes, samples=samples, most=EXPRESSED)
    return readings[readings["feature"].isin(shown)]


def clustered(readings: pd.DataFrame, samples: list[int]) -> Clusters | None:
    """The clustered matrix; None where two features or two unlike samples are wanting."""
    shape = len(samples), readings["feature"].nunique()
    if min(shape) < 2:
        return None
    matrix = expression_matrix(readings, value="activation", samples=samples)
    wanted = (min(most, count) for most, count in zip(CLUSTERS, shape, strict=True))
    clusters = cluster(matrix, **dict(zip(("samples", "features"), wanted, strict=True)))
    return clusters if clusters.samples.nunique() > 1 else None
