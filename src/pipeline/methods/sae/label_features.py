"""The autoencoder feature that tells two labels apart, as a direction to steer with."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from pipeline.config.declared import Label
from pipeline.data.positions import resolve
from pipeline.data.prompts import select_prompts
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.directions import FITTED, OTHER_FEATURES, Directions, Key
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.interventions import clamp
from pipeline.methods.sae.rows import ordinary_rows
from pipeline.model.loading import LanguageModel, NeedsRun
from pipeline.model.sites import Site, chosen_layers
from pipeline.store.store import ActivationStore

ALIKE = 20
"""Other features are drawn among so many whose share of active prompts is nearest."""
_SHUFFLES = 20


class LabelFeatures(Directions):
    """Decoder rows of chosen features, times their largest activations, by layer.

    `candidates` has a row per feature: `site`, `layer`, `source`, `draw`, `feature`, `area` under
    the ROC curve, its `chance`, `active` (share of prompts) and `maximum` (activation).
    """

    @property
    def drawn(self) -> pd.DataFrame:
        """The rows of the chosen features and of those drawn to compare.

        Raises:
            NeedsRun: a stand-in, which has none.
        """
        if self.candidates is None:
            raise NeedsRun("features are not chosen yet")
        return self.candidates

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows of the chosen features; raises as `drawn`."""
        return self.drawn[self.drawn["source"] == FITTED]


def label_features(
    model: LanguageModel,
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    *,
    autoencoders: str,
    positive: Label,
    negative: Label,
    component: str = "resid_post",
    controls: dict[str, int] = {OTHER_FEATURES: 3},  # noqa: B006 - never changed
    seed: int = 0,
) -> LabelFeatures:
    """Choose the feature of each layer whose activation tells the positive label best.

    A prompt's activation is the largest over its stored tokens, special tokens left out; prompts
    without any are left out. The feature with the largest area under the ROC curve on the train
    split is chosen, of equal ones the one with the larger difference of means. Its direction is m
    w, m its largest activation on the train split and w its decoder row, so that strength 1 adds
    what the feature writes at most. `chance` is the mean of the largest area over all features when
    labels are shuffled.

    Args:
        model: for its special tokens.
        prompts: the dataset, with labels.
        store: activations at the autoencoders' sites.
        fits: contains the autoencoders.
        autoencoders: their name.
        positive: the label that the feature is active on.
        negative: the label that it is inactive on.
        component: of the autoencoders' sites to use, one autoencoder a layer.
        controls: `other_features`: others that are active in about as many prompts; or
            `isotropic`; kind -> number of draws. Their directions have the norm of m w.
        seed: of controls and shuffles.

    Raises:
        ValueError: no autoencoder at the component, or none of whose features is active; or a label
            of whose train prompts none was collected.

    Source: Wu et al. 2025, "AxBench" (features chosen by ROC AUC, scaled by their maximum).
    """
    saes: SparseAutoencoders = fits[autoencoders]
    at_layer = {
        Site.parse(name).layer: sae
        for name, sae in saes.at_sites.items()
        if Site.parse(name).component == component
    }
    if not at_layer:
        raise ValueError(f"no autoencoder at {component}; there are: {', '.join(saes.at_sites)}")
    train = prompts[prompts["split"] == "train"]
    read = store.rows.loc[ordinary_rows(model, store), "sample"]
    labelled = pd.concat([select_prompts(train, label) for label in (positive, negative)])
    labelled = labelled[labelled["sample"].isin(read)]
    for label in (positive, negative):
        if not labelled["label"].eq(label).any():
            raise ValueError(f"the store has no activations of train prompts labelled {label!r}")
    is_positive = labelled["label"].eq(positive).to_numpy()
    vectors: dict[Key, Tensor] = {}
    rows = []
    for layer, sae in sorted(at_layer.items()):
        largest = largest_activations(model, sae, store, labelled["sample"].tolist())
        table, directions = _of_layer(sae, largest, is_positive, controls, seed)
        rows.append(table.assign(site=sae.site, layer=layer))
        vectors |= {Key(*key, layer): direction for key, direction in directions.items()}
    fingerprint = store.fingerprint
    how = f"features of {autoencoders} by ROC AUC, {positive} against {negative}"
    sites = tuple(sae.site for _, sae in sorted(at_layer.items()))
    return LabelFeatures(
        vectors,
        component,
        "all",
        Provenance(fingerprint.model, fingerprint.template, fingerprint.dataset, sites, how),
        candidates=pd.concat(rows, ignore_index=True),
    )


