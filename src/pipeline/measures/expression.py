"""Cluster the samples x features expression matrix on both axes and find communities in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.stats import hypergeom

MOST_CLUSTERS = (8, 12)
"""Maximum number of sample clusters and of feature clusters."""
MOST_FEATURES = 80
"""Maximum number of features in a matrix: the discriminating ones with the highest attribution."""


@dataclass(frozen=True)
class Clusters:
    """Hierarchical clusters of the rows and columns of a matrix.

    matrix: rows and columns in leaf order. sample_tree, feature_tree: scipy linkages of the matrix
    in its original order. samples, features: the cluster label of each, from 1.
    """

    matrix: pd.DataFrame
    sample_tree: Float[np.ndarray, "_ 4"]
    feature_tree: Float[np.ndarray, "_ 4"]
    samples: pd.Series
    features: pd.Series


def active_places(
    activations: Float[np.ndarray, "rows feature"], rows: pd.DataFrame
) -> pd.DataFrame:
    """List every nonzero feature activation, one row per (row, feature) pair.

    Args:
        activations: of all features of an autoencoder.
        rows: metadata of each row of `activations`, such as `sample` and `from_end`.

    Returns:
        The columns of `rows`, `feature` and `activation` (> 0).

    Raises:
        ValueError: `rows` and `activations` have different numbers of rows.
    """
    if len(rows) != len(activations):
        raise ValueError(f"{len(rows)} rows are described, there are {len(activations)}")
    row_numbers, features = np.nonzero(activations > 0)
    rows_of_active = rows.iloc[row_numbers].reset_index(drop=True)
    return rows_of_active.assign(feature=features, activation=activations[row_numbers, features])


def telling_features(
    readings: pd.DataFrame, sizes: pd.Series, *, samples: int, most: int
) -> list[int]:
    """Select the top features that discriminate between samples: active in 5 to 95 % of them.

    Args:
        readings: `sample` and `feature` of each nonzero activation.
        sizes: feature -> ranking value, such as its attribution. Other features are ignored.
        samples: total number of samples, including those without an active feature.
        most: maximum number of features.

    Returns:
        Largest first; empty if no feature discriminates.
    """
    shares = readings.groupby("feature")["sample"].nunique() / samples
    telling = shares.index[shares.between(0.05, 0.95)]
    ordered = sizes[sizes.index.isin(telling)].sort_values(ascending=False, kind="stable")
    return [int(feature) for feature in ordered.index[:most]]


def expression_matrix(
    readings: pd.DataFrame, *, value: str, samples: Sequence[int]
) -> pd.DataFrame:
    """Build the samples x features matrix of each feature's maximum over a sample's positions.

    Args:
        readings: one row per `sample`, `feature` and position with a nonzero activation.
        value: the column to aggregate, such as `activation`.
        samples: the rows of the matrix. A sample without readings is all zeros.

    Raises:
        ValueError: a column is missing, or there are no rows.
    """
    for column in ("sample", "feature", value):
        if column not in readings:
            raise ValueError(f"readings have no {column!r}; they have: {', '.join(readings)}")
    if readings.empty:
        raise ValueError("readings have no rows: no feature is expressed")
    matrix = readings.pivot_table(
        index="sample", columns="feature", values=value, aggfunc="max", fill_value=0.0
    )
    return matrix.reindex(pd.Index(samples, name="sample"), fill_value=0.0)


def cluster(matrix: pd.DataFrame, *, samples: int, features: int) -> Clusters:
    """Cluster samples into at most `samples` groups and features into at most `features`.

    Average linkage on Euclidean distances of the binarised matrix (1 where a value is above 0), as
    in Eisen et al. 1998 for gene expression. Binarising removes the effect of feature scale and
    outliers.

    Raises:
        ValueError: fewer rows or columns than clusters, or fewer than two.
    """
    for name, count, n_clusters in zip(
        ("samples", "features"), matrix.shape, (samples, features), strict=True
    ):
        if not 1 <= n_clusters <= count or count < 2:
            raise ValueError(
                f"{n_clusters} clusters of {count} {name}; valid: 1 to {count}, 2 or more"
            )
    expressed = matrix.to_numpy() > 0
    sample_tree, feature_tree = (
        linkage(side.astype(float), "average", optimal_ordering=True)
        for side in (expressed, expressed.T)
    )
    return Clusters(
        matrix=matrix.iloc[leaves_list(sample_tree), leaves_list(feature_tree)],
        sample_tree=sample_tree,
        feature_tree=feature_tree,
        samples=_groups(sample_tree, samples, matrix.index),
        features=_groups(feature_tree, features, matrix.columns),
    )


def clustered(readings: pd.DataFrame, samples: Sequence[int]) -> Clusters | None:
    """Cluster the matrix of activations.

    None if there are fewer than two features or two distinct samples.

    Args:
        readings: `sample`, `feature` and `activation`.
        samples: the rows of the matrix.
    """
    shape = len(samples), readings["feature"].nunique()
    if min(shape) < 2:
        return None
    matrix = expression_matrix(readings, value="activation", samples=samples)
    n_clusters = (min(most, count) for most, count in zip(MOST_CLUSTERS, shape, strict=True))
    clusters = cluster(matrix, **dict(zip(("samples", "features"), n_clusters, strict=True)))
    return clusters if clusters.samples.nunique() > 1 else None


def communities(
    clusters: Clusters,
    topics: Mapping[int, str],
    readings: pd.DataFrame,
    *,
    shuffles: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Find communities: a cluster of samples that jointly express a cluster of features.

    A sample expresses a feature if its value is above 0. For each feature cluster, the community is
    the sample cluster with the largest excess = n_samples n_features (share in the block - share in
    the other samples), if positive. Clustering finds communities in any matrix, hence a permutation
    test: `p` = (1 + count) / (1 + shuffles), count the shuffled and reclustered matrices with a
    maximum excess at least as large. A shuffle moves each feature's values of a topic, as a block,
    to another topic with the same number of samples: samples of a topic share a prompt and are
    similar without any community.

    Args:
        clusters: of the matrix.
        topics: sample -> topic.
        readings: `sample`, `feature` and `from_end` (0 is a sample's last position) of each value.
        shuffles: number of shuffled matrices.
        seed: of the shuffles.

    Returns:
        One row per community, largest excess first: `samples`, `features` (tuples), `share`,
        `share_outside`, `excess`, `p`; the most common `topic`, or "mixed" if `topics_tied` > 1
        are equally common; `topic_count`, its samples in the community of `n_samples`;
        `topic_total`, its samples in all (the smallest total of tied topics); `topic_p` =
        min(1, n_topics P(X >= topic_count)), X hypergeometric: n_samples drawn from all samples, of
        which topic_total have the topic; Bonferroni over topics, since the most common one is
        picked after the fact. `from_end`: the most common distance of an expressed feature from the
        end, with its count `from_end_count` of `n_readings`.

    Raises:
        ValueError: there is only one cluster of samples.
    """
    if clusters.samples.nunique() < 2:
        raise ValueError("communities need 2 or more clusters of samples, there is 1")
    matrix = clusters.matrix.loc[clusters.samples.index, clusters.features.index]
    by_topic = pd.Series({sample: topics[sample] for sample in matrix.index})
    groups = clusters.samples.to_numpy(), clusters.features.to_numpy()
    expressed = matrix.to_numpy() > 0
    shares, outside, excess = _shares(expressed, *groups)
    largest = _shuffled(expressed, *groups, by_topic.to_numpy(), shuffles, seed)
    rows = []
    for feature_cluster, sample_cluster in enumerate(excess.argmax(0)):
        if excess[sample_cluster, feature_cluster] <= 0:
            continue
        samples = matrix.index[groups[0] == np.unique(groups[0])[sample_cluster]]
        features = matrix.columns[groups[1] == np.unique(groups[1])[feature_cluster]]
        counts = by_topic[samples].value_counts()
        count = int(counts.max())
        tied = counts.index[counts == count]
        total = int(by_topic.value_counts()[tied].min())
        chance = float(hypergeom.sf(count - 1, len(by_topic), total, len(samples)))
        expressed_readings = readings[
            readings["sample"].isin(samples) & readings["feature"].isin(features)
        ]
        from_end, at_from_end = _commonest(expressed_readings["from_end"])
        as_large = int((largest >= excess[sample_cluster, feature_cluster] - 1e-9).sum())
        rows.append(
            {
                "samples": tuple(samples),
                "features": tuple(features),
                "n_samples": len(samples),
                "n_features": len(features),
                "share": shares[sample_cluster, feature_cluster],
                "share_outside": outside[sample_cluster, feature_cluster],
                "excess": excess[sample_cluster, feature_cluster],
                "p": (1 + as_large) / (1 + shuffles),
                "topic": tied[0] if len(tied) == 1 else "mixed",
                "topics_tied": len(tied),
                "topic_count": count,
                "topic_total": total,
                "topic_p": min(1.0, by_topic.nunique() * chance),
                "from_end": from_end,
                "from_end_count": at_from_end,
                "n_readings": len(expressed_readings),
            }
        )
    return pd.DataFrame(sorted(rows, key=lambda row: -row["excess"]))


