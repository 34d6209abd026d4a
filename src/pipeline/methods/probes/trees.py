"""Distance probes: is there a linear map under which the words of a sentence lie as in its tree?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.declared import OfSplits, OneOrMore, Range
from pipeline.data.prompts import select_prompts
from pipeline.measures.trees import (
    attachment_score,
    chain_edges,
    edges_of,
    spanning_edges,
)
from pipeline.methods.directions import FITTED, Key
from pipeline.methods.probes.probes import SHUFFLED, Probes, fields_of, key_of, probe_provenance
from pipeline.methods.probes.sentences import stored_sentences, words_of
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore

RANDOM = "random"
"""Source of a control probe: a random map, not fitted."""


@dataclass(frozen=True, eq=False)
class DistanceProbes(Probes):
    """Maps B [rank, d_model] of every layer: squared distances under B are distances in a tree."""

    @classmethod
    def stand_in(  # type: ignore[override]
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        component: str,
        heads: str = "heads",
        rank: int = 64,
        epochs: int = 40,
        draws: int = 0,
    ) -> "DistanceProbes":
        """Check the options of `distance_probe` before it is fitted.

        Raises:
            ValueError: as `distance_probe`.
        """
        _check(model, component, rank, epochs, draws)
        for split in ("train", "val"):
            for row in select_prompts(prompts, None, [split]).to_dict("records"):
                words_of(row, heads)
        return cls({}, {}, component, (heads,), (), pd.DataFrame(), Provenance(model=""))


def distance_probe(
    model: LanguageModel,
    store: Annotated[ActivationStore, OfSplits("train", "val")],
    prompts: pd.DataFrame,
    *,
    component: str,
    heads: str = "heads",
    rank: int = 64,
    epochs: int = 40,
    learning_rate: Annotated[float, Range(above=0)] = 1e-3,
    batch: OneOrMore = 20,
    draws: int = 2,
    seed: int = 0,
) -> DistanceProbes:
    """Fit a distance probe at every layer, with controls of permuted words and of random maps.

    Minimises the mean over sentences s of 1 / |s|² Σ_ij |d(i, j) - ||B (h_i - h_j)||²|, d the
    number of edges between words i and j, h_i the state at a word's last token, each dimension
    divided by its standard deviation: some models have a few that are far larger. Adam on the train
    split; the epoch with the least loss on the val split is kept. Controls: `shuffled`, the same
    with every tree on randomly permuted words; `random`, B as it is drawn.

    Args:
        model: provides the tokenizer.
        store: activations of `component` at all tokens of the train and val split.
        prompts: the dataset.
        component: such as `resid_pre`.
        heads: the column with the number of each word's parent, from 1; 0 for the root. Words are
            runs of letters and digits, hyphens and apostrophes between them.
        rank: rows of B.
        epochs: passes over the train split.
        learning_rate: of Adam.
        batch: sentences a step.
        draws: of each control.
        seed: of maps, order and permutations.

    Raises:
        ValueError: an unknown column, heads that are no tree of the words, an option out of range,
            or a word whose last token is not in the store.

    Source: Hewitt and Manning 2019. They decay the learning rate and stop early; their trees are
    Stanford dependencies.
    """
    _check(model, component, rank, epochs, draws)
    train, val = (
        stored_sentences(model, store, prompts, split, heads) for split in ("train", "val")
    )
    weights, chosen = {}, []
    for site in store.sites:
        if Site.parse(site).component != component:
            continue
        layer = Site.parse(site).layer
        states, val_states = (each.states(store, site) for each in (train, val))
        scale = states[train.real].std(0).clamp_min(torch.finfo(states.dtype).tiny)
        for source, count in ((FITTED, 1), (SHUFFLED, draws), (RANDOM, draws)):
            for draw in range(count):
                rng = np.random.default_rng([seed, draw]) if source == SHUFFLED else None
                fitted, loss, epoch = _fit(
                    (states / scale, train.real, train.distances(rng)),
                    (val_states / scale, val.real, val.distances(rng)),
                    rank,
                    0 if source == RANDOM else epochs,
                    learning_rate,
                    batch,
                    torch.Generator().manual_seed(seed + draw),
                )
                key = Key(source, draw, layer)
                weights[key] = fitted / scale
                chosen.append({**fields_of(key), "score": -loss, "epoch": epoch})
    return DistanceProbes(
        weights,
        {key: torch.zeros(rank) for key in weights},
        component,
        (heads,),
        (),
        pd.DataFrame(chosen),
        probe_provenance(store, component, f"distances in trees, rank {rank}"),
    )


def trees_by_layer(
    model: LanguageModel,
    store: ActivationStore,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    split: str = "test",
) -> pd.DataFrame:
    """Tabulate the trees that distance probes read from each sentence of a split.

    Args:
        model: provides the tokenizer.
        store: activations of the probes' component at all tokens.
        prompts: the dataset.
        fits: the probes, among others.
        fit: their name.
        split: of the dataset.

    Returns:
        One row per sample, layer, source and draw: `sample`, `label`, `split`, `topic`, `layer`,
        `source` (`fitted`, `shuffled` or `random`), `draw`, `fit_score` (the negative loss on the
        val split), `chosen_on` (that split), `score` (UUAS), `reference` (UUAS of the chain of
        adjacent words), `edges` (pairs of word numbers from 0, such as `0-1 1-2`).

    Raises:
        ValueError: no such fit, no sentences of the split in the store, probes of another model.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    probes: Probes = fits[fit]
    mark = store.fingerprint
    probes.provenance.require("probes", model=mark.model, template=mark.template)
    sentences = stored_sentences(model, store, prompts, split, probes.targets[0])
    scores = {key_of(row): row["score"] for row in probes.chosen.to_dict("records")}
    true = [edges_of(parents) for parents in sentences.parents]
    reference = [
        attachment_score(chain_edges(n), edges)
        for n, edges in zip(sentences.counts, true, strict=True)
    ]
    tables = []
    for key in sorted(probes.weights, key=lambda key: (key.layer, key.source, key.draw)):
        states = sentences.states(store, str(Site(key.layer, probes.component)))
        squared = squared_distances(states, probes.weights[key].float()).numpy()
        trees = [
            spanning_edges(distances[:n, :n])
            for distances, n in zip(squared, sentences.counts, strict=True)
        ]
        table = sentences.samples[["sample", "label", "split", "topic"]].assign(**fields_of(key))
        table["fit_score"], table["chosen_on"] = scores[key], "val"
        table["score"] = [attachment_score(*pair) for pair in zip(trees, true, strict=True)]
        table["reference"] = reference
        table["edges"] = [" ".join(f"{a}-{b}" for a, b in sorted(tree)) for tree in trees]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def squared_distances(
    states: Float[Tensor, "sentences words d_model"], weight: Float[Tensor, "rank d_model"]
) -> Float[Tensor, "sentences words words"]:
    """Compute ||B (h_i - h_j)||² of all pairs of words."""
    mapped = states @ weight.T
    return (mapped[:, :, None] - mapped[:, None]).square().sum(-1)


