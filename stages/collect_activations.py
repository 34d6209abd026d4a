"""dataset.parquet and the model -> activations/, a sharded store."""

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pipeline.datasets import dataset_digest
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Places
from pipeline.model import chat
from pipeline.model.loading import load_model, tokenizer_digest
from pipeline.model.sites import Site
from pipeline.positions import collected
from pipeline.scratch import scratch
from pipeline.sections import Study
from pipeline.store import Fingerprint
from pipeline.store_writer import StoreWriter
from pipeline.tracking import Run
from stages import ROOT, main

INPUTS = ("dataset.parquet",)
OUTPUTS = ("activations",)
SECTIONS = ("collect", "model")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Keep the activations of the train split at the chosen positions of every layer."""
    dataset = pd.read_parquet(folder / "dataset.parquet")
    tokens, places = collected(study, dataset)
    model = load_model(study.model)
    sites = [
        Site(layer, component)
        for layer in range(model.n_layers)
        for component in study.collect.components
    ]
    fingerprint = Fingerprint(
        model=model.weights,
        revision=study.model.revision or "",
        tokenizer=tokenizer_digest(model.tokenizer),
        template=chat.template_digest(model.tokenizer),
        dataset=dataset_digest(pd.DataFrame({"sample": tokens.keys(), "tokens": tokens.values()})),
        sites=tuple(map(str, sites)),
        positions=str(study.collect.positions),
    )
    rows = {sample: len(kept) for sample, kept in places.items()}
    shards = _shards(rows, study.collect.rows_per_shard)
    size = sum(rows.values()) * sum(map(model.width, sites)) * model.dtype.itemsize
    with (
        scratch(folder / "activations", key, root=ROOT) as work,
        StoreWriter(work / "activations", fingerprint, shards, required_bytes=size) as writer,
    ):
        for number in tqdm(writer.missing(), "collect", unit="shard", disable=None):
            samples = shards[number]
            values, table = collect(
                model,
                [tokens[s] for s in samples],
                sites,
                Places(str(study.collect.positions), [places[s] for s in samples]),
                batch_tokens=study.model.batch_tokens,
            )
            table["sample"] = [samples[p] for p in table.pop("prompt")]
            writer.write(number, {str(s): v for s, v in values.items()}, table)
    tracked.summary({"rows": sum(rows.values()), "bytes": size, "shards": len(shards)})
    tracked.reference("activations", folder / "activations", {"fingerprint": fingerprint.digest})


def _shards(rows: dict[int, int], rows_per_shard: int) -> list[list[int]]:
    shards: list[list[int]] = [[]]
    filled = 0
    for sample, count in rows.items():
        if shards[-1] and filled + count > rows_per_shard:
            shards.append([])
            filled = 0
        shards[-1].append(sample)
        filled += count
    return shards


if __name__ == "__main__":
    main()
