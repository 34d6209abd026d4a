"""Cosines between vectors and their stability, against naive loops and planted data."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from stores import write_store

from pipeline.measures.statistics import resampling_counts
from pipeline.methods.directions import Directions, Key
from pipeline.methods.provenance import Provenance
from pipeline.methods.vector_readings import random_cosine, vector_cosines, vector_stability
from pipeline.methods.vectors import control_direction, difference_of_means

WIDTH = 16


def cosine(a, b) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def planted(seed: int, dataset: str, model: str = "m", width: int = WIDTH) -> Directions:
    draw = torch.Generator().manual_seed(seed)
    keys = [Key(source, n, layer) for layer in (1, 3) for source, n in SOURCES]
    vectors = {key: torch.randn(width, generator=draw) for key in keys}
    return Directions(vectors, "resid_pre", -1, Provenance(model, dataset=dataset))


SOURCES = [("fitted", 0), ("shuffled", 0), ("shuffled", 1), ("isotropic", 0)]


def test_cosines_are_those_of_every_pair_of_fits_and_layers():
    fits = {"a": planted(0, "x"), "s/b": planted(1, "y")}
    table = vector_cosines(fits, directions=["a", "s/b"])
    assert set(zip(table["first"], table["second"], strict=True)) == {
        ("a", "a"),
        ("a", "s/b"),
        ("s/b", "s/b"),
    }
    for row in table[table["source"] == "fitted"].to_dict("records"):
        one = fits[row["first"]].vectors[Key("fitted", 0, row["first_layer"])]
        other = fits[row["second"]].vectors[Key("fitted", 0, row["second_layer"])]
        assert row["cosine"] == pytest.approx(cosine(one, other), abs=1e-6)
    assert len(table[table["source"] == "fitted"]) == 3 * 4


def test_shuffled_draws_are_compared_with_other_draws_and_of_the_same_prompts_with_themselves():
    """Draw k permutes the labels of both alike; other prompts' draws have nothing in common."""
    one, other = planted(0, "x"), planted(1, "x")
    for dataset, sources in (("x", ("shuffled", "same_shuffle")), ("y", ("shuffled",))):
        fits = {"a": one, "b": replace(other, provenance=Provenance("m", dataset=dataset))}
        table = vector_cosines(fits, directions=["a", "b"])
        cell = {"first": "a", "second": "b", "first_layer": 1, "second_layer": 3}
        rows = table[(table[list(cell)] == pd.Series(cell)).all(axis=1)]
        assert set(rows["source"]) == {"fitted", *sources}
        for source in sources:
            expected = [
                cosine(
                    one.vectors[Key("shuffled", n, 1)],
                    other.vectors[Key("shuffled", 1 - n if source == "shuffled" else n, 3)],
                )
                for n in (0, 1)
            ]
            found = rows[rows["source"] == source]["cosine"].tolist()
            assert found == pytest.approx(expected, abs=1e-6)


def test_shuffled_directions_lie_where_the_activations_vary():
    """A spread of 20 along one axis: shuffled vectors of unrelated prompts agree up to sign."""
    scales = torch.ones(WIDTH)
    scales[0] = 20.0

    def fit(seed: int, dataset: str) -> Directions:
        draw = torch.Generator().manual_seed(seed)
        sides = [torch.randn(100, WIDTH, generator=draw) * scales for _ in range(2)]
        vectors = {
            Key("shuffled", n, 0): control_direction(
                "shuffled", *sides, norm=1.0, seed=seed, draw=n
            )
            for n in range(20)
        }
        vectors[Key("fitted", 0, 0)] = difference_of_means(*sides)
        return Directions(vectors, "resid_pre", -1, Provenance("m", dataset=dataset))

    table = vector_cosines({"a": fit(0, "x"), "b": fit(1, "y")}, directions=["a", "b"])
    between = table[(table["first"] == "a") & (table["second"] == "b")]
    shuffled = between[between["source"] == "shuffled"]["cosine"].abs()
    assert len(shuffled) == 20
    assert shuffled.median() > 0.7 > random_cosine(WIDTH) == between["isotropic"].iloc[0]


def test_random_directions_exceed_the_stated_cosine_in_one_of_twenty_cases():
    rng = np.random.default_rng(0)
    for width in (2, 16, 200):
        first, second = rng.normal(size=(2, 40_000, width))
        cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1)
        cosines /= np.linalg.norm(second, axis=1)
        assert (np.abs(cosines) > random_cosine(width)).mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize(
    ("fits", "names", "message"),
    [
        ({"a": planted(0, "x")}, [], r"directions = \[\]; valid: one or more fits, each once"),
        ({"a": planted(0, "x")}, ["a", "a"], "each once"),
        ({"a": planted(0, "x"), "b": planted(0, "x", "n")}, ["a", "b"], "made on model m, this"),
        ({"a": planted(0, "x"), "b": planted(0, "x", width=4)}, ["a", "b"], "a and b differ in w"),
    ],
)
def test_directions_that_cannot_be_compared_are_refused(fits, names, message):
    with pytest.raises(ValueError, match=message):
        vector_cosines(fits, directions=names)


