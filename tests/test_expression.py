"""Communities planted in a matrix are found, and described by what was planted."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from pipeline.measures.expression import (
    active_places,
    cluster,
    communities,
    expression_matrix,
    telling_features,
)
from pipeline.views.expression import feature_expression
from pipeline.views.panels import save

# Samples 0-5 express features 0-3, at the end; samples 6-11 features 4-6, two before it.
BLOCKS = {0: (range(6), range(4), 0), 1: (range(6, 12), range(4, 7), 2)}
SINGLES = {sample: f"topic {sample}" for sample in range(16)}
PAIRS = {sample: f"topic {sample // 2}" for sample in range(16)}
TOPICS = dict(enumerate(5 * ["fruits"] + 4 * ["tools"] + 7 * ["birds"]))


@pytest.fixture
def readings() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for samples, features, from_end in BLOCKS.values():
        for sample in samples:
            for feature in features:
                size = 2.0 * 10**feature
                rows += [(sample, feature, from_end, size * (1 + 0.2 * rng.random()))]
                rows += [(sample, feature, 5 + sample, 0.1 * size)]
    # What all express, and noise, told apart from communities.
    rows += [(sample, 7, 0, 1.0) for sample in range(16)]
    rows += [(sample, 8, 1, 0.5) for sample in (1, 7, 13)]
    table = pd.DataFrame(rows, columns=["sample", "feature", "from_end", "activation"])
    return table.sample(frac=1, random_state=0)


def test_the_matrix_has_the_largest_value_of_each_feature(readings):
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    assert matrix.shape == (16, 9)
    for (sample, feature), rows in readings.groupby(["sample", "feature"]):
        assert matrix.loc[sample, feature] == rows["activation"].max()
    assert (matrix > 0).to_numpy().sum() == readings.groupby(["sample", "feature"]).ngroups


def test_a_sample_that_expresses_nothing_stays_in_the_matrix(readings):
    matrix = expression_matrix(readings, value="activation", samples=range(18))
    assert matrix.index.tolist() == list(range(18))
    assert (matrix.loc[[16, 17]] == 0).all(axis=None)


def test_every_active_place_is_read_however_small():
    activations = np.array([[0.0, 2.0, 1e-4], [0.0, 0.0, 0.0], [3.0, 0.0, 5.0]])
    rows = pd.DataFrame({"sample": [4, 4, 9], "from_end": [-1, 0, 0]}, index=[7, 8, 9])
    found = active_places(activations, rows)
    assert found.to_dict("split")["data"] == [
        [4, -1, 1, 2.0],
        [4, -1, 2, 1e-4],
        [9, 0, 0, 3.0],
        [9, 0, 2, 5.0],
    ]
    with pytest.raises(ValueError, match="2 rows are described, there are 3"):
        active_places(activations, rows.head(2))


def test_features_of_some_samples_are_chosen_by_size():
    """Of 20 samples: feature 0 active in all, 1 in half, 2 in one, 3 in none, 4 in 19, 5 in two."""
    counts = {0: 20, 1: 10, 2: 1, 4: 19, 5: 2}
    readings = pd.DataFrame(
        [(sample, feature) for feature, count in counts.items() for sample in range(count)] * 2,
        columns=["sample", "feature"],
    )
    sizes = pd.Series({0: 9.0, 1: 1.0, 2: 3.0, 3: 8.0, 4: 2.0})
    assert telling_features(readings, sizes, samples=20, most=5) == [2, 4, 1]
    assert telling_features(readings, sizes, samples=20, most=2) == [2, 4]
    assert telling_features(readings, sizes, samples=21, most=5) == [4, 1]
    assert telling_features(readings.head(0), sizes, samples=20, most=5) == []


@pytest.mark.parametrize("topics", [SINGLES, PAIRS])
def test_planted_communities_are_found_and_nothing_else(readings, topics):
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    found = communities(cluster(matrix, samples=3, features=4), topics, readings)
    blocks = [(set(samples), set(features)) for samples, features, _ in BLOCKS.values()]
    sure = found[found["p"] < 0.05]
    pairs = [(set(r.samples), set(r.features)) for r in sure.itertuples()]
    assert sorted(map(str, pairs)) == sorted(map(str, blocks))
    if topics is SINGLES:
        assert sure["p"].tolist() == [1 / 201] * 2
    assert sure["excess"].tolist() == [24, 18]


def test_they_are_described_by_counts(readings):
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    found = communities(cluster(matrix, samples=3, features=4), TOPICS, readings)
    row = found[found["samples"].map(lambda samples: 0 in samples)].iloc[0]
    assert (row["topic"], row["topic_count"], row["n_samples"], row["topic_total"]) == (
        "fruits",
        5,
        6,
        5,
    )
    # All 5 fruits among 6 of 16 samples, for any of three topics: 3 C(11, 1) / C(16, 6).
    assert row["topic_p"] == pytest.approx(3 * 11 / 8008)
    assert (row["from_end"], row["from_end_count"], row["n_readings"]) == (0, 24, 48)
    assert (row["share"], row["share_outside"]) == (1.0, 0.0)
    other = found[found["samples"].map(lambda samples: 6 in samples)].iloc[0]
    # Three tools and three birds: no topic is the commonest.
    assert (other["from_end"], other["topic"], other["topic_count"]) == (2, "mixed", 3)
    assert (row["topics_tied"], other["topics_tied"]) == (1, 2)


def test_lists_of_one_prompt_are_no_community_by_themselves():
    """Each feature is expressed by all lists of topics of its own draw: alike, yet unrelated."""
    rng = np.random.default_rng(2)
    topics = {sample: f"topic {sample // 5}" for sample in range(60)}
    smallest = []
    for _ in range(8):
        own = rng.random((12, 10)) < 0.3
        matrix = pd.DataFrame(np.repeat(own, 5, axis=0).astype(float))
        long = matrix.stack().rename_axis(["sample", "feature"]).rename("activation").reset_index()
        clusters = cluster(matrix, samples=5, features=4)
        found = communities(clusters, topics, long.assign(from_end=0), shuffles=60)
        smallest.append(found["p"].min())
    assert sum(p < 0.05 for p in smallest) <= 2
    assert np.median(smallest) > 0.15


def test_topics_of_several_sizes_are_shuffled_among_their_like(readings):
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    # No two topics are alike in size: nothing can be exchanged, and no matrix is unlike this one.
    found = communities(cluster(matrix, samples=3, features=4), TOPICS, readings, shuffles=20)
    assert (found["p"] == 1).all()


def test_noise_and_unlike_scales_do_not_hide_the_blocks():
    """Seven topics of eight samples: 80 % of their own features are expressed, 8 % of others."""
    rng = np.random.default_rng(0)
    own = np.arange(56)[:, None] // 8 == np.arange(56) // 8
    sizes = np.exp(rng.normal(1 + own)) * 10.0 ** rng.integers(-2, 3, 56)
    values = np.where(rng.random(own.shape) < np.where(own, 0.8, 0.08), sizes, 0.0)
    clusters = cluster(pd.DataFrame(values), samples=7, features=7)
    right = pd.crosstab(clusters.samples, clusters.samples.index // 8).max(axis=1).sum()
    assert right >= 52


def test_neighbours_in_the_matrix_are_of_one_cluster(readings):
    clusters = cluster(
        expression_matrix(readings, value="activation", samples=range(16)), samples=3, features=4
    )
    for names, groups in (
        (clusters.matrix.index, clusters.samples),
        (clusters.matrix.columns, clusters.features),
    ):
        assert sorted(names) == sorted(groups.index)
        changes = (groups[names].diff().dropna() != 0).sum()
        assert changes == groups.nunique() - 1


def test_without_structure_p_says_so(readings):
    """The planted sizes, each feature's samples drawn anew: the largest excess is one of many."""
    rng = np.random.default_rng(1)
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    smallest = []
    for _ in range(12):
        drawn = matrix.apply(lambda column: rng.permutation(column.to_numpy()))
        long = drawn.stack().rename("activation").reset_index().assign(from_end=0)
        clusters = cluster(drawn, samples=3, features=4)
        smallest.append(communities(clusters, SINGLES, long, shuffles=60)["p"].min())
    assert sum(p < 0.05 for p in smallest) <= 3
    assert np.median(smallest) > 0.15


