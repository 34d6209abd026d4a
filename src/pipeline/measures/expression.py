"""Which features samples express: a matrix, clustered on both axes, and the communities in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.stats import hypergeom


@dataclass(frozen=True)
class Clusters:
    """Hierarchical clusters of the rows and columns of a matrix.

    matrix: rows and columns in the order of the trees' leaves. sample_tree, feature_tree: scipy's
    linkages of the matrix as it was. samples, features: the cluster of each, counted from 1.
    """

    matrix: pd.DataFrame
    sample_tree: Float[np.ndarray, "_ 4"]
    feature_tree: Float[np.ndarray, "_ 4"]
    samples: pd.Series
    features: pd.Series


def active_places(
    activations: Float[np.ndarray, "rows feature"], rows: pd.DataFrame
) -> pd.DataFrame:
    """A row for every place where a feature is active: its activation there, above 0.

    Args:
        activations: of all features of an autoencoder, at each of the rows.
        rows: what each row of `activations` is of, such as `sample` and `from_end`.

    Returns:
        The columns of `rows`, `feature` and `activation`.

    Raises:
        ValueError: another number of rows.
    """
    if len(rows) != len(activations):
        raise ValueError(f"{len(rows)} rows are described, there are {len(activations)}")
    where, features = np.nonzero(activations > 0)
    found = rows.iloc[where].reset_index(drop=True)
    return found.assign(feature=features, activation=activations[where, features])


def telling_features(
    readings: pd.DataFrame, sizes: pd.Series, *, samples: int, most: int
) -> list[int]:
    """The features of largest size of those that tell samples apart: active in 5 to 95 % of them.

    Args:
        readings: `sample` and `feature` of each place where a feature is active.
        sizes: feature -> what they are chosen by, such as attribution. Others are left out.
        samples: how many there are, those in which nothing is active too.
        most: how many features at most.

    Returns:
        Largest first; none where no feature tells samples apart.
    """
    shares = readings.groupby("feature")["sample"].nunique() / samples
    telling = shares.index[shares.between(0.05, 0.95)]
    ordered = sizes[sizes.index.isin(telling)].sort_values(ascending=False, kind="stable")
    return [int(feature) for feature in ordered.index[:most]]


def expression_matrix(
    readings: pd.DataFrame, *, value: str, samples: Sequence[int]
) -> pd.DataFrame:
    """Samples x features: the largest value that a feature has at any position of a sample.

    Args:
        readings: a row for each `sample`, `feature` and position where it is active.
        value: the column to take, such as `activation`.
        samples: the rows of the matrix. One without a reading has 0 everywhere.

    Raises:
        ValueError: a column is not there, or there are no rows.
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
    """Cluster samples into at most `samples` groups, and features likewise.

    Average linkage, as Eisen et al. 1998 for gene expression, over Euclidean distances of what is
    expressed, 1 where a value is above 0 and else 0: neither the scale of a feature nor one large
    value counts.

    Raises:
        ValueError: fewer rows or columns than clusters, or than two.
    """
    for name, count, wanted in zip(
        ("samples", "features"), matrix.shape, (samples, features), strict=True
    ):
        if not 1 <= wanted <= count or count < 2:
            raise ValueError(f"{wanted} clusters of {count} {name}; valid: 1 to {count}, 2 or more")
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


