"""Projections against a planted plane, scikit-learn, and planted clusters."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA
from stores import write_store

from pipeline.data.datasets import tokenise
from pipeline.data.positions import locate
from pipeline.methods.representations.projection import pca, projections
from pipeline.model.sites import Site
from pipeline.store import collecting


def prompts_of(labels) -> pd.DataFrame:
    return pd.DataFrame({"sample": range(len(labels)), "label": labels}).assign(
        split="test", topic=np.where(np.arange(len(labels)) % 2, "odd", "even")
    )


def stored(folder, *layers):
    rows = pd.DataFrame({"sample": range(len(layers[0])), "position": 0, "token": 9})
    sites = {f"blocks.{n}.resid_pre": torch.from_numpy(x).float() for n, x in enumerate(layers)}
    return write_store(folder, sites, rows, 2)


def rotated_plane(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a rectangle, 3 times as wide as high, in a random plane far from the origin."""
    draw = np.random.default_rng(0)
    plane = np.stack(np.meshgrid(3 * np.arange(6.0), np.arange(6.0)), -1).reshape(-1, 2)
    axes, _ = np.linalg.qr(draw.normal(size=(12, 2)))
    return plane, plane @ axes.T + 7 + noise * draw.normal(size=(36, 12))


def test_a_planted_plane_comes_back_with_its_distances_and_shares():
    plane, states = rotated_plane(0.0)
    points, shares = pca(states)
    assert pdist(points) == pytest.approx(pdist(plane), abs=1e-9)
    # The variance of the sides is as 9 to 1.
    assert shares == pytest.approx([0.9, 0.1], abs=1e-12)
    centred = plane - plane.mean(0)
    assert np.abs(points) == pytest.approx(np.abs(centred), abs=1e-9)


def test_pca_is_that_of_scikit_learn_up_to_signs():
    states = np.random.default_rng(1).normal(size=(30, 8)) @ np.diag([5, 4, 3, 2, 1, 1, 1, 1])
    points, shares = pca(states)
    fitted = PCA(2).fit(states)
    assert np.abs(points) == pytest.approx(np.abs(fitted.transform(states)), abs=1e-9)
    assert shares == pytest.approx(fitted.explained_variance_ratio_, abs=1e-12)


def test_planted_clusters_are_those_of_the_plane_and_neighbours_are_right(tmp_path):
    """Three far clusters in ten dimensions; in the other layer all states are equal."""
    labels = list("abc") * 12
    draw = np.random.default_rng(2)
    centres = 20 * np.eye(10)[[labels.index(label) for label in labels]]
    states = centres + draw.normal(size=(36, 10))
    store = stored(tmp_path, states, np.ones((36, 10)))
    table = projections(store, prompts_of(labels), 0)
    assert len(table) == 2 * 2 * 36
    distances = np.linalg.norm(states[:, None] - states, axis=-1) + 1e9 * np.eye(36)
    for method in ("pca", "tsne"):
        rows = table[(table["method"] == method) & (table["layer"] == 0)]
        assert rows["neighbour"].tolist() == distances.argmin(1).tolist()
        points = rows[["x", "y"]].to_numpy()
        away = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(36)
        assert rows["plane_neighbour"].tolist() == away.argmin(1).tolist()
        assert [labels[n] for n in away.argmin(1)] == labels
    shares = table[(table["method"] == "pca")].groupby("layer")[["share_1", "share_2"]].first()
    assert shares.loc[0].sum() > 0.9 and shares.loc[1].tolist() == [0, 0]
    assert table["x"].notna().all()
    assert table.loc[table["method"] == "tsne", "perplexity"].eq(10).all()


def test_the_same_seed_gives_the_same_points_and_a_selection_only_its_samples(tmp_path):
    _, states = rotated_plane(0.5)
    store, prompts = stored(tmp_path, states), prompts_of(["a"] * 36)
    options = {"samples": {"topic": "odd"}, "perplexity": 5.0}
    table = projections(store, prompts, 3, **options)
    pd.testing.assert_frame_equal(table, projections(store, prompts, 3, **options))
    assert table["sample"].unique().tolist() == list(range(1, 36, 2))
    expected, _ = pca(states.astype(np.float32).astype(float)[1::2])
    points = table.loc[table["method"] == "pca", ["x", "y"]].to_numpy()
    assert points == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_states_of_a_family_are_projected(family, tmp_path):
    model = tiny(family)
    texts = [f"w{20 + n} w{40 + n % 3} w7" for n in range(8)]
    frame = pd.DataFrame({"instruction": texts, "raw": True, "split": "test", "topic": "w7"})
    prompts = tokenise(frame.assign(label="l", subject="w7"), model.tokenizer)
    tokens, positions = locate(prompts, model.tokenizer, "subject", variables=None)
    named = {"revision": "", "rule": "subject", "rows_per_shard": 3}
    site = Site(2, "resid_post")
    store = collecting.write_store(tmp_path, model, tokens, positions, [site], **named)
    table = projections(store, prompts, 0, component="resid_post", perplexity=3.0)
    states = []
    for row in prompts["tokens"]:
        with torch.no_grad():
            out = model.hf(torch.tensor([row]), output_hidden_states=True, use_cache=False)
        states.append(out.hidden_states[3][0, -1].double().numpy())
    points = table.loc[table["method"] == "pca", ["x", "y"]].to_numpy()
    expected = PCA(2).fit_transform(np.stack(states))
    assert np.abs(points) == pytest.approx(np.abs(expected), abs=1e-4)


def test_wrong_options_are_named(tmp_path):
    store, prompts = stored(tmp_path, np.eye(6)), prompts_of(list("aaabbb"))
    for options, message in (
        ({"perplexity": 6.0}, "perplexity 6 with 6 samples; valid: 1 to below 6"),
        ({"perplexity": 0.5}, "perplexity 0.5 with 6 samples; valid: 1 to below 6"),
        ({"samples": {"topic": "odd"}}, "3 samples to project; valid: 4 or more"),
        ({"samples": {"label": "c"}}, "no prompt has label 'c'; valid: a, b"),
        (
            {"perplexity": 2.0, "layers": [4]},
            "layers: resid_pre of layer 4 is not collected; valid: 0",
        ),
        ({"perplexity": 2.0, "component": "z"}, "component 'z' is not collected; valid: resid_pre"),
    ):
        with pytest.raises(ValueError, match=message):
            projections(store, prompts, 0, **options)