def _fit(
    train: tuple[Tensor, Tensor, Tensor],
    val: tuple[Tensor, Tensor, Tensor],
    rank: int,
    epochs: int,
    learning_rate: float,
    batch: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "rank d_model"], float, int]:
    """Return the map with the least loss on the val split, that loss, and its epoch."""
    width = train[0].shape[-1]
    weight = (0.05 * (2 * torch.rand(rank, width, generator=generator) - 1)).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=learning_rate)
    best, least, at = weight.detach().clone(), float(distance_loss(weight.detach(), *val)), 0
    for epoch in range(1, epochs + 1):
        for chosen in torch.randperm(len(train[0]), generator=generator).split(batch):
            optimiser.zero_grad()
            distance_loss(weight, *(each[chosen] for each in train)).backward()
            optimiser.step()
        with torch.no_grad():
            loss = float(distance_loss(weight, *val))
        if loss < least:
            best, least, at = weight.detach().clone(), loss, epoch
    return best, least, at


def distance_loss(
    weight: Float[Tensor, "rank d_model"],
    states: Float[Tensor, "sentences words d_model"],
    real: Bool[Tensor, "sentences words"],
    distances: Float[Tensor, "sentences words words"],
) -> Float[Tensor, ""]:
    """Compute the mean over sentences of the mean |distance error| of all pairs of words."""
    errors = (squared_distances(states, weight) - distances).abs()
    pairs = real[:, :, None] & real[:, None]
    return ((errors * pairs).sum((1, 2)) / real.sum(1) ** 2).mean()


def _check(model: LanguageModel, component: str, rank: int, epochs: int, draws: int) -> None:
    width = model.width(Site(0, component))
    for name, value, least, most in (
        ("rank", rank, 1, width),
        ("epochs", epochs, 1, None),
        ("draws", draws, 0, None),
    ):
        if value < least or (most is not None and value > most):
            valid = f"{least} to {most}" if most else f"{least} or more"
            raise ValueError(f"{name}: {value}; valid: {valid}")
