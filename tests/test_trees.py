"""Trees, their distances and spanning trees against what is counted by hand and all trees tried."""

import itertools

import numpy as np
import pytest

from pipeline.measures.trees import (
    attachment_score,
    chain_edges,
    edges_of,
    parse_heads,
    spanning_edges,
    tree_distances,
)

# The old key near the windows is very old: is <- key <- windows, is <- old.
HEADS = "3 3 7 6 6 3 0 9 7"
EDGES = {(0, 2), (1, 2), (3, 5), (4, 5), (2, 5), (2, 6), (7, 8), (6, 8)}


def test_edges_and_distances_are_those_counted_by_hand():
    parents = parse_heads(HEADS)
    assert parents == [2, 2, 6, 5, 5, 2, -1, 8, 6]
    assert edges_of(parents) == EDGES
    distances = tree_distances(parents)
    assert distances[0].tolist() == [0, 2, 1, 3, 3, 2, 2, 4, 3]
    assert distances[4, 7] == 5 and (distances == distances.T).all()
    assert {(i, j) for i, j in np.argwhere(distances == 1) if i < j} == EDGES


def test_the_spanning_tree_of_a_trees_distances_is_the_tree():
    parents = parse_heads(HEADS)
    assert spanning_edges(tree_distances(parents).astype(float)) == EDGES
    assert attachment_score(EDGES, EDGES) == 1
    chain = chain_edges(9)
    assert len(chain) == 8 and attachment_score(chain, EDGES) == 3 / 8


def test_no_other_tree_is_shorter():
    """All trees of five words, by their heads; with a distance of zero and a negative one."""
    rng = np.random.default_rng(0)
    trees = set()
    for parents in itertools.product(range(-1, 5), repeat=5):
        try:
            trees.add(frozenset(edges_of(parse_heads(" ".join(str(p + 1) for p in parents)))))
        except ValueError:
            continue
    assert len(trees) == 125
    for _ in range(20):
        distances = rng.normal(size=(5, 5))
        distances += distances.T
        distances[0, 1] = distances[1, 0] = 0
        np.fill_diagonal(distances, 0)
        found = spanning_edges(distances)
        lengths = [sum(distances[edge] for edge in tree) for tree in trees]
        assert sum(distances[edge] for edge in found) == pytest.approx(min(lengths))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("2 x", "heads '2 x' are not numbers"),
        ("0 3", "heads '0 3' name word 3 of 2"),
        ("0 0", "heads '0 0' have 2 roots; valid: one"),
        ("", "heads '' have 0 roots"),
        ("0 3 2", "heads '0 3 2' have a cycle"),
    ],
)
def test_what_is_no_tree_is_named(heads, message):
    with pytest.raises(ValueError, match=message):
        parse_heads(heads)
