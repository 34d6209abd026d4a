"""Measure autoencoder quality: reconstruction of held-out activations, and loss recovered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.config.declared import OneOrMore
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import cross_entropy
from pipeline.methods.interventions import Replace
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.interventions import Reconstruct
from pipeline.methods.sae.rows import ordinary_rows, rows_of_split
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore

LEAST_CHANGE = 0.05
"""Minimum loss change under zero ablation, in nats per token, for `recovered` to be defined: below
it, noise over a few texts is divided by almost 0.
"""


@dataclass(frozen=True)
class Quality:
    """Reconstruction quality of an autoencoder on `rows` activations.

    explained_variance = 1 - Σ||x - x̂||² / Σ||x - x̄||²; l0: mean number of active features per
    row; dead: number of features that are active in no row.
    """

    rows: int
    explained_variance: float
    l0: float
    dead: int


@dataclass(frozen=True)
class LossRecovered:
    """Cross-entropy in nats per token: clean, with the reconstruction, and with zero ablation.

    recovered = (zeroed - reconstructed) / (zeroed - clean); NaN if zero ablation changes the loss
    by less than `LEAST_CHANGE` in either direction.
    """

    clean: float
    reconstructed: float
    zeroed: float
    recovered: float


def measured_quality(
    model: LanguageModel,
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    *,
    fit: str,
    split: str = "test",
    texts: OneOrMore = 50,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure reconstruction quality and loss recovered on a split held out from training.

    Args:
        model: the model.
        prompts: the dataset; recorded completions are appended to the prompts.
        store: activations at the autoencoders' sites.
        fits: contains the autoencoders.
        fit: the name of the autoencoders.
        split: the held-out split.
        texts: number of prompts for the loss; all of them would take longer than training.
        seed: of the choice of these prompts.

    Returns:
        One row per autoencoder: `site`, `kind`, `n_features`, and the fields of `Quality` and
        `LossRecovered`.
    """
    saes: SparseAutoencoders = fits[fit]
    rows = ordinary_rows(model, store) & rows_of_split(store, prompts, split)
    unseen = prompts[prompts["split"] == split].set_index("sample")
    drawn_samples = np.sort(
        np.random.default_rng(seed).permutation(unseen.index.to_numpy())[:texts]
    )
    read = [_with_completion(unseen.loc[sample]) for sample in drawn_samples]
    autoencoders = list(saes.by_name.values())
    losses = losses_recovered(model, autoencoders, read, batch_tokens=model.batch_tokens)
    return pd.DataFrame(
        [
            {
                "site": sae.site,
                "kind": sae.kind,
                "n_features": sae.n_features,
                **asdict(quality(sae, store, rows)),
                **asdict(recovered),
            }
            for sae, recovered in zip(autoencoders, losses, strict=True)
        ]
    )


def _with_completion(row: pd.Series) -> list[int]:
    return [*map(int, row["tokens"]), *map(int, row.get("completion_tokens", ()))]


def quality(
    sae: SparseAutoencoder,
    store: ActivationStore,
    mask: Bool[np.ndarray, " rows"],
    *,
    batch_rows: int = 4096,
) -> Quality:
    """Measure an autoencoder on the rows of a mask, batch by batch with float64 sums.

    Raises:
        ValueError: no rows, or a store of another model or site.
    """
    if not mask.any():
        raise ValueError("no rows are kept to measure an autoencoder on")
    site = sae.rows_of(store)
    device = sae.encoder.device
    total = torch.zeros(sae.width, dtype=torch.float64, device=device)
    squares = errors = active = 0.0
    fired = torch.zeros(sae.n_features, dtype=torch.bool, device=device)
    numbers = np.flatnonzero(mask)
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
    """Mask the held-out rows: all rows of a random share of the samples.

    Raises:
        ValueError: the share leaves one side empty.
    """
    names = np.unique(samples)
    count = round(share * len(names))
    if not 0 < count < len(names):
        raise ValueError(f"share {share} holds out {count} of {len(names)} samples")
    held_out_samples = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(samples, held_out_samples)


def losses_recovered(
    model: LanguageModel,
    autoencoders: Sequence[SparseAutoencoder],
    texts: Sequence[Sequence[int]],
    *,
    batch_tokens: int,
) -> list[LossRecovered]:
    """Measure the loss on texts with each reconstruction, and with zero, patched in at its site.

    The first token is not edited, since its activations are outliers in many models. Losses are
    means over all tokens but the first.
    """
    edits = [
        Edit(Site.parse(sae.site), edit, "after_first")
        for sae in autoencoders
        for edit in (Reconstruct(sae), Replace(torch.zeros(sae.width)))
    ]
    conditions = [Condition(), *(Condition(edits=(edit,)) for edit in edits)]
    losses = cross_entropy(model, texts, conditions, batch_tokens=batch_tokens)
    tokens: Tensor = torch.tensor([len(text) - 1.0 for text in texts])
    clean, *changed = ((losses @ tokens) / tokens.sum()).tolist()
    recoveries = []
    for reconstructed, zeroed in zip(changed[::2], changed[1::2], strict=True):
        matters = abs(zeroed - clean) >= LEAST_CHANGE
        recovered = (zeroed - reconstructed) / (zeroed - clean) if matters else math.nan
        recoveries.append(LossRecovered(clean, reconstructed, zeroed, recovered))
    return recoveries