PLANTED = 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
TOPICS = 12


@pytest.fixture
def study(tmp_path):
    """Two prompts of either label per topic; layer 0 alike, layer 1 planted, layer 2 noise."""
    draw = torch.Generator().manual_seed(0)
    n = 4 * TOPICS
    table = pd.DataFrame(
        {
            "sample": range(n),
            "label": ["a", "b"] * (n // 2),
            "topic": [f"t{number // 4}" for number in range(n)],
            "split": "train",
            "tokens": [[7]] * n,
        }
    )
    is_a = torch.tensor((table["label"] == "a").to_numpy()).double()[:, None]
    shared = torch.randn(TOPICS, WIDTH, generator=draw).repeat_interleave(4, 0)
    noise = torch.randn(2, n, WIDTH, generator=draw)
    values = {
        "blocks.0.resid_pre": torch.ones(n, WIDTH),
        "blocks.1.resid_pre": (is_a * PLANTED + shared + noise[0]).float(),
        "blocks.2.resid_pre": noise[1],
    }
    rows = pd.DataFrame({"sample": range(n), "position": 0, "token": 7})
    return write_store(tmp_path, values, rows, shards=3), table, values


OPTIONS = {"component": "resid_pre", "contrasts": {"ab": ["a", "b"]}}


def test_prompts_without_a_cluster_are_independent(study):
    store, table, _ = study
    few = table.assign(pair=table["topic"].astype(object).where(table.index < 4))
    options = {**OPTIONS, "cluster": "pair", "resamples": 5, "seed": 4}
    each = len(table) - 4 + few["pair"].nunique()
    for missing in (None, ""):
        rows = few.assign(pair=few["pair"].where(few["pair"].notna(), missing))
        assert set(vector_stability(store, rows, **options)["clusters"]) == {each}


def test_bootstraps_are_those_of_a_naive_loop(study):
    store, table, values = study
    found = vector_stability(store, table, **OPTIONS, cluster="topic", resamples=20, seed=4)
    counts = resampling_counts(TOPICS, 4)
    # The order of clusters is that of the rows, positives first.
    topics = pd.unique(pd.concat([table[table["label"] == x]["topic"] for x in "ab"]))
    states = values["blocks.1.resid_pre"].double()
    whole = states[::2].mean(0) - states[1::2].mean(0)
    for draw in range(20):
        repeated = [
            row
            for topic, count in zip(topics, counts[draw], strict=True)
            for row in table.index[table["topic"] == topic].tolist() * count
        ]
        sides = [
            states[[r for r in repeated if table["label"][r] == label]].mean(0) for label in "ab"
        ]
        row = found.query("layer == 1 and labels == 'fitted' and draw == @draw").iloc[0]
        assert row["bootstrap"] == pytest.approx(cosine(sides[0] - sides[1], whole), abs=1e-9)
    assert set(found["layer"]) == {1, 2} and set(found["prompts"]) == {4 * TOPICS}
    assert set(found["clusters"]) == {TOPICS}


def test_a_planted_vector_is_stable_and_one_of_noise_is_as_stable_as_shuffled_labels(study):
    store, table, _ = study
    found = vector_stability(store, table, **OPTIONS, resamples=200)
    means = found.groupby(["layer", "labels"])[["bootstrap", "halves"]].mean()
    assert means.loc[(1, "fitted")].min() > 0.95
    for key in ((1, "shuffled"), (2, "shuffled"), (2, "fitted")):
        # Noise: cosine of the sum of resampled with that of all; nothing in common between halves.
        assert means.loc[key, "bootstrap"] == pytest.approx(1 / np.sqrt(2), abs=0.06)
        assert abs(means.loc[key, "halves"]) < 0.3


def test_only_the_train_split_is_read(study):
    store, table, _ = study
    half = table.assign(split=np.where(table["topic"] < "t3", "train", "test"))
    assert vector_stability(store, half, **OPTIONS, resamples=5)["prompts"].iloc[0] < 4 * TOPICS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cluster": "verb"}, "cluster: no column 'verb' in the dataset; it has: sample"),
        ({"contrasts": {"ab": ["a", "a"]}}, r"contrasts.ab: \['a', 'a'\]; valid: two labels"),
        ({"contrasts": {"ac": ["a", "c"]}}, "no prompt labelled 'c' is left"),
        ({"resamples": 0}, "resamples: 0; valid: 1 to 2000"),
        ({"cluster": "label"}, "2 clusters are too few: a draw of them has no prompt of a label"),
    ],
)
def test_what_cannot_be_resampled_is_refused(study, options, message):
    store, table, _ = study
    with pytest.raises(ValueError, match=message):
        vector_stability(store, table, **{**OPTIONS, **options})
