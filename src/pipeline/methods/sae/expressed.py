"""Read feature expression: which samples express which features together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.config.declared import FitName
from pipeline.measures.expression import (
    MOST_FEATURES,
    active_places,
    clustered,
    communities,
    telling_features,
)
from pipeline.methods.sae.attributed import AttributedFeatures
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.rows import completion_rows
from pipeline.store.store import ActivationStore

_BATCH = 1024
"""Rows encoded at a time, which bounds memory."""


def expressed_features(
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: FitName,
) -> pd.DataFrame:
    """Read the activations, in completions, of the top attributed discriminating features.

    Args:
        prompts: the dataset, with completions.
        store: their activations.
        fits: contains the attributions and the autoencoders.
        fit: the name of the attributions; their samples are read.
        autoencoders: the name of the autoencoders.

    Returns:
        `site`, `sample`, `feature`, `from_end`, `activation` (> 0).

    Raises:
        ValueError: a completion with attributions that is not in the store.
    """
    attributed: AttributedFeatures = fits[fit]
    saes: SparseAutoencoders = fits[autoencoders]
    rows_with_end = _places(prompts, store, attributed.ends)
    tables = []
    for site, sae in saes.at_sites.items():
        features = attributed.features[attributed.features["site"] == site]
        table = active_features(sae, store, rows_with_end, features, len(attributed.ends))
        tables.append(table.assign(site=site))
    return pd.concat(tables, ignore_index=True)


def expression_communities(
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    autoencoders: FitName,
) -> pd.DataFrame:
    """Find communities of samples that jointly express features: see `measures.expression`.

    Arguments are those of `expressed_features`.

    Returns:
        The rows of `communities`, with `site`, for sites with a clustered matrix.
    """
    attributed: AttributedFeatures = fits[fit]
    table = expressed_features(prompts, store, fits, fit=fit, autoencoders=autoencoders)
    topics = prompts.set_index("sample")["topic"].to_dict()
    tables = [pd.DataFrame()]
    for site, readings in table.groupby("site", sort=False):
        clusters = clustered(readings, attributed.ends["sample"].tolist())
        if clusters is not None:
            rows = communities(clusters, topics, readings, seed=seed)
            tables.append(rows.assign(site=site))
    return pd.concat(tables, ignore_index=True)


def active_features(
    sae: SparseAutoencoder,
    store: ActivationStore,
    places: pd.DataFrame,
    attributed: pd.DataFrame,
    samples: int,
) -> pd.DataFrame:
    """List the activations of the features to show, encoded from stored activations.

    Args:
        sae: the autoencoder.
        store: has its site.
        places: `row` of the store, `sample`, `from_end`.
        attributed: `feature` and `attribution` at its site.
        samples: total number of samples.
    """
    sizes = attributed["attribution"].abs().groupby(attributed["feature"]).sum()
    rows = sae.rows_of(store)
    parts = []
    for start in range(0, len(places), _BATCH):
        batch = places.iloc[start : start + _BATCH]
        active = sae.encode(rows[batch["row"]].float()).numpy()
        part = active_places(active, batch[["sample", "from_end"]])
        parts.append(part[part["feature"].isin(sizes.index)])
    readings = pd.concat(parts, ignore_index=True)
    shown = telling_features(readings, sizes, samples=samples, most=MOST_FEATURES)
    return readings[readings["feature"].isin(shown)]


def _places(prompts: pd.DataFrame, store: ActivationStore, ends: pd.DataFrame) -> pd.DataFrame:
    """List the store's rows of completions with an end: `row`, `sample`, `from_end`.

    Raises:
        ValueError: a sample with an end, but without rows: no feature would be active in it.
    """
    rows = store.rows.reset_index(drop=True)
    of_ends = completion_rows(store, prompts) & rows["sample"].isin(ends["sample"]).to_numpy()
    end = rows["sample"].map(ends.set_index("sample")["end"])
    table = pd.DataFrame(
        {"row": np.arange(len(rows)), "sample": rows["sample"], "from_end": rows["position"] - end}
    )
    places = table[of_ends].astype({"from_end": int})
    missing = ends.loc[~ends["sample"].isin(places["sample"]), "sample"]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(ends)} completions that features were attributed in are not "
            f"in the store, such as that of sample {missing.iloc[0]}"
        )
    return places
