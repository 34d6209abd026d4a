"""Directions of paired differences and of logistic regression, on planted classes."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from stores import write_store

from pipeline.engine.collection import collect
from pipeline.methods.directions import Directions, Key
from pipeline.methods.steering_vectors import steering_vectors
from pipeline.methods.vector_fits import logistic_vectors, principal_vectors
from pipeline.methods.vectors import (
    control_direction,
    difference_of_means,
    logistic_direction,
    principal_direction,
)
from pipeline.model.sites import Site

GENERATOR = torch.Generator().manual_seed(0)
PLANTED = torch.randn(24, generator=GENERATOR).double()
SHARED = 4 * torch.randn(300, 24, generator=GENERATOR).double()
"""What both prompts of a pair have: far more varied than what tells them apart."""
NOISE = torch.randn(2, 300, 24, generator=GENERATOR).double()
POSITIVE, NEGATIVE = SHARED + PLANTED + NOISE[0], SHARED + NOISE[1]


def cosine(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def test_a_planted_direction_is_recovered_from_pairs_and_on_the_side_of_the_positives():
    for sign in (1, -1):
        first, second = (POSITIVE, NEGATIVE)[::sign]
        assert cosine(principal_direction(first, second), sign * PLANTED) > 0.99
    # Without its pairs there is only what the prompts have in common.
    shuffled = NEGATIVE[torch.randperm(300, generator=GENERATOR)]
    assert abs(cosine(principal_direction(POSITIVE, shuffled), PLANTED)) < 0.9


def test_the_principal_direction_is_that_of_states_centred_on_their_pair():
    """As repeng's pca_center does; PCA of the centred differences loses what pairs share."""
    middle = (POSITIVE + NEGATIVE) / 2
    centred = torch.cat([POSITIVE - middle, NEGATIVE - middle]).numpy()
    expected = torch.from_numpy(PCA(n_components=1).fit(centred).components_[0])
    found = principal_direction(POSITIVE, NEGATIVE)
    assert abs(cosine(found, expected)) == pytest.approx(1, abs=1e-9)
    assert (
        abs(cosine(torch.from_numpy(PCA(1).fit(POSITIVE - NEGATIVE).components_[0]), found)) < 0.5
    )


def test_the_logistic_direction_is_that_of_sklearn_and_undoes_correlated_noise():
    states = torch.cat([POSITIVE, NEGATIVE]).numpy()
    labels = np.repeat([1, 0], 300)
    mean, scale = states.mean(0), states.std(0)
    fit = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit((states - mean) / scale, labels)
    expected = torch.from_numpy(fit.coef_[0] / scale)
    found = logistic_direction(POSITIVE, NEGATIVE, penalty=2.0)
    assert cosine(found, expected) == pytest.approx(1, abs=1e-5)
    # Noise along (1, 1): the best separator of classes that differ along (1, 0) is (1, -1).
    noise = torch.randn(4000, 1, generator=GENERATOR) * torch.tensor([[3.0, 3.0]])
    noise = noise + 0.3 * torch.randn(4000, 2, generator=GENERATOR)
    first, second = noise[:2000] + torch.tensor([1.0, 0.0]), noise[2000:]
    assert cosine(logistic_direction(first, second), torch.tensor([1.0, -1.0])) > 0.98


@pytest.mark.parametrize("fit", [principal_direction, logistic_direction])
def test_every_direction_is_as_long_as_the_difference_of_means(fit):
    norm = float(difference_of_means(POSITIVE, NEGATIVE).norm())
    assert float(fit(POSITIVE, NEGATIVE).norm()) == pytest.approx(norm)
    assert not fit(POSITIVE, POSITIVE.clone()).any()


def test_a_shuffled_control_is_the_same_fit_with_permuted_labels():
    for fit in (principal_direction, logistic_direction):
        control = control_direction(
            "shuffled", POSITIVE, NEGATIVE, norm=2.0, seed=3, draw=1, fit=fit
        )
        both = torch.cat([POSITIVE - POSITIVE.mean(0), NEGATIVE - NEGATIVE.mean(0)])
        order = np.random.default_rng([3, 0, 1]).permutation(600)
        assert cosine(control, fit(both[order[:300]], both[order[300:]])) == pytest.approx(1)
        assert abs(cosine(control, PLANTED)) < 0.7 and float(control.norm()) == pytest.approx(2)


