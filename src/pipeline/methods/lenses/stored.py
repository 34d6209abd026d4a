"""Lenses over stored activations, without another forward pass."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from pipeline.methods.lenses.maps import COMPONENT
from pipeline.methods.lenses.tables import checked_maps, lens_values, named_tokens, tabulated
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits
from pipeline.store.store import ActivationStore

_ROWS = 128
"""Rows unembedded at a time."""


def stored_lens(
    model: LanguageModel,
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any] | None = None,
    *,
    fit: str | None = None,
    columns: list[str] | None = None,
) -> pd.DataFrame:
    """Tabulate a lens at every stored position and layer: `lenses.logit_lens` over a store.

    Args:
        model: the model, for its final norm and unembedding.
        prompts: the dataset that the store was collected from.
        store: `resid_pre` of the layers to read, and `resid_post` of the last block, which gives
            the model's output.
        fits: contains the lens of `fit`.
        fit: the name of a Jacobian or tuned lens, which is read at the layers that both have; None:
            the logit lens.
        columns: as for `logit_lens`.

    Returns:
        The columns of `logit_lens`, for every row of the store.

    Raises:
        ValueError: a store of another model, without the last `resid_post`, or without a layer of
            the lens; or as `logit_lens`.
    """
    columns = columns or []
    prompts = prompts.assign(tokens=[[int(token) for token in row] for row in prompts["tokens"]])
    named = named_tokens(model, prompts, columns)
    maps = checked_maps(model, fits or {}, fit)
    if model.weights and store.fingerprint.model != model.weights:
        raise ValueError(
            f"activations are of model {store.fingerprint.model}, this is {model.weights}"
        )
    mapped = range(model.n_layers) if maps is None else maps.layers
    layers = [layer for layer in mapped if str(Site(layer, COMPONENT)) in store.sites]
    last = str(Site(model.n_layers - 1, "resid_post"))
    if last not in store.sites or not layers:
        raise ValueError(
            f"the store has {', '.join(store.sites)}; valid: {last} and {COMPONENT} of a layer"
        )
    places = prompts["sample"].reset_index(drop=True)
    rows = store.rows.merge(prompts[["sample", "label", "split", "topic"]], on="sample")
    if len(rows) < len(store.rows):
        raise ValueError(f"{len(store.rows) - len(rows)} stored rows are of no prompt")
    owners = torch.tensor(
        rows["sample"].map(dict(zip(places, places.index, strict=True))).to_numpy()
    )
    measured = torch.empty(len(rows), len(layers) + 1, 4 + 2 * len(columns), dtype=torch.float64)
    for chunk in np.array_split(np.arange(len(rows)), -(-len(rows) // _ROWS)):
        output = lens_logits(model, store[last][chunk].to(model.device))
        final = output.double().log_softmax(-1)
        tokens = named[owners[chunk]].to(model.device)
        measured[chunk, -1] = lens_values(output, final, tokens).cpu()
        for place, layer in enumerate(layers):
            streams = store[str(Site(layer, COMPONENT))][chunk].to(model.device)
            streams = streams if maps is None else maps.map(layer, streams)
            lens = lens_logits(model, streams)
            measured[chunk, place] = lens_values(lens, final, tokens).cpu()
    named_rows = rows[["sample", "label", "split", "topic", "position", "token"]]
    return tabulated(model, named_rows, [*layers, model.n_layers], measured, columns)