def communities(
    clusters: Clusters,
    topics: Mapping[int, str],
    readings: pd.DataFrame,
    *,
    shuffles: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    """Clusters of samples that express a cluster of features, and what those samples share.

    A feature is expressed by a sample where its value is above 0. A community is a pair of clusters
    with excess = n_samples n_features (share in the block - share in the other samples) above that
    of all other pairs with the same features. Clustering finds some in any matrix: `p` is the share
    of shuffled matrices, clustered alike, whose largest excess is as large, (1 + count) / (1 +
    shuffles). In those each feature's values of a topic go, as a whole, to another topic with as
    many samples: samples of one topic share a prompt and are alike without any community. Largest
    excess first.

    Args:
        clusters: of the matrix.
        topics: sample -> its topic.
        readings: `sample`, `feature` and `from_end` (0 is a sample's last position) of each value.
        shuffles: how many matrices `p` is from.
        seed: of these.

    Returns:
        A row for each: `samples`, `features` (tuples), `share`, `share_outside`, `excess`, `p`;
        `topic`, the commonest, or "mixed" where `topics_tied` > 1 are equally common, with
        `topic_count` of `n_samples` there and `topic_total` in all (the smallest of tied ones);
        `topic_p` = min(1, topics P(X >= topic_count)), X hypergeometric: n_samples drawn of all,
        topic_total of them of the topic; the commonest is chosen after looking, so that the
        probability counts once for each topic (Bonferroni). `from_end`, the commonest distance of
        an expressed feature from the end, `from_end_count` of `n_readings`.

    Raises:
        ValueError: a single cluster of samples, which has no others.
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
    for column, where in enumerate(excess.argmax(0)):
        if excess[where, column] <= 0:
            continue
        samples = matrix.index[groups[0] == np.unique(groups[0])[where]]
        features = matrix.columns[groups[1] == np.unique(groups[1])[column]]
        counts = by_topic[samples].value_counts()
        count = int(counts.max())
        tied = counts.index[counts == count]
        total = int(by_topic.value_counts()[tied].min())
        chance = float(hypergeom.sf(count - 1, len(by_topic), total, len(samples)))
        here = readings[readings["sample"].isin(samples) & readings["feature"].isin(features)]
        from_end, at_from_end = _commonest(here["from_end"])
        as_large = int((largest >= excess[where, column] - 1e-9).sum())
        rows.append(
            {
                "samples": tuple(samples),
                "features": tuple(features),
                "n_samples": len(samples),
                "n_features": len(features),
                "share": shares[where, column],
                "share_outside": outside[where, column],
                "excess": excess[where, column],
                "p": (1 + as_large) / (1 + shuffles),
                "topic": tied[0] if len(tied) == 1 else "mixed",
                "topics_tied": len(tied),
                "topic_count": count,
                "topic_total": total,
                "topic_p": min(1.0, by_topic.nunique() * chance),
                "from_end": from_end,
                "from_end_count": at_from_end,
                "n_readings": len(here),
            }
        )
    return pd.DataFrame(sorted(rows, key=lambda row: -row["excess"]))


def _groups(tree: np.ndarray, wanted: int, names: pd.Index) -> pd.Series:
    return pd.Series(fcluster(tree, wanted, "maxclust"), index=names, name="cluster")


def _shares(
    expressed: np.ndarray, samples: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every pair of clusters [sample cluster, feature cluster]: inside, outside, excess."""
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
    # Of every number of samples that topics have: [topic, sample].
    alike = [np.stack([block for block in blocks if len(block) == size]) for size in sizes]
    wanted = len(np.unique(samples)), len(np.unique(features))
    columns = np.arange(expressed.shape[1])
    largest = []
    for _ in range(shuffles):
        drawn = np.empty(expressed.shape)
        for places in alike:
            order = np.tile(np.arange(len(places))[:, None], (1, len(columns)))
            moved = expressed[places[rng.permuted(order, axis=0)], columns[:, None]]
            drawn[places] = moved.swapaxes(1, 2)
        groups = [
            fcluster(linkage(side, "average"), count, "maxclust")
            for side, count in zip((drawn, drawn.T), wanted, strict=True)
        ]
        if len(np.unique(groups[0])) > 1:
            largest.append(_shares(drawn, *groups)[2].max())
    return np.asarray(largest)


def _commonest(values: pd.Series) -> tuple[object, int]:
    # Ties go to the first in order of the values, whatever the order of the rows.
    counts = values.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    return counts.index[0], int(counts.iloc[0])
