"""Dependency trees: their distances, the tree nearest to given distances, and how alike two are."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

Edge = tuple[int, int]
"""Two words, the smaller index first."""


def parse_heads(heads: str) -> list[int]:
    """Read the number of each word's parent, counted from 1, 0 for the root; return indices.

    Raises:
        ValueError: no numbers, a parent that is not a word, not exactly one root, or a cycle.
    """
    try:
        parents = [int(word) - 1 for word in heads.split()]
    except ValueError as error:
        raise ValueError(f"heads {heads!r} are not numbers") from error
    for parent in parents:
        if not -1 <= parent < len(parents):
            raise ValueError(f"heads {heads!r} name word {parent + 1} of {len(parents)}")
    if parents.count(-1) != 1:
        raise ValueError(f"heads {heads!r} have {parents.count(-1)} roots; valid: one")
    if np.isinf(shortest_path(_adjacency(parents), directed=False)).any():
        raise ValueError(f"heads {heads!r} have a cycle")
    return parents


def edges_of(parents: Sequence[int]) -> set[Edge]:
    """Return the edges between each word but the root and its parent."""
    return {_edge(word, parent) for word, parent in enumerate(parents) if parent >= 0}


def tree_distances(parents: Sequence[int]) -> Int[np.ndarray, "words words"]:
    """Count the edges between every two words."""
    return shortest_path(_adjacency(parents), directed=False).astype(int)


def spanning_edges(distances: Float[np.ndarray, "words words"]) -> set[Edge]:
    """Return the edges of the minimum spanning tree of a complete graph."""
    # To scipy a distance of 0 is a missing edge; a constant does not change the tree.
    tree = minimum_spanning_tree(distances - distances.min() + 1)
    return {_edge(int(a), int(b)) for a, b in zip(*tree.nonzero(), strict=True)}


def chain_edges(words: int) -> set[Edge]:
    """Return the edges between adjacent words."""
    return {(word, word + 1) for word in range(words - 1)}


def attachment_score(predicted: Iterable[Edge], true: Iterable[Edge]) -> float:
    """Compute the unlabelled undirected attachment score: the share of true edges predicted.

    Source: Klein and Manning 2004; Hewitt and Manning 2019 (UUAS).
    """
    true = set(true)
    return len(true & set(predicted)) / len(true)


def _adjacency(parents: Sequence[int]) -> Int[np.ndarray, "words words"]:
    adjacency = np.zeros((len(parents),) * 2, dtype=int)
    for word, parent in enumerate(parents):
        if parent >= 0:
            adjacency[word, parent] = 1
    return adjacency


def _edge(a: int, b: int) -> Edge:
    return min(a, b), max(a, b)
