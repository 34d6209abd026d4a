"""Training a sparse autoencoder on stored activations."""

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.arithmetic import Need
from benchmarks.peers import sae_lens, sparsify
from benchmarks.shapes import Size
from benchmarks.work import Work
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.quality import quality
from pipeline.methods.sae.training import SaeRecipe, train
from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter

SITE = "blocks.0.resid_post"
SHARDS = 8
NOISE = 0.01
"""How much more of the variance others may explain than ours does, at as many steps."""
PEERS: dict[str, Callable[[list[Tensor], SaeRecipe], dict[str, Tensor]]] = {
    "sae_lens": sae_lens.trained,
    "sparsify": sparsify.trained,
}


def autoencoder(size: Size, folder: Path) -> Work:
    """TopK on planted features, one pass; held-out rows say how good it became.

    We read the store and shuffle it; the others get our shuffled batches from memory.
    """
    sizes = size.autoencoder
    _write(folder, sizes.rows // SHARDS, sizes.width, sizes.planted, sizes.k)
    store = ActivationStore(folder)
    kept = (store.rows["sample"] < SHARDS - 1).to_numpy()
    recipe = SaeRecipe(SITE, "topk", sizes.features, k=sizes.k, learning_rate=3e-3)
    x = torch.cat([values.float() for _, values in store[SITE]])[torch.tensor(kept)]
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    batches = list(x[order].split(sizes.batch))
    sides: dict[str, Callable[[], SparseAutoencoder]] = {
        "actsweep": lambda: train(store, [recipe], kept, batch_rows=sizes.batch)[0]
    }
    missing = []
    for name, theirs in PEERS.items():
        if find_spec(name) is None:
            missing.append(f"{name}: not installed; make bench installs it")
        else:
            sides[name] = partial(_other, theirs, batches, recipe)

    def score(made: SparseAutoencoder) -> float:
        return quality(made, store, ~kept).explained_variance

    active = len(x) * sizes.k * sizes.width
    return Work(
        what=f"a TopK autoencoder of {sizes.features} features, k {sizes.k}, on {len(x)} rows of "
        f"{sizes.width}",
        sides=sides,
        same=lambda side, ours, theirs: _as_good(side, score(ours), score(theirs)),
        # All features are read once; decoding and three products for slopes concern active ones.
        need=lambda _: Need(
            flop=2 * (len(x) * sizes.width * sizes.features + 4 * active), bytes=2 * x.numel()
        ),
        score=score,
        missing=missing,
    )


def _write(folder: Path, per: int, width: int, planted: int, k: int) -> None:
    draw = torch.Generator().manual_seed(1)
    dictionary = normalize(torch.randn(planted, width, generator=draw), dim=-1)
    mark = Fingerprint("random", "", "", "", "", (SITE,), "last")
    with StoreWriter(folder, mark, [[n] for n in range(SHARDS)], required_bytes=0) as writer:
        for shard in range(SHARDS):
            on = torch.rand(per, planted, generator=draw) < k / planted
            x = (on * torch.rand(per, planted, generator=draw)) @ dictionary
            # Activations as SAELens and sparsify expect them: a mean square of 1 per dimension.
            x /= math.sqrt(k / 3 / width)
            rows = pd.DataFrame({"sample": shard, "position": np.arange(per), "token": 0})
            writer.write(shard, {SITE: x.bfloat16()}, rows)


def _other(
    trained: Callable[[list[Tensor], SaeRecipe], dict[str, Tensor]],
    batches: list[Tensor],
    recipe: SaeRecipe,
) -> SparseAutoencoder:
    weights = {name: weight.detach() for name, weight in trained(batches, recipe).items()}
    return SparseAutoencoder(
        kind="topk",
        threshold=torch.zeros(recipe.n_features),
        provenance=Provenance("random", sites=(SITE,)),
        k=recipe.k,
        **weights,
    )


def _as_good(side: str, ours: float, theirs: float) -> None:
    if theirs - ours > NOISE:
        raise ValueError(f"{side}: explains {theirs:.3f} of the held-out variance, ours {ours:.3f}")
