"""For which concepts an autoencoder has a feature."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pipeline.methods.sae import SparseAutoencoder
from pipeline.methods.sae_quality import held_out
from pipeline.store.store import ActivationStore


def coverage(
    autoencoders: Sequence[SparseAutoencoder],
    store: ActivationStore,
    labels: pd.DataFrame,
    kept: Bool[np.ndarray, " rows"],
    *,
    seed: int,
    reported: Bool[np.ndarray, " rows"] | None = None,
    shuffles: int = 5,
    batch_rows: int = 4096,
) -> pd.DataFrame:
    """How well the best single feature of each autoencoder tells a concept's rows from others.

    A feature says yes where it is active: F1 = 2 (active and concept) / (active + concept), all
    counts of rows. It is chosen on one half of the samples and reported on the other. F1 rather
    than the area under the ROC curve: a feature *for* a concept of few rows must be silent
    elsewhere, which that area hardly asks for (active on the concept and as many other rows again,
    at one row in twenty, it is 0.97 and F1 0.67); and F1 needs two counts, not all activations.

    `shuffled` is the same with labels shuffled within each half, by whole samples where a
    concept's label is one for each sample, and else by rows; `chance` = 2 p / (1 + p), the F1 of a
    feature that is always active, for a share p of rows.

    Args:
        autoencoders: of any sizes and sites of the store; each batch is read once for all.
        store: activations.
        labels: whether a row of the store (row) is of a concept (column).
        kept: the rows to look at, without special tokens.
        seed: of the halves and shuffles.
        reported: rows of the store that are reported on, whole samples; half of the samples, drawn
            at random, without it.
        shuffles: how many `shuffled` is the mean of.
        batch_rows: rows that are encoded at a time.

    Returns:
        A row for each autoencoder and concept: `site`, `kind`, `n_features`, `concept`, the chosen
        `feature`, its `f1`, `shuffled`, `chance`; `positives` of `rows` in the half reported on.

    Raises:
        ValueError: labels for other rows, a concept without rows in a half, no shuffles, or a
            store of another model or without a site.
    """
    if len(labels) != len(store) or kept.shape != (len(store),):
        raise ValueError(f"labels have {len(labels)} rows, the store has {len(store)}")
    if shuffles < 1:
        raise ValueError(f"shuffles {shuffles}; valid: 1 or more")
    rows = {sae.provenance.site: sae.rows_of(store) for sae in autoencoders}
    numbers, samples = np.flatnonzero(kept), store.rows["sample"].to_numpy()[kept]
    half = (held_out(samples, 0.5, seed) if reported is None else reported[kept]).astype(int)
    own = labels.to_numpy(dtype=bool)[kept]
    for concept, column in zip(labels, own.T, strict=True):
        for side, purpose in enumerate(("to choose a feature by", "to report on")):
            if not column[half == side].any():
                raise ValueError(f"concept {concept!r} has no row in the half {purpose}")
    drawn = [own, *(_shuffled(own, samples, half, (seed, draw)) for draw in range(shuffles))]
    marked = np.concatenate(drawn, axis=1)
    counts = [_Counts(marked.shape[1], sae.n_features) for sae in autoencoders]
    for start in range(0, len(numbers), batch_rows):
        part = slice(start, start + batch_rows)
        x = {site: found[numbers[part]].float() for site, found in rows.items()}
        for sae, count in zip(autoencoders, counts, strict=True):
            active = sae.encode(x[sae.provenance.site].to(sae.encoder.device)) > 0
            count.add(active.cpu(), marked[part], half[part])
    tables = []
    positives = own[half == 1].sum(0)
    share = positives / (half == 1).sum()
    for sae, count in zip(autoencoders, counts, strict=True):
        feature, f1 = count.best(np.stack([marked[half == side].sum(0) for side in (0, 1)]))
        f1 = f1.reshape(1 + shuffles, -1)
        tables.append(
            pd.DataFrame(
                {
                    "site": sae.provenance.site,
                    "kind": sae.kind,
                    "n_features": sae.n_features,
                    "concept": labels.columns,
                    "feature": feature[: own.shape[1]],
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
    """Rows at which a feature is active, and of these those of a concept, in either half."""

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
            here = torch.from_numpy(half == side)
            fired = active[here].float()
            self._active[side] += fired.sum(0).numpy()
            self._both[side] += (torch.from_numpy(marked)[here].float().T @ fired).numpy()

    def best(
        self, positives: Int[np.ndarray, "half concept"]
    ) -> tuple[Int[np.ndarray, " concept"], Float[np.ndarray, " concept"]]:
        """The feature with the largest F1 in the first half, and its F1 in the second."""
        chosen, reported = 2 * self._both / (positives[..., None] + self._active[:, None])
        features = chosen.argmax(1)
        return features, reported[np.arange(len(features)), features]


def _shuffled(
    labels: Bool[np.ndarray, "rows concept"],
    samples: Shaped[np.ndarray, " rows"],
    half: Int[np.ndarray, " rows"],
    seed: tuple[int, int],
) -> Bool[np.ndarray, "rows concept"]:
    """Labels in another order within each half; a sample's own stay together if they are equal."""
    rng = np.random.default_rng(seed)
    names, codes = np.unique(samples, return_inverse=True)
    by_sample = np.lexsort((rng.permutation(len(names))[codes], half))
    by_row = np.lexsort((rng.permutation(len(samples)), half))
    places = np.argsort(half, kind="stable")
    means = np.stack([np.bincount(codes, column) for column in labels.T]) / np.bincount(codes)
    whole = np.isin(means, (0, 1)).all(1)
    found = np.empty_like(labels)
    found[places] = np.where(whole, labels[by_sample], labels[by_row])
    return found
