"""Which sites have an expression matrix, and what is said of those that have none."""

import pandas as pd

from pipeline.measures.expression import clustered
from pipeline.views.results import absent_words


def readings(active: list[tuple[int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(active, columns=["sample", "feature"])
    return table.assign(from_end=0, activation=1.0)


MANY = range(20)


def test_unlike_lists_are_clustered():
    clusters = clustered(readings([(list_, 1 + list_ % 2) for list_ in MANY]), list(MANY))
    assert clusters is not None
    even, odd = clusters.samples[::2], clusters.samples[1::2]
    assert even.nunique() == odd.nunique() == 1 and even[0] != odd[1]


def test_fewer_than_two_features_or_unlike_lists_have_no_matrix():
    assert clustered(readings([(list_, 1) for list_ in MANY]), list(MANY)) is None
    assert clustered(readings([(0, 1), (0, 2)]), [0]) is None
    both = [(list_, feature) for list_ in MANY for feature in (1, 2)]
    assert clustered(readings(both), list(MANY)) is None


def test_sites_without_a_matrix_are_named():
    assert absent_words([]) == []
    (said,) = absent_words(["blocks.1.z", "blocks.2.z"])
    assert said.startswith("No expression matrix of blocks.1.z, blocks.2.z: fewer than two")
