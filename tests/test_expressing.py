"""Which sites have an expression matrix, and what is said of those that have none."""

import pandas as pd
import pytest
import torch
from stores import whole_samples, write_store

from pipeline.measures.expression import clustered
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.attributed import AttributedFeatures
from pipeline.methods.sae.expressed import expressed_features
from pipeline.methods.sae.fits import SparseAutoencoders
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


def test_attributed_completions_that_were_not_collected_are_refused(tmp_path):
    """Samples 0 and 1 are stored, 2 is not: it is not one without active features."""
    rows = whole_samples([4, 4])
    store = write_store(tmp_path, {"blocks.0.z": torch.zeros(8, 2)}, rows, shards=1)
    prompts = pd.DataFrame({"sample": range(3), "tokens": [[7, 8]] * 3})
    ends = pd.DataFrame({"sample": range(3), "end": 3})
    empty = pd.DataFrame({"site": []})
    attributed = AttributedFeatures(*[empty] * 5, ends, Provenance(""))
    fits = {"attributed": attributed, "saes": SparseAutoencoders({})}
    with pytest.raises(ValueError, match=r"1 of 3 completions .* such as that of sample 2"):
        expressed_features(prompts, store, fits, fit="attributed", autoencoders="saes")