def _groups(tree: np.ndarray, wanted: int, names: pd.Index) -> pd.Series:
    return pd.Series(fcluster(tree, wanted, "maxclust"), index=names, name="cluster")


def _shares(
    expressed: np.ndarray, samples: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute inside share, outside share and excess, each [sample cluster, feature cluster]."""
    rows = (samples[:, None] == np.unique(samples)).astype(float)
    columns = (features[:, None] == np.unique(features)).astype(float)
    sums = rows.T @ expressed @ columns
    cells = rows.sum(0)[:, None] * columns.sum(0)
    others = (len(samples) - rows.sum(0))[:, None] * columns.sum(0)
    inside = sums / cells
    outside = (sums.sum(0) - sums) / others
    return inside, outside, cells * (inside - outside)


def _shuffled(
    expressed: np.ndarray,
    samples: np.ndarray,
    features: np.ndarray,
    topics: np.ndarray,
    shuffles: int,
    seed: int,
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = [np.flatnonzero(topics == topic) for topic in np.unique(topics)]
    sizes = np.unique([len(block) for block in blocks])
    # One array [topic, sample] for each topic size.
    topics_by_size = [np.stack([block for block in blocks if len(block) == size]) for size in sizes]
    n_clusters = len(np.unique(samples)), len(np.unique(features))
    columns = np.arange(expressed.shape[1])
    largest = []
    for _ in range(shuffles):
        shuffled = np.empty(expressed.shape)
        for samples_of_topics in topics_by_size:
            order = np.tile(np.arange(len(samples_of_topics))[:, None], (1, len(columns)))
            permuted = expressed[samples_of_topics[rng.permuted(order, axis=0)], columns[:, None]]
            shuffled[samples_of_topics] = permuted.swapaxes(1, 2)
        groups = [
            fcluster(linkage(side, "average"), count, "maxclust")
            for side, count in zip((shuffled, shuffled.T), n_clusters, strict=True)
        ]
        if len(np.unique(groups[0])) > 1:
            largest.append(_shares(shuffled, *groups)[2].max())
    return np.asarray(largest)


def _commonest(values: pd.Series) -> tuple[object, int]:
    # Ties go to the smallest value, so that the order of the rows does not matter.
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return counts.index[0], int(counts.iloc[0])
