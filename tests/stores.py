"""Small activation stores of planted rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pipeline.store.store import ActivationStore, Fingerprint
from pipeline.store.writer import StoreWriter


def write_store(
    folder: Path, values: dict[str, torch.Tensor], rows: pd.DataFrame, shards: int, model: str = ""
) -> ActivationStore:
    """Rows in the order given, whole samples to a shard."""
    parts = np.array_split(rows["sample"].unique(), shards)
    plan = [part.tolist() for part in parts]
    fingerprint = Fingerprint(model, "", "t", "c", "d", tuple(values), "all")
    with StoreWriter(folder, fingerprint, plan, required_bytes=1) as writer:
        for shard, samples in enumerate(plan):
            here = rows["sample"].isin(samples).to_numpy()
            mask = torch.tensor(here)
            own = {site: tensor[mask] for site, tensor in values.items()}
            writer.write(shard, own, rows[here].reset_index(drop=True))
    return ActivationStore(folder)


def whole_samples(lengths: list[int], seed: int = 0, bos: int | None = None) -> pd.DataFrame:
    """A row for every token of samples of these lengths; the first token is `bos` if given."""
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(
        [(sample, place) for sample, length in enumerate(lengths) for place in range(length)],
        columns=["sample", "position"],
    )
    tokens = draw.integers(6, 200, len(rows))
    if bos is not None:
        tokens[rows["position"] == 0] = bos
    return rows.assign(token=tokens)
