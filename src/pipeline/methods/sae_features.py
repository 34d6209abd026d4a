"""What features are about: over the rows of a store, and over the layers of a model."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pipeline.measures.features import Example, FeatureSummary, Tally, extremes
from pipeline.methods.sae import SparseAutoencoder, activate
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import direct_logits
from pipeline.store.store import ActivationStore, SiteRows

STREAM = ("resid_pre", "resid_mid", "resid_post")
"""What every layer has of one stream, so that one encoder can be put at all of them."""


def summarise_features(
    model: LanguageModel,
    sae: SparseAutoencoder,
    store: ActivationStore,
    features: Sequence[int],
    *,
    examples: int = 20,
    tokens: int = 10,
    batch_rows: int = 4096,
) -> list[FeatureSummary]:
    """Density, histogram, examples and logits of features, in one pass over the store's rows.

    The rows of the examples' samples are then read once more. Special tokens (the tokenizer's) are
    in no count and no example: activations there are often a hundred times all others, and
    autoencoders are not trained on them. Logits: `direct_logits` of the decoder's rows.

    Args:
        model: whose logits and special tokens they are.
        sae: the autoencoder; works where its tensors are.
        store: activations at its site, whole samples for examples to show them.
        features: their numbers.
        examples: how many samples are kept of each.
        tokens: how many tokens are kept at either end of a feature's logits.
        batch_rows: rows that are encoded at a time.

    Raises:
        ValueError: no such feature, or a model or store that is not the autoencoder's.

    Source: Bricken et al. 2023 (their feature pages).
    """
    place = Site.parse(sae.provenance.site)
    sae.check(model, place)
    sae.check_features(features)
    site, table = sae.rows_of(store), store.rows
    ids, samples = table["token"].to_numpy(), table["sample"].to_numpy()
    special = np.isin(ids, model.tokenizer.all_special_ids)
    tallies = [Tally(examples) for _ in features]
    for numbers, x in _ordinary(site, ~special, batch_rows):
        active = _activations(sae, features, x).cpu().numpy()
        for tally, column in zip(tallies, active.T, strict=True):
            tally.add(column, numbers, samples[numbers])
    logits = direct_logits(model, place, sae.decoder[list(features)]).cpu().numpy()
    found = []
    for feature, tally, own in zip(features, tallies, logits, strict=True):
        counts, edges = tally.histogram()
        top, bottom = extremes(own, tokens)
        shown = []
        for peak in tally.peaks:
            rows = np.flatnonzero(samples == samples[peak])
            active = _activations(sae, [feature], site[rows])[:, 0].cpu().numpy()
            shown.append(
                Example(
                    sample=int(samples[peak]),
                    peak=int(np.flatnonzero(rows == peak)[0]),
                    positions=table["position"].to_numpy()[rows],
                    tokens=ids[rows],
                    activations=np.where(special[rows], np.float32("nan"), active),
                )
            )
        found.append(
            FeatureSummary(
                feature=feature,
                site=sae.provenance.site,
                kind=sae.kind,
                n_features=sae.n_features,
                rows=tally.rows,
                active=tally.active,
                counts=counts,
                edges=edges,
                examples=tuple(shown),
                top=top,
                bottom=bottom,
            )
        )
    return found


def activations_by_layer(
    model: LanguageModel, sae: SparseAutoencoder, feature: int, tokens: Sequence[int]
) -> Float[np.ndarray, "layer pos"]:
    """A feature's activation were its autoencoder at every layer: its encoder on each one's stream.

    The same part of the stream as the autoencoder's own (before, inside or after the block). At
    other layers than its own the encoder sees what it was not trained on: activations there say
    that the direction is in the stream, not that the feature would be one of that layer.

    Raises:
        ValueError: another model, no such feature, or a site that is not the residual stream.
    """
    place = Site.parse(sae.provenance.site)
    sae.check(model, place)
    sae.check_features([feature])
    if place.component not in STREAM:
        raise ValueError(
            f"{place} is not the residual stream, which all layers share; "
            f"valid: {', '.join(STREAM)}"
        )
    sites = [Site(layer, place.component) for layer in range(model.n_layers)]
    ids, mask = model.pad([tokens])
    found = hooks.read(model, sites, ids, mask, partial(_activations, sae, [feature]))
    return torch.stack([found[site][0, :, 0].cpu() for site in sites]).numpy()


def _ordinary(
    site: SiteRows, kept: Bool[np.ndarray, " rows"], batch_rows: int
) -> Iterator[tuple[Int[np.ndarray, " batch"], Float[Tensor, "batch width"]]]:
    """Numbers and activations of the kept rows; shards stay mapped, only a batch is in memory."""
    for rows, shard in site:
        chosen = np.flatnonzero(kept[rows])
        for start in range(0, len(chosen), batch_rows):
            part = chosen[start : start + batch_rows]
            yield rows.start + part, shard[torch.from_numpy(part)].float()


def _activations(
    sae: SparseAutoencoder, features: Sequence[int], x: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes feature"]:
    x = x.to(sae.encoder.device).float()
    if sae.kind == "topk":
        # Whether a feature is among the k largest is for all others to say.
        return sae.encode(x)[..., list(features)]
    chosen = torch.tensor(features, device=x.device)
    pre = x @ sae.encoder[:, chosen] + sae.encoder_bias[chosen]
    return activate(sae.kind, pre, sae.k, sae.threshold[chosen])
