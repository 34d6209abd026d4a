"""Training rows: each once, in no order, from all shards, with one buffer in memory."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch.multiprocessing.reductions import StorageWeakRef

from pipeline.store import shuffling
from pipeline.store.shuffling import shuffled_batches, shuffled_rows
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter

SITES = ("blocks.0.resid_post", "blocks.1.z")
SHARD, SHARDS = 1000, 8
ROWS = SHARD * SHARDS


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ActivationStore:
    """Shards of samples of 50 rows; each activation says which row of the store it is."""
    folder = tmp_path_factory.mktemp("store")
    per_shard = SHARD // 50
    plan = [list(range(s * per_shard, (s + 1) * per_shard)) for s in range(SHARDS)]
    fingerprint = Fingerprint("m", "", "t", "c", "d", SITES, "all")
    with StoreWriter(folder, fingerprint, plan, required_bytes=1) as writer:
        for shard, samples in enumerate(plan):
            rows = pd.DataFrame(
                {"sample": np.repeat(samples, 50), "position": np.tile(np.arange(50), per_shard)}
            ).assign(token=0)
            number = torch.arange(shard * SHARD, (shard + 1) * SHARD).float()[:, None]
            writer.write(
                shard, {SITES[0]: number * torch.ones(3), SITES[1]: -number * torch.ones(2)}, rows
            )
    return ActivationStore(folder)


def order_of(store, kept=None, **settings) -> list[np.ndarray]:
    kept = np.ones(ROWS, dtype=bool) if kept is None else kept
    settings = {"batch_rows": 200, "buffer_rows": 2000, "seed": 0} | settings
    return [
        batch[SITES[0]][:, 0].numpy().astype(int)
        for batch in shuffled_batches(store, SITES, kept, **settings)
    ]


def rank_correlation(batches: list[np.ndarray]) -> float:
    """Of a row's place in the pass with its place in the store."""
    return abs(spearmanr(np.arange(ROWS), np.concatenate(batches)).statistic)


def neighbours(batches: list[np.ndarray]) -> float:
    """Share of rows followed by the next row of the store."""
    return float(np.mean(np.diff(np.concatenate(batches)) == 1))


def mixing(batches: list[np.ndarray]) -> float:
    """Entropy of the shards within a batch, averaged, as a share of the largest possible."""
    entropies = []
    for batch in batches:
        share = np.bincount(batch // SHARD, minlength=SHARDS) / len(batch)
        share = share[share > 0]
        entropies.append(-(share * np.log(share)).sum() / np.log(SHARDS))
    return float(np.mean(entropies))


def same_sample(batches: list[np.ndarray]) -> float:
    """Pairs of one sample within a batch, times what a perfect shuffle has of them."""
    pairs = [(np.bincount(b // 50) * (np.bincount(b // 50) - 1)).sum() for b in batches]
    perfect = sum(len(b) * (len(b) - 1) * 49 / (ROWS - 1) for b in batches)
    return sum(pairs) / perfect


def shuffles_well(batches) -> dict[str, bool]:
    return {
        # Three standard errors for pieces that are drawn as a whole; a plain pass has 1.
        "rank correlation": rank_correlation(batches) < 3 / (ROWS / shuffling.PIECE) ** 0.5,
        "neighbours": neighbours(batches) < 0.01,
        "mixing": mixing(batches) > 0.9,
        "same sample": same_sample(batches) < 5,
    }


def test_every_row_comes_once_and_at_all_sites_alike(store):
    kept = np.arange(ROWS) % 7 != 3
    both = list(shuffled_batches(store, SITES, kept, batch_rows=300, buffer_rows=1000, seed=1))
    assert [len(b[SITES[0]]) for b in both[:-1]] == [300] * (len(both) - 1)
    for batch in both:
        assert torch.equal(batch[SITES[0]][:, :2], -batch[SITES[1]])
        assert batch[SITES[0]].dtype == torch.float32
    seen = torch.cat([b[SITES[0]][:, 0] for b in both]).long().numpy()
    assert np.array_equal(np.sort(seen), np.flatnonzero(kept))


def test_the_order_is_well_shuffled(store):
    assert all(shuffles_well(order_of(store)).values())


def test_the_measures_catch_weaker_shuffles():
    """A plain pass, shards in random order, and a shuffle within shards only."""
    rng = np.random.default_rng(0)
    plain = np.arange(ROWS)
    shards = np.concatenate([plain.reshape(SHARDS, SHARD)[s] for s in rng.permutation(SHARDS)])
    within = np.concatenate([rng.permutation(part) for part in plain.reshape(SHARDS, SHARD)])
    found = [shuffles_well(np.split(order, ROWS // 200)) for order in (plain, shards, within)]
    assert found[0] == dict.fromkeys(found[0], False)
    assert not found[1]["neighbours"] and not found[1]["mixing"]
    assert not found[2]["rank correlation"] and not found[2]["mixing"]


def test_the_seed_decides(store):
    first, again, other = (np.concatenate(order_of(store, seed=s)) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_more_than_a_buffer_of_each_site_is_held_at_once(store, monkeypatch):
    read, held = [], []
    original = type(store[SITES[0]]).__getitem__

    def counted(self, rows):
        found = original(self, rows)
        read.append((len(found), StorageWeakRef(found.untyped_storage())))
        held.append(sum(size for size, storage in read if not storage.expired()))
        return found

    monkeypatch.setattr(type(store[SITES[0]]), "__getitem__", counted)
    order_of(store, buffer_rows=1000, batch_rows=300)
    assert 1900 < max(held) <= 2000


def test_a_buffer_that_cannot_mix_is_refused():
    with pytest.raises(ValueError, match=f"buffer_rows 40 must be at least {2 * shuffling.PIECE}"):
        next(shuffled_rows(np.arange(500), buffer_rows=40, seed=0))