def test_wrong_arguments_are_named(readings):
    with pytest.raises(ValueError, match="no 'size'; they have: sample, feature"):
        expression_matrix(readings, value="size", samples=range(16))
    with pytest.raises(ValueError, match="no rows"):
        expression_matrix(readings.head(0), value="activation", samples=range(16))
    matrix = expression_matrix(readings, value="activation", samples=range(16))
    with pytest.raises(ValueError, match="10 clusters of 9 features; valid: 1 to 9, 2 or more"):
        cluster(matrix, samples=3, features=10)


def test_the_figure_shows_the_clustered_matrix_and_the_topics(readings, tmp_path):
    clusters = cluster(
        expression_matrix(readings, value="activation", samples=range(16)), samples=3, features=4
    )
    figure = feature_expression(clusters, TOPICS, value="activation", site="blocks.2.resid_post")
    heat, *_ = figure.axes
    shown = heat.images[0].get_array()
    assert np.array_equal(shown.filled(0), clusters.matrix.to_numpy())
    assert np.array_equal(shown.mask, clusters.matrix.to_numpy() == 0)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["birds", "fruits", "tools"]
    keys = [to_rgb(line.get_color()) for line in figure.legends[0].get_lines()]
    strips = [to_rgb(patch.get_facecolor()) for patch in heat.patches]
    assert strips == [keys[names.index(TOPICS[s])] for s in clusters.matrix.index]
    again = feature_expression(clusters, TOPICS, value="activation", site="blocks.2.resid_post")
    save(figure, tmp_path / "a.png", {"commit": "abc"})
    save(again, tmp_path / "b.png", {"commit": "abc"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_trees_stand_over_their_leaves(readings):
    """Every leaf of the drawn trees ends at the row or column that it is of."""
    clusters = cluster(
        expression_matrix(readings, value="activation", samples=range(16)), samples=3, features=4
    )
    figure = feature_expression(clusters, TOPICS, value="activation", site="embed")
    heat = figure.axes[0]
    top, right = heat.child_axes
    assert top.get_xlim() == heat.get_xlim() and right.get_ylim() == heat.get_ylim()
    for axes, get, count in ((top, 0, 9), (right, 1, 16)):
        ends = {
            float(line.get_data()[get][i])
            for line in axes.lines
            for i in (0, 3)
            if line.get_data()[1 - get][i] == 0
        }
        # Samples that are alike join at height 0, between their leaves.
        assert ends >= set(map(float, range(count)))
