"""Read fitted vectors: cosines between them, and how much they depend on the training prompts."""

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float64, Int
from scipy.stats import beta

from pipeline.config.declared import OfSplits, Range
from pipeline.measures.statistics import RESAMPLES, resampling_counts
from pipeline.methods.directions import FITTED, Directions, Key
from pipeline.methods.fitting import Classes
from pipeline.methods.vectors import difference_of_means
from pipeline.store.store import ActivationStore

SHUFFLED, SAME_SHUFFLE = "shuffled", "same_shuffle"


def vector_cosines(fits: Mapping[str, Any], *, directions: list[str]) -> pd.DataFrame:
    """Compute the cosines between directions of all layers, of the same and of different fits.

    Beside them stand those of the fits' controls with shuffled labels: `shuffled` compares draw k
    of one with draw k + 1 of the other, two unrelated contrasts of these activations, which differ
    from random directions as activations vary more in some directions than in others;
    `same_shuffle`, for fits to the same prompts, compares draw k with draw k, the same permutation
    of the rows: over layers this is what the residual stream keeps of any contrast.

    Args:
        fits: contains the directions.
        directions: names of fits; `STUDY/NAME` is another study's.

    Returns:
        A row per pair of fits, pair of layers, source (`fitted`, `shuffled`, `same_shuffle`) and
        draw: `first`, `first_layer`, `second`, `second_layer`, `source`, `draw`, `cosine`, and
        `isotropic`, the `random_cosine` of the width.

    Raises:
        ValueError: no directions, one twice, or directions of different widths or models.
    """
    if not directions or len(set(directions)) < len(directions):
        raise ValueError(f"directions = {directions}; valid: one or more fits, each once")
    loaded: dict[str, Directions] = {name: fits[name] for name in directions}
    for name, fit in loaded.items():
        first = loaded[directions[0]]
        first.provenance.require(f"directions {directions[0]}", model=fit.provenance.model)
        widths = {len(vector) for each in (first, fit) for vector in each.vectors.values()}
        if len(widths) > 1:
            raise ValueError(f"directions {directions[0]} and {name} differ in width: {widths}")
    return pd.concat(
        [
            _compared(loaded[first], loaded[second]).assign(first=first, second=second)
            for first, second in combinations_with_replacement(directions, 2)
        ],
        ignore_index=True,
    )


