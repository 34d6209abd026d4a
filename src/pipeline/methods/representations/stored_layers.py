"""Read the activations of one component from a store, a row for each sample, layer by layer."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from pipeline.model.sites import Site, collected_layers
from pipeline.store.store import ActivationStore


def stored_samples(store: ActivationStore, prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the prompts of a store's rows, in the order of the rows.

    Raises:
        ValueError: several rows of a sample.
    """
    counts = store.rows["sample"].value_counts()
    if counts.iloc[0] > 1:
        raise ValueError(
            f"the store has {counts.iloc[0]} positions of sample {counts.index[0]}; valid: one, as "
            "of collect.positions subject or last"
        )
    return prompts.set_index("sample", drop=False).loc[store.rows["sample"]].reset_index(drop=True)


def stored_layers(
    store: ActivationStore, component: str, layers: Any = "all"
) -> Iterator[tuple[int, Float64[np.ndarray, "rows width"]]]:
    """Yield every layer's activations of a component in float64, in order of layers.

    Args:
        store: the activations.
        component: such as `resid_pre`.
        layers: `all` that were collected, or a list.

    Raises:
        ValueError: a component or a layer that was not collected; names the valid ones.
    """
    for layer in collected_layers(component, layers, map(Site.parse, store.sites)):
        yield layer, store[str(Site(layer, component))][np.arange(len(store))].double().numpy()
