"""Coverage of concepts by features: planted ones are found, shuffled labels are at chance."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import WIDTH
from stores import whole_samples, write_store
from test_sae import SITE, autoencoder
from test_sae_features import readable

from pipeline.methods.sae.coverage import coverage
from pipeline.methods.sae.quality import held_out
from pipeline.model.sites import Site

N = 300
TOPICS = ["fish", "birds", "tools", "words"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return whole_samples([4 + i % 5 for i in range(N)])


@pytest.fixture(scope="module")
def labels(rows) -> pd.DataFrame:
    """A topic for every sample, and a concept of single rows: every third position."""
    topic = rows["sample"].map(lambda sample: TOPICS[(sample * 7) % len(TOPICS)])
    named = {name: topic == name for name in TOPICS}
    return pd.DataFrame({**named, "third": rows["position"] % 3 == 2})


@pytest.fixture(scope="module")
def store(rows, labels, tmp_path_factory):
    """Dimension 5 is fish exactly, 9 every third position; 11 is birds on half of its rows.

    Dimension 0 is above 0 everywhere; those from 12 on are noise, and the others are below 0.
    """
    draw = torch.Generator().manual_seed(0)
    x = -torch.ones(len(rows), WIDTH)
    x[:, 0] = 1
    x[torch.tensor(labels["fish"].to_numpy()), 5] = 2.0
    x[torch.tensor(labels["third"].to_numpy()), 9] = 0.1
    birds = torch.tensor(labels["birds"].to_numpy())
    x[birds & (torch.rand(len(rows), generator=draw) < 0.5), 11] = 3.0
    x[:, 12:] = torch.randn(len(rows), WIDTH - 12, generator=draw)
    return write_store(tmp_path_factory.mktemp("s"), {str(SITE): x}, rows, shards=3)


@pytest.fixture(scope="module")
def everything(rows) -> np.ndarray:
    return np.ones(len(rows), dtype=bool)


def test_planted_features_are_found_with_their_f1(store, labels, everything):
    table = coverage([readable()], store, labels, everything, seed=0).set_index("concept")
    assert table.loc[["fish", "third", "birds"], "feature"].tolist() == [5, 9, 11]
    assert table.loc[["fish", "third"], "f1"].tolist() == [1.0, 1.0]
    # All that fires is right, half of the rows are found: 2 * 1/2 / (1 + 1/2).
    assert table.loc["birds", "f1"] == pytest.approx(2 / 3, abs=0.05)
    for column, value in (("site", str(SITE)), ("kind", "l1"), ("n_features", WIDTH)):
        assert set(table[column]) == {value}


def test_shuffled_labels_are_near_chance(store, labels, everything):
    """Feature 0, always active, is the best guess: precision is the prevalence p, recall 1."""
    table = coverage([readable()], store, labels, everything, seed=0, shuffles=20)
    p = table["positives"] / table["rows"]
    np.testing.assert_allclose(table["chance"], 2 * p / (1 + p))
    np.testing.assert_allclose(table["shuffled"], table["chance"], atol=0.03)
    assert (table["shuffled"] <= table["chance"] + 1e-9).all()


def test_a_concept_without_a_feature_is_at_chance(store, labels, everything):
    table = coverage([readable()], store, labels, everything, seed=0).set_index("concept")
    assert table.loc["words", "f1"] == pytest.approx(table.loc["words", "chance"], abs=0.03)


def test_it_is_the_plain_computation(store, rows, labels, everything):
    sae = autoencoder("jumprelu")
    out = held_out(rows["sample"].to_numpy(), 0.5, 3)
    active = (sae.encode(store[str(SITE)][everything]) > 0).numpy()
    table = coverage([sae], store, labels, everything, seed=3, batch_rows=100)

    def f1(concept: str, feature: int, where: np.ndarray) -> float:
        right = (labels[concept].to_numpy() & active[:, feature])[where].sum()
        return 2 * right / (labels[concept][where].sum() + active[where, feature].sum())

    for row in table.itertuples():
        chosen = [f1(row.concept, feature, ~out) for feature in range(sae.n_features)]
        assert row.feature == int(np.argmax(chosen))
        assert row.f1 == pytest.approx(f1(row.concept, row.feature, out))
        assert (row.rows, row.positives) == (out.sum(), labels[row.concept][out].sum())


def test_features_chosen_by_luck_do_not_count(store, rows, everything):
    """A concept of very few rows, many noise features: chosen at its best, reported as it is."""
    draw = np.random.default_rng(0)
    rare = pd.DataFrame({"rare": draw.random(len(rows)) < 0.01})
    noise = replace(autoencoder(features=2000), encoder_bias=torch.full((2000,), -2.0))
    table = coverage([noise], store, rare, everything, seed=0)
    assert table["f1"].item() < 0.15


def test_several_sizes_give_a_row_each(store, labels, everything):
    small, large = autoencoder(features=16), readable()
    both = coverage([small, large], store, labels, everything, seed=0)
    assert both["n_features"].tolist() == [16] * 5 + [WIDTH] * 5
    alone = coverage([large], store, labels, everything, seed=0)
    pd.testing.assert_frame_equal(both.iloc[5:].reset_index(drop=True), alone)


def test_only_kept_rows_count(store, rows, labels):
    """On rows of fish and tools alone, at the first two positions."""
    kept = ((labels["fish"] | labels["tools"]) & (rows["position"] < 2)).to_numpy()
    table = coverage([readable()], store, labels[["fish", "tools"]], kept, seed=0)
    assert (table["rows"] < kept.sum()).all()
    assert table.set_index("concept").loc["fish", "f1"] == 1.0


def test_wrong_arguments_are_named(store, labels, everything):
    with pytest.raises(ValueError, match=r"labels have 3 rows, the store has"):
        coverage([readable()], store, labels.head(3), everything, seed=0)
    never = labels.assign(never=False)
    with pytest.raises(ValueError, match=r"concept 'never' has no row .* to choose a feature"):
        coverage([readable()], store, never, everything, seed=0)
    elsewhere = autoencoder(site=Site(1, "resid_post"))
    with pytest.raises(ValueError, match=r"'blocks\.1\.resid_post' is not in"):
        coverage([elsewhere], store, labels, everything, seed=0)