def clamped_features(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: str,
    strengths: list[float],
    positions: list[Any] = ["after_first"],  # noqa: B006 - never changed
    layers: Any = "all",
) -> Iterator[Condition]:
    """Clamp each chosen feature at strength * its largest activation; 0 ablates it.

    x + (strength * m - f) w at every position of the rule, whether the feature is active there or
    not. Axes: `intervention`, `source` and `draw` of the feature, `layer`, `strength`, `positions`.

    Args:
        model: the model.
        prompts: the prompts of the arm.
        fits: contains the features and the autoencoders.
        fit: the name of a fit of `label_features`.
        autoencoders: the name of its autoencoders.
        strengths: factors of each feature's largest activation.
        positions: rules of `data.positions.EDITED`, or lists of positions.
        layers: `all` layers that have a feature, or a list.

    Raises:
        ValueError: no feature at a layer, or fits of another model.

    Source: Templeton et al. 2024, "Scaling monosemanticity" (clamping).
    """
    features: LabelFeatures = fits[fit]
    saes: SparseAutoencoders = fits[autoencoders]
    rules = {
        str(rule): resolve(prompts, model.tokenizer, rule, variables=model.template)
        for rule in positions
    }
    wanted = chosen_layers(layers, model.n_layers, model.name)
    if isinstance(layers, list) and set(wanted) - set(features.layers):
        raise ValueError(f"layers: {layers}; features are at {features.layers}")
    for row in features.drawn[features.drawn["layer"].isin(wanted)].itertuples():
        site = Site.parse(str(row.site))
        saes.check(model, site)
        for rule, positions_of_rule in rules.items():
            for strength in strengths:
                edit = clamp(saes.at_sites[str(site)], [int(row.feature)], strength * row.maximum)
                yield Condition(
                    {
                        "intervention": "clamp",
                        "source": str(row.source),
                        "draw": int(row.draw),
                        "layer": int(row.layer),
                        "strength": strength,
                        "positions": rule,
                    },
                    (Edit(site, edit, positions_of_rule),),
                    role=CANDIDATE if row.source == FITTED else CONTROL,
                )


def largest_activations(
    model: LanguageModel,
    sae: SparseAutoencoder,
    store: ActivationStore,
    samples: list[int],
    batch_rows: int = 4096,
) -> Float[np.ndarray, "sample feature"]:
    """Compute each feature's largest activation over the stored tokens of each sample."""
    site, number = sae.rows_of(store), {sample: n for n, sample in enumerate(samples)}
    owners = store.rows["sample"].map(number)
    used = np.flatnonzero(owners.notna().to_numpy() & ordinary_rows(model, store))
    largest = torch.zeros(len(samples), sae.n_features)
    for start in range(0, len(used), batch_rows):
        block = used[start : start + batch_rows]
        features = sae.encode(site[block].to(sae.encoder.device).float()).cpu()
        places = torch.from_numpy(owners.iloc[block].to_numpy(dtype=np.int64))
        largest.scatter_reduce_(0, places[:, None].expand_as(features), features, "amax")
    return largest.numpy()


def roc_areas(
    activations: Float[np.ndarray, "sample feature"], is_positive: Bool[np.ndarray, " sample"]
) -> Float[np.ndarray, " feature"]:
    """Compute P(positive > negative) + P(equal) / 2 of each feature by its rank sum."""
    ranks = rankdata(activations, axis=0)[is_positive].sum(axis=0)
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    areas: np.ndarray = (ranks - positives * (positives + 1) / 2) / (positives * negatives)
    return areas


def _of_layer(
    sae: SparseAutoencoder,
    largest: Float[np.ndarray, "sample feature"],
    is_positive: Bool[np.ndarray, " sample"],
    controls: Mapping[str, int],
    seed: int,
) -> tuple[pd.DataFrame, dict[tuple[str, int], Tensor]]:
    """Choose a feature of an autoencoder, and draw its controls."""
    maxima, active = largest.max(axis=0), (largest > 0).mean(axis=0)
    if not maxima.any():
        raise ValueError(f"no feature at {sae.site} is active in the train prompts of the labels")
    areas = roc_areas(largest, is_positive)
    differences = largest[is_positive].mean(axis=0) - largest[~is_positive].mean(axis=0)
    best = int(np.lexsort((-differences, -areas))[0])
    rng = np.random.default_rng(seed)
    chance = np.mean(
        [roc_areas(largest, rng.permutation(is_positive)).max() for _ in range(_SHUFFLES)]
    )
    alike = np.argsort(np.abs(active - active[best]), kind="stable")
    alike = alike[(alike != best) & (maxima[alike] > 0)][:ALIKE]
    draws = controls.get(OTHER_FEATURES, 0)
    if draws > len(alike):
        raise ValueError(f"{OTHER_FEATURES}: {draws} draws of {len(alike)} active features")
    chosen = [(FITTED, 0, best)]
    others: np.ndarray = rng.choice(alike, size=draws, replace=False)
    chosen += [(OTHER_FEATURES, draw, int(other)) for draw, other in enumerate(others)]
    table = pd.DataFrame(
        {
            "source": source,
            "draw": draw,
            "feature": feature,
            "area": float(areas[feature]),
            "chance": float(chance),
            "active": float(active[feature]),
            "maximum": float(maxima[feature]),
        }
        for source, draw, feature in chosen
    )
    direction = float(maxima[best]) * sae.decoder[best].cpu().float()
    directions = {(FITTED, 0): direction}
    for source, draw, feature in chosen[1:]:
        directions[source, draw] = _as_long(sae.decoder[feature].cpu().float(), direction)
    for draw in range(controls.get("isotropic", 0)):
        noise = torch.from_numpy(rng.standard_normal(sae.width)).float()
        directions["isotropic", draw] = _as_long(noise, direction)
    return table, directions


def _as_long(vector: Tensor, direction: Tensor) -> Tensor:
    return vector * (direction.norm() / vector.norm())
