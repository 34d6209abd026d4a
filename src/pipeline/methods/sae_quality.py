"""How good an autoencoder is: on held-out activations, and to the model that reads them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import cross_entropy
from pipeline.methods.interventions import Replace
from pipeline.methods.sae import SparseAutoencoder
from pipeline.methods.sae_interventions import Reconstruct
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore

LEAST_CHANGE = 0.05
"""Nats per token that zeroing must change for a share of them to say anything: below, a few texts'
noise is divided by next to nothing.
"""


@dataclass(frozen=True)
class Quality:
    """Of an autoencoder on `rows` activations.

    explained_variance = 1 - Σ||x - x̂||² / Σ||x - x̄||²; l0: mean number of active features of a
    row; dead: features active for none of the rows.
    """

    rows: int
    explained_variance: float
    l0: float
    dead: int


@dataclass(frozen=True)
class LossRecovered:
    """Cross-entropy of text in nats per token: as it is, reconstructed, and with 0 instead.

    recovered = (zeroed - reconstructed) / (zeroed - clean); NaN where zeroing changes the loss by
    less than `LEAST_CHANGE`, up or down: there is nothing to recover.
    """

    clean: float
    reconstructed: float
    zeroed: float
    recovered: float


def quality(
    sae: SparseAutoencoder,
    store: ActivationStore,
    kept: Bool[np.ndarray, " rows"],
    *,
    batch_rows: int = 4096,
) -> Quality:
    """Measure an autoencoder on the kept rows of its site, in float64 sums, a batch at a time.

    Raises:
        ValueError: no rows, or a store of another model or site.
    """
    if not kept.any():
        raise ValueError("no rows are kept to measure an autoencoder on")
    site = sae.rows_of(store)
    device = sae.encoder.device
    total = torch.zeros(sae.width, dtype=torch.float64, device=device)
    squares = errors = active = 0.0
    fired = torch.zeros(sae.n_features, dtype=torch.bool, device=device)
    numbers = np.flatnonzero(kept)
    for start in range(0, len(numbers), batch_rows):
        x = site[numbers[start : start + batch_rows]].to(device).float()
        features = sae.encode(x)
        errors += float((x - sae.decode(features)).double().square().sum())
        total += x.double().sum(0)
        squares += float(x.double().square().sum())
        active += float((features > 0).sum())
        fired |= (features > 0).any(0)
    n = len(numbers)
    variance = squares - float(total.square().sum()) / n
    return Quality(n, 1 - errors / variance, active / n, int((~fired).sum()))


def held_out(samples: np.ndarray, share: float, seed: int) -> Bool[np.ndarray, " rows"]:
    """Which rows are held out: all rows of a share of the samples, drawn at random.

    Raises:
        ValueError: the share leaves nothing on a side.
    """
    names = np.unique(samples)
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise ValueError(f"share {share} holds out {count} of {len(names)} samples")
    drawn = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(samples, drawn)


def losses_recovered(
    model: LanguageModel,
    autoencoders: Sequence[SparseAutoencoder],
    texts: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
) -> list[LossRecovered]:
    """Put each reconstruction, and zero, at its site in the model, and read texts.

    Every token is edited but the first, where activations of many models are unlike any others;
    losses are averaged over tokens, the first left out.
    """
    edits = [
        Edit(Site.parse(sae.provenance.site), edit, "after_first")
        for sae in autoencoders
        for edit in (Reconstruct(sae), Replace(torch.zeros(sae.width)))
    ]
    conditions = [Condition(), *(Condition(edits=(edit,)) for edit in edits)]
    losses = cross_entropy(model, texts, conditions, batch_tokens=batch_tokens)
    tokens: Tensor = torch.tensor([len(text) - 1.0 for text in texts])
    clean, *changed = ((losses @ tokens) / tokens.sum()).tolist()
    found = []
    for reconstructed, zeroed in zip(changed[::2], changed[1::2], strict=True):
        matters = abs(zeroed - clean) >= LEAST_CHANGE
        recovered = (zeroed - reconstructed) / (zeroed - clean) if matters else math.nan
        found.append(LossRecovered(clean, reconstructed, zeroed, recovered))
    return found