@pytest.fixture
def study(tmp_path):
    """A store whose prompts are in no order of their pairs, and its dataset."""
    draw = np.random.default_rng(1)
    pairs, labels = np.tile(np.arange(300), 2), np.repeat(["a", "b"], 300)
    order = draw.permutation(600)
    values = torch.cat([POSITIVE, NEGATIVE])[order]
    table = pd.DataFrame(
        {
            "sample": range(600),
            "label": labels[order],
            "pair": [f"{pair:03d}" for pair in pairs[order]],
            "split": "train",
            "tokens": [[7]] * 600,
        }
    )
    rows = pd.DataFrame({"sample": range(600), "position": 0, "token": 7})
    return write_store(tmp_path, {"blocks.2.resid_pre": values}, rows, shards=3), table


OPTIONS = {"component": "resid_pre", "positive": "a", "negative": "b", "controls": {"shuffled": 2}}


def test_fits_read_the_pairs_of_the_dataset(study):
    for node, fit in (
        (steering_vectors, difference_of_means),
        (principal_vectors, principal_direction),
        (logistic_vectors, logistic_direction),
    ):
        directions = node(*study, **OPTIONS)
        assert isinstance(directions, Directions) and directions.layers == [2]
        expected = fit(POSITIVE, NEGATIVE)
        torch.testing.assert_close(
            directions.vectors[Key("fitted", 0, 2)], expected, rtol=1e-4, atol=1e-4
        )
        assert directions.controls == [("shuffled", 0), ("shuffled", 1)]
        assert directions.provenance.how.endswith("a - b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "topic"}, "pairs: no column 'topic' in the dataset; it has: sample, label"),
        ({}, "pairs: pair '7' names 0 of 'a' and 1 of 'b' in train; valid: one of each"),
    ],
)
def test_prompts_that_are_no_pairs_are_named_before_anything_is_fitted(study, options, message):
    store, table = study
    table = table[~((table["pair"] == "007") & (table["label"] == "a"))].assign(
        pair=lambda rows: rows["pair"].str.lstrip("0")
    )
    with pytest.raises(ValueError, match=message):
        principal_vectors(store, table, **OPTIONS, **options)
    with pytest.raises(ValueError, match=message):
        Directions.stand_in(tiny("llama"), table, **{"pairs": "pair", **OPTIONS, **options})


def test_a_penalty_is_above_zero(study):
    with pytest.raises(ValueError, match="penalty: 0 is not above 0"):
        Directions.stand_in(tiny("llama"), study[1], **OPTIONS, penalty=0.0)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_fit_tells_the_prompts_of_a_pair_apart(family, tmp_path):
    """Fitted to a model's own states, the prompt of a pair with `a` lies further along each."""
    model = tiny(family)
    draw = np.random.default_rng(0)
    # Prompts of a pair are alike but for their last token.
    starts = draw.integers(6, 200, (12, 4))
    tokens = [[*map(int, start), 7 if label == "a" else 9] for start in starts for label in "ab"]
    table = pd.DataFrame({"sample": range(24), "label": ["a", "b"] * 12, "tokens": tokens})
    table = table.assign(pair=np.repeat(range(12), 2), split="train")
    sites = [Site(layer, "resid_pre") for layer in (1, 2)]
    values, rows = collect(model, tokens, sites, "last")
    stored = rows.rename(columns={"prompt": "sample"}).assign(token=0)
    named = {str(site): tensor for site, tensor in values.items()}
    store = write_store(tmp_path, named, stored, shards=2)
    is_a = torch.tensor((table["label"] == "a").to_numpy())
    for node in (steering_vectors, principal_vectors, logistic_vectors):
        fit = node(store, table, **OPTIONS)
        assert fit.layers == [1, 2] and fit.provenance.sites == tuple(named)
        for site, states in values.items():
            projected = states.double() @ fit.vectors[Key("fitted", 0, site.layer)].double()
            assert (projected[is_a] > projected[~is_a]).double().mean() > 0.8
