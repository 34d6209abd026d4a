"""Measure which concepts an autoencoder has a feature for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pipeline.config.declared import ColumnName, Selection
from pipeline.data.prompts import select_prompts
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.quality import held_out
from pipeline.methods.sae.rows import completion_rows
from pipeline.store.store import ActivationStore


def coverage_by_size(
    prompts: pd.DataFrame,
    store: ActivationStore,
    fits: Mapping[str, Any],
    *,
    fit: str,
    concept: ColumnName = "topic",
    reported: Selection = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute `coverage` of a prompt column's values by the dictionaries of further sizes.

    Args:
        prompts: the dataset, with completions; only completion tokens are used.
        store: their activations.
        fits: contains the autoencoders.
        fit: the name of the autoencoders.
        concept: the column.
        reported: the prompts to report on, as an arm's `prompts`; features are chosen on the
            others. None: a random half of the samples.
        seed: of halves and shuffles.

    Raises:
        ValueError: no autoencoders of further sizes; as `coverage`.
    """
    saes: SparseAutoencoders = fits[fit]
    if not saes.by_size:
        raise ValueError(f"fit {fit} has no further sizes; give its option `sizes`")
    values = store.rows["sample"].map(prompts.set_index("sample")[concept])
    half = None
    if reported is not None:
        samples = select_prompts(prompts, reported)["sample"]
        half = store.rows["sample"].isin(samples).to_numpy()
    return coverage(
        saes.by_size,
        store,
        pd.DataFrame({value: values == value for value in sorted(values.unique())}),
        completion_rows(store, prompts),
        seed=seed,
        reported=half,
    )


