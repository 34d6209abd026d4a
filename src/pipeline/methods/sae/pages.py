"""Read the chosen features: a page for each, and each site's strongest feature over all layers."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.config.declared import FitName, Selection
from pipeline.data.prompts import select_prompts
from pipeline.methods.sae.attributed import AttributedFeatures
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.features import RESIDUAL_STREAM, activations_by_layer, summarise_features
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.label_features import LabelFeatures
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore
from pipeline.views.dashboard import page_row


def feature_pages(
    model: LanguageModel,
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: FitName,
) -> pd.DataFrame:
    """Summarise every chosen feature over the store, and write its page.

    Args:
        model: provides logits and token texts.
        prompts: the dataset; a page shows one example of an instruction.
        store: activations at the autoencoders' sites.
        fits: contains the chosen features and the autoencoders.
        fit: the name of the fit that chose features.
        autoencoders: the name of the autoencoders.

    Returns:
        As `dashboard.page_row`.
    """
    rows = []
    instructions = dict(zip(prompts["sample"], prompts["instruction"], strict=True))
    for _, features, sae in _chosen(model, fits[fit], fits[autoencoders]):
        for summary in summarise_features(model, sae, store, features, groups=instructions):
            rows.append(page_row(summary, model.piece))
    return pd.DataFrame(rows)


def features_by_layer(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: FitName,
    select: Selection = None,
) -> pd.DataFrame:
    """Read the strongest feature of each residual-stream site over all layers, in one prompt.

    See `features.activations_by_layer`. A recorded completion is appended to the prompt.

    Args:
        model: the model.
        prompts: the dataset.
        fits: contains the chosen features and the autoencoders.
        fit: the name of the fit that chose features, strongest first.
        autoencoders: the name of the autoencoders.
        select: selection of prompts, as an arm's `prompts`; the first one is read.

    Returns:
        `site`, `feature`, `layer`, `position`, `piece`, `special` (a special token), `activation`.
    """
    row = select_prompts(prompts, select).iloc[0]
    tokens = [*map(int, row["tokens"]), *map(int, row.get("completion_tokens", ()))]
    special = set(model.tokenizer.all_special_ids)
    tables = []
    for site, features, sae in _chosen(model, fits[fit], fits[autoencoders]):
        if Site.parse(site).component not in RESIDUAL_STREAM:
            continue
        matrix = activations_by_layer(model, sae, features[0], tokens)
        tables += [
            {
                "site": site,
                "feature": features[0],
                "layer": layer,
                "position": position,
                "piece": model.piece(token),
                "special": token in special,
                "activation": float(matrix[layer, position]),
            }
            for layer in range(model.n_layers)
            for position, token in enumerate(tokens)
        ]
    return pd.DataFrame(tables)


def _chosen(
    model: LanguageModel,
    features_of: AttributedFeatures | LabelFeatures,
    saes: SparseAutoencoders,
) -> Iterator[tuple[str, list[int], SparseAutoencoder]]:
    """Yield site, distinct chosen features and autoencoder, on the model's device."""
    for site, rows in features_of.chosen.groupby("site", sort=False):
        features = [int(feature) for feature in dict.fromkeys(rows["feature"])]
        yield str(site), features, saes.at_sites[str(site)].to(model.device)