def vector_stability(
    store: Annotated[ActivationStore, OfSplits("train")],
    prompts: pd.DataFrame,
    *,
    component: str,
    contrasts: dict[str, list[str]],
    position: Any = -1,
    cluster: str = "sample",
    resamples: Annotated[int, Range(1, most=RESAMPLES)] = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute how alike differences of means of other training prompts are, at every layer.

    `bootstrap`: cosine of the vector of resampled clusters with that of all prompts. `halves`:
    cosine between the vectors of two random halves of the clusters, which share no prompt. Both
    also with labels permuted among the prompts, each class centred on its mean: a vector of noise
    alone has a bootstrap cosine of about 1/sqrt(2), as the resampled prompts are among all, and
    halves of about 0.

    Args:
        store: activations of `component`.
        prompts: the dataset, with labels; its train split is used.
        component: such as `resid_pre`.
        contrasts: name -> the label that the vector points to, the label that it points away from.
        position: as of `steering_vectors`.
        cluster: column whose values are resampled together, such as `topic`.
        resamples: number of draws, at most 2000.
        seed: of the draws.

    Returns:
        A row per contrast, layer, labels (`fitted` or `shuffled`) and draw: `bootstrap`, `halves`,
        and the numbers of `prompts` and `clusters`.

    Raises:
        ValueError: as `steering_vectors`; no such column, a contrast that is not two labels, a
            number of resamples that is not available, or clusters so few that a draw lacks a label.
    """
    train = prompts[prompts["split"] == "train"]
    if cluster not in train:
        raise ValueError(
            f"cluster: no column {cluster!r} in the dataset; it has: {', '.join(train)}"
        )
    if not 1 <= resamples <= RESAMPLES:
        raise ValueError(f"resamples: {resamples}; valid: 1 to {RESAMPLES}")
    for name, labels in contrasts.items():
        if len(set(labels)) != 2 or len(labels) != 2:
            raise ValueError(f"contrasts.{name}: {labels}; valid: two labels")
    tables = [
        _stability(
            Classes(store, train, positive=positive, negative=negative, component=component),
            train.set_index("sample", drop=False)[cluster],
            position,
            resamples,
            seed,
        ).assign(contrast=name)
        for name, (positive, negative) in contrasts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def random_cosine(width: int, level: float = 0.95) -> float:
    """Return the size below which |cosine| of two random directions is, with this probability.

    cos² of isotropic directions is Beta(1/2, (width - 1)/2); its mean is 1/width.
    """
    return float(np.sqrt(beta.ppf(level, 0.5, (width - 1) / 2)))


def _compared(fit: Directions, other: Directions) -> pd.DataFrame:
    draws, other_draws = (
        sum(source == SHUFFLED for source, _ in each.controls) for each in (fit, other)
    )
    compared = [(FITTED, 0, 0)]
    if min(draws, other_draws) > 1:
        compared += [(SHUFFLED, draw, (draw + 1) % other_draws) for draw in range(draws)]
    if fit.provenance.dataset == other.provenance.dataset:
        compared += [(SAME_SHUFFLE, draw, draw) for draw in range(min(draws, other_draws))]
    tables = []
    for source, draw, other_draw in compared:
        name = FITTED if source == FITTED else SHUFFLED
        first, second = (
            torch.stack([each.vectors[Key(name, number, layer)].double() for layer in each.layers])
            for each, number in ((fit, draw), (other, other_draw))
        )
        cosines = _cosines(first.numpy()[:, None], second.numpy()[None])
        table = pd.DataFrame(cosines, index=fit.layers, columns=other.layers)
        table = table.rename_axis(index="first_layer", columns="second_layer")
        tables.append(table.stack().rename("cosine").reset_index().assign(source=source, draw=draw))
    width = len(next(iter(fit.vectors.values())))
    return pd.concat(tables, ignore_index=True).assign(isotropic=random_cosine(width))


def _stability(
    classes: Classes, clusters: pd.Series, position: int | str, resamples: int, seed: int
) -> pd.DataFrame:
    samples = classes.samples(position)
    is_positive = np.repeat([True, False], list(map(len, samples)))
    named = clusters.loc[np.concatenate(samples)].astype("string").fillna("")
    # Prompts without a cluster are independent; no cluster begins with a blank.
    groups = pd.factorize(named.where(named != "", " " + named.index.astype(str)))[0]
    weights = {
        labels: _row_weights(is_positive, groups, resamples, seed, shuffled=labels == SHUFFLED)
        for labels in (FITTED, SHUFFLED)
    }
    tables = []
    for layer in classes.layers:
        sides = classes.at(position, layer)
        if not difference_of_means(*sides).any():
            continue  # As of `steering_vectors`: no vector where all prompts are alike.
        states = [rows.double().numpy() for rows in sides]
        centred = [side - side.mean(0) for side in states]
        for labels, rows in ((FITTED, states), (SHUFFLED, centred)):
            both = np.concatenate(rows)
            vectors = {name: each @ both for name, each in weights[labels].items()}
            table = pd.DataFrame(
                {
                    "bootstrap": _cosines(vectors["all"], vectors["resampled"]),
                    "halves": _cosines(vectors["half"], vectors["other_half"]),
                }
            )
            tables.append(table.assign(layer=layer, labels=labels, draw=range(resamples)))
    sizes = {"prompts": len(is_positive), "clusters": int(groups.max()) + 1}
    return pd.concat(tables, ignore_index=True).assign(**sizes)


def _row_weights(
    is_positive: Bool[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    resamples: int,
    seed: int,
    *,
    shuffled: bool,
) -> dict[str, Float64[np.ndarray, "draws rows"]]:
    """Compute the weights of rows whose sum is each draw's difference of means.

    Raises:
        ValueError: a draw without a row of either label.
    """
    rng = np.random.default_rng([seed, len(is_positive)])
    clusters = int(groups.max()) + 1
    counts = resampling_counts(clusters, seed)[:resamples, groups].astype(float)
    order = np.argsort(rng.random((resamples, clusters)), axis=1)
    half = (order < clusters // 2)[:, groups].astype(float)
    labels = np.tile(is_positive, (resamples, 1))
    if shuffled:
        labels = rng.permuted(labels, axis=1)
    weights = {"all": np.ones_like(half), "resampled": counts, "half": half, "other_half": 1 - half}
    return {name: _means_apart(each, labels, clusters) for name, each in weights.items()}


def _means_apart(
    weights: Float64[np.ndarray, "draws rows"],
    labels: Bool[np.ndarray, "draws rows"],
    clusters: int,
) -> Float64[np.ndarray, "draws rows"]:
    sides = [weights * labels, weights * ~labels]
    totals = [side.sum(1, keepdims=True) for side in sides]
    if any((total == 0).any() for total in totals):
        raise ValueError(
            f"{clusters} clusters are too few: a draw of them has no prompt of a label"
        )
    return sides[0] / totals[0] - sides[1] / totals[1]


def _cosines(
    first: Float64[np.ndarray, "*#rows d_model"], second: Float64[np.ndarray, "*#rows d_model"]
) -> Float64[np.ndarray, "..."]:
    """Compute cosines of vectors; NaN of a vector of zeros."""
    with np.errstate(invalid="ignore"):
        norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
        return np.asarray((first * second).sum(-1) / norms)