def coverage(
    autoencoders: Sequence[SparseAutoencoder],
    store: ActivationStore,
    labels: pd.DataFrame,
    mask: Bool[np.ndarray, " rows"],
    *,
    seed: int,
    reported: Bool[np.ndarray, " rows"] | None = None,
    shuffles: int = 5,
    batch_rows: int = 4096,
) -> pd.DataFrame:
    """Compute F1 of each autoencoder's best single feature as a classifier for each concept.

    A feature predicts the concept where it is active: F1 = 2 (active and concept) / (active +
    concept), all counts of rows. The feature is chosen on one half of the samples and reported on
    the other. Why not ROC AUC: a feature *for* a rare concept must be inactive elsewhere, which AUC
    barely requires (for a concept in one row of twenty, a feature active on it and on as many other
    rows has AUC 0.97 and F1 0.67); and F1 needs two counts, not all activations.

    `shuffled` is F1 with labels shuffled within each half, by whole samples if a concept's label is
    constant in each sample, else by rows. `chance` = 2 p / (1 + p), the F1 of a feature that is
    always active, for a share p of positive rows.

    Args:
        autoencoders: of any sizes and sites of the store; each batch is read once for all.
        store: activations.
        labels: whether each row of the store (rows) has each concept (columns).
        mask: the rows to use, without special tokens.
        seed: of the halves and shuffles.
        reported: store rows to report on, in whole samples; default: a random half of the samples.
        shuffles: number of shuffles that `shuffled` averages.
        batch_rows: rows to encode at a time.

    Returns:
        One row per autoencoder and concept: `site`, `kind`, `n_features`, `concept`, the chosen
        `feature`, its `f1`, `shuffled`, `chance`; `positives` of `rows` in the reported half.

    Raises:
        ValueError: labels for other rows, a concept without rows in a half, no shuffles, or a
            store of another model or without a site.
    """
    if len(labels) != len(store) or mask.shape != (len(store),):
        raise ValueError(f"labels have {len(labels)} rows, the store has {len(store)}")
    if shuffles < 1:
        raise ValueError(f"shuffles {shuffles}; valid: 1 or more")
    rows = {sae.site: sae.rows_of(store) for sae in autoencoders}
    numbers, samples = np.flatnonzero(mask), store.rows["sample"].to_numpy()[mask]
    half = (held_out(samples, 0.5, seed) if reported is None else reported[mask]).astype(int)
    marks = labels.to_numpy(dtype=bool)[mask]
    for concept, column in zip(labels, marks.T, strict=True):
        for side, purpose in enumerate(("to choose a feature by", "to report on")):
            if not column[half == side].any():
                raise ValueError(f"concept {concept!r} has no row in the half {purpose}")
    label_sets = [
        marks,
        *(_shuffled(marks, samples, half, (seed, draw)) for draw in range(shuffles)),
    ]
    marked = np.concatenate(label_sets, axis=1)
    counts = [_Counts(marked.shape[1], sae.n_features) for sae in autoencoders]
    for start in range(0, len(numbers), batch_rows):
        part = slice(start, start + batch_rows)
        x = {site: of_site[numbers[part]].float() for site, of_site in rows.items()}
        for sae, count in zip(autoencoders, counts, strict=True):
            active = sae.encode(x[sae.site].to(sae.encoder.device)) > 0
            count.add(active.cpu(), marked[part], half[part])
    tables = []
    positives = marks[half == 1].sum(0)
    share = positives / (half == 1).sum()
    for sae, count in zip(autoencoders, counts, strict=True):
        feature, f1 = count.best(np.stack([marked[half == side].sum(0) for side in (0, 1)]))
        f1 = f1.reshape(1 + shuffles, -1)
        tables.append(
            pd.DataFrame(
                {
                    "site": sae.site,
                    "kind": sae.kind,
                    "n_features": sae.n_features,
                    "concept": labels.columns,
                    "feature": feature[: marks.shape[1]],
                    "f1": f1[0],
                    "shuffled": f1[1:].mean(0),
                    "chance": 2 * share / (1 + share),
                    "positives": positives,
                    "rows": int((half == 1).sum()),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


class _Counts:
    """Counts of active rows by feature, and of active concept rows, for each half."""

    def __init__(self, concepts: int, features: int) -> None:
        self._active = np.zeros((2, features))
        self._both = np.zeros((2, concepts, features))

    def add(
        self,
        active: Bool[Tensor, "rows feature"],
        marked: Bool[np.ndarray, "rows concept"],
        half: Int[np.ndarray, " rows"],
    ) -> None:
        for side in (0, 1):
            of_side = torch.from_numpy(half == side)
            fired = active[of_side].float()
            self._active[side] += fired.sum(0).numpy()
            self._both[side] += (torch.from_numpy(marked)[of_side].float().T @ fired).numpy()

    def best(
        self, positives: Int[np.ndarray, "half concept"]
    ) -> tuple[Int[np.ndarray, " concept"], Float[np.ndarray, " concept"]]:
        """Return the feature with the largest F1 in the first half, and its F1 in the second."""
        chosen, reported = 2 * self._both / (positives[..., None] + self._active[:, None])
        features = chosen.argmax(1)
        return features, reported[np.arange(len(features)), features]


def _shuffled(
    labels: Bool[np.ndarray, "rows concept"],
    samples: Shaped[np.ndarray, " rows"],
    half: Int[np.ndarray, " rows"],
    seed: tuple[int, int],
) -> Bool[np.ndarray, "rows concept"]:
    """Shuffle labels within each half; by whole samples if labels are constant in each sample."""
    rng = np.random.default_rng(seed)
    names, codes = np.unique(samples, return_inverse=True)
    by_sample = np.lexsort((rng.permutation(len(names))[codes], half))
    by_row = np.lexsort((rng.permutation(len(samples)), half))
    by_half = np.argsort(half, kind="stable")
    means = np.stack([np.bincount(codes, column) for column in labels.T]) / np.bincount(codes)
    by_samples = np.isin(means, (0, 1)).all(1)
    shuffled = np.empty_like(labels)
    shuffled[by_half] = np.where(by_samples, labels[by_sample], labels[by_row])
    return shuffled
