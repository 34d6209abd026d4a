"""Projections of contextual embeddings to a plane: PCA and t-SNE."""

from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int

from pipeline.config.declared import Range, Selected
from pipeline.data.prompts import select_prompts
from pipeline.methods.representations.stored_layers import stored_layers, stored_samples
from pipeline.store.store import ActivationStore


def projections(
    store: ActivationStore,
    prompts: pd.DataFrame,
    seed: int,
    *,
    component: str = "resid_pre",
    layers: Any = "all",
    samples: Annotated[dict[str, Any], Selected()] | None = None,
    perplexity: Annotated[float, Range(1)] = 10.0,
) -> pd.DataFrame:
    """Tabulate where PCA and t-SNE put the states of samples in a plane, layer by layer.

    PCA: coordinates (X - mean) v_1 and (X - mean) v_2, v_k the k-th right singular vector of
    X - mean, with its largest entry positive; `share_1`, `share_2` = s_k² / Σ s², the shares of
    variance. t-SNE: the exact gradient, started from PCA. What a plane shows is compared with what
    is in the states: `neighbour` is the sample with the nearest state (Euclidean),
    `plane_neighbour` the one with the nearest point of the plane.

    Args:
        store: one position of each sample.
        prompts: the dataset.
        seed: of t-SNE.
        component: of the collected sites.
        layers: `all`, or a list.
        samples: the samples to project, as column -> value or values; None: all that are stored.
        perplexity: of t-SNE, below the number of samples.

    Returns:
        One row per layer, method and sample: `sample`, `label`, `split`, `topic`, `component`,
        `layer`, `method` (pca, tsne), `x`, `y`, `share_1`, `share_2` (of PCA), `perplexity` (of
        t-SNE), `neighbour`, `plane_neighbour`.

    Raises:
        ValueError: several positions of a sample; a component, layer, column or value that is not
            there; fewer than four samples; or a perplexity that is not between 1 and their number.

    Source: van der Maaten and Hinton 2008 for t-SNE, as scikit-learn has it.
    """
    stored = stored_samples(store, prompts)
    chosen = select_prompts(stored, samples)
    n = len(chosen)
    if n < 4:
        raise ValueError(f"{n} samples to project; valid: 4 or more")
    if not 1 <= perplexity < n:
        raise ValueError(f"perplexity {perplexity:g} with {n} samples; valid: 1 to below {n}")
    rows = chosen.index.to_numpy()
    named = chosen[["sample", "label", "split", "topic"]]
    numbers = chosen["sample"].to_numpy()
    tables = []
    for layer, states in stored_layers(store, component, layers):
        neighbours = numbers[_nearest(states[rows])]
        points, shares = pca(states[rows])
        for method, plane, details in (
            ("pca", points, {"share_1": shares[0], "share_2": shares[1], "perplexity": np.nan}),
            (
                "tsne",
                _tsne(states[rows], points, perplexity, seed),
                {"share_1": np.nan, "share_2": np.nan, "perplexity": perplexity},
            ),
        ):
            table = named.assign(component=component, layer=layer, method=method)
            table = table.assign(x=plane[:, 0], y=plane[:, 1], **details)
            nearest = numbers[_nearest(plane)]
            tables.append(table.assign(neighbour=neighbours, plane_neighbour=nearest))
    return pd.concat(tables, ignore_index=True)


def pca(
    states: Float64[np.ndarray, "rows width"],
) -> tuple[Float64[np.ndarray, "rows 2"], Float64[np.ndarray, "2"]]:
    """Project to the plane of largest variance; return coordinates and shares of variance.

    Shares of states without any variance are 0.
    """
    centred = states - states.mean(0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    plane = axes[:2]
    # A singular vector's sign is arbitrary.
    largest = np.take_along_axis(plane, np.abs(plane).argmax(1)[:, None], 1)
    variance = (lengths**2).sum()
    return centred @ (plane * np.sign(largest)).T, lengths[:2] ** 2 / max(variance, 1e-300)


def _tsne(
    states: Float64[np.ndarray, "rows width"],
    start: Float64[np.ndarray, "rows 2"],
    perplexity: float,
    seed: int,
) -> Float64[np.ndarray, "rows 2"]:
    # Imported here: scikit-learn takes a second.
    from sklearn.manifold import TSNE

    spread = start[:, 0].std()
    # Scaled as scikit-learn's own start, which has no noise to break ties of equal states.
    noise = np.random.default_rng(seed).normal(0, 1e-6, start.shape)
    scaled = start * (1e-4 / spread if spread > 1e-12 else 0.0) + noise
    options: dict[str, Any] = {"method": "exact", "random_state": seed, "perplexity": perplexity}
    return TSNE(2, init=scaled, **options).fit_transform(states).astype(float)


def _nearest(points: Float64[np.ndarray, "rows axes"]) -> Int[np.ndarray, " rows"]:
    """Return the nearest other row of each row; of several, the first."""
    squares = (points**2).sum(1)
    distances = squares[:, None] + squares - 2 * points @ points.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(1)
