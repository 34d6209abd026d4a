"""Summarise features over the rows of a store, and read them over the layers of a model."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.measures.features import FeatureSummary, Rows, summary_of, tallied
from pipeline.methods.sae.autoencoder import SparseAutoencoder, activate
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import direct_logits
from pipeline.store.store import ActivationStore, SiteRows

RESIDUAL_STREAM = ("resid_pre", "resid_mid", "resid_post")
"""Components of the residual stream: an encoder of one layer can be applied at all layers."""


def summarise_features(
    model: LanguageModel,
    sae: SparseAutoencoder,
    store: ActivationStore,
    features: Sequence[int],
    *,
    groups: Mapping[int, str] | None = None,
    examples: int = 20,
    tokens: int = 10,
    batch_rows: int = 4096,
) -> list[FeatureSummary]:
    """Compute density, histogram, examples and logits of features in one pass over the store.

    A second pass reads only the rows of the examples' samples. Special tokens of the tokenizer are
    excluded: activations there are often a hundred times larger, and autoencoders are not trained
    on them. Logits: `direct_logits` of the decoder rows.

    Args:
        model: provides logits and special tokens.
        sae: the autoencoder; computation runs on its device.
        store: activations at its site; whole samples, so that examples show their context.
        features: feature indices.
        groups: sample -> its group, such as the instruction, of which one example is shown; None:
            each sample is its own.
        examples: number of examples per feature.
        tokens: number of top and of bottom tokens of a feature's logits.
        batch_rows: rows to encode at a time.

    Raises:
        ValueError: no such feature, or a model or store that is not the autoencoder's.

    Source: Bricken et al. 2023 (their feature pages).
    """
    sae_site = Site.parse(sae.site)
    sae.check(model, sae_site)
    sae.check_features(features)
    site, table = sae.rows_of(store), store.rows
    samples = table["sample"]
    named = samples.map(groups) if groups is not None else samples
    special = table["token"].isin(model.tokenizer.all_special_ids).to_numpy()
    rows = Rows(table, special, pd.factorize(named)[0])
    batches = (
        (numbers, _activations(sae, features, x).cpu().numpy())
        for numbers, x in _ordinary(site, ~special, batch_rows)
    )

    def activations(feature: int, numbers: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        return _activations(sae, [features[feature]], site[numbers])[:, 0].cpu().numpy()

    shown = tallied(rows, batches, activations, len(features), examples)
    logits = direct_logits(model, sae_site, sae.decoder[list(features)]).cpu().numpy()
    return [
        summary_of(
            tally,
            top_examples,
            direct,
            tokens,
            feature=feature,
            site=sae.site,
            kind=sae.kind,
            n_features=sae.n_features,
        )
        for feature, (tally, top_examples), direct in zip(features, shown, logits, strict=True)
    ]


def activations_by_layer(
    model: LanguageModel, sae: SparseAutoencoder, feature: int, tokens: Sequence[int]
) -> Float[np.ndarray, "layer pos"]:
    """Apply a feature's encoder to the residual stream of every layer.

    Reads the same component as the autoencoder's site (`resid_pre`, `resid_mid` or `resid_post`).
    At other layers the encoder is out of distribution: an activation there shows that the direction
    is present in the residual stream, not that the layer has this feature.

    Raises:
        ValueError: another model, no such feature, or a site outside the residual stream.
    """
    sae_site = Site.parse(sae.site)
    sae.check(model, sae_site)
    sae.check_features([feature])
    if sae_site.component not in RESIDUAL_STREAM:
        raise ValueError(
            f"{sae_site} is not the residual stream, which all layers share; "
            f"valid: {', '.join(RESIDUAL_STREAM)}"
        )
    sites = [Site(layer, sae_site.component) for layer in range(model.n_layers)]
    ids, mask = model.pad([tokens])
    activations = hooks.read(model, sites, ids, mask, partial(_activations, sae, [feature]))
    return torch.stack([activations[site][0, :, 0].cpu() for site in sites]).numpy()


def _ordinary(
    site: SiteRows, mask: Bool[np.ndarray, " rows"], batch_rows: int
) -> Iterator[tuple[Int[np.ndarray, " batch"], Float[Tensor, "batch width"]]]:
    """Yield row numbers and activations of a mask's rows, one batch in memory at a time."""
    for rows, shard in site:
        chosen = np.flatnonzero(mask[rows])
        for start in range(0, len(chosen), batch_rows):
            part = chosen[start : start + batch_rows]
            yield rows.start + part, shard[torch.from_numpy(part)].float()


def _activations(
    sae: SparseAutoencoder, features: Sequence[int], x: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes feature"]:
    x = x.to(sae.encoder.device).float()
    if sae.kind == "topk":
        # Top-k needs all pre-activations.
        return sae.encode(x)[..., list(features)]
    chosen = torch.tensor(features, device=x.device)
    pre = x @ sae.encoder[:, chosen] + sae.encoder_bias[chosen]
    return activate(sae.kind, pre, sae.k, sae.threshold[chosen])
