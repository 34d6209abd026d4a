"""dataset.parquet and the model -> activations/, a sharded store."""

from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.data.positions import collected
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.store.collecting import write_store
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
    with scratch(folder / "activations", key, root=ROOT) as work:
        store = write_store(
            work / "activations",
            model,
            study.model,
            tokens,
            places,
            sites,
            rule=str(study.collect.positions),
            rows_per_shard=study.collect.rows_per_shard,
        )
    shards = store.index.shards
    size = sum(shard.bytes for shard in shards)
    tracked.summary({"rows": len(store), "bytes": size, "shards": len(shards)})
    tracked.reference(
        "activations", folder / "activations", {"fingerprint": store.fingerprint.digest}
    )


if __name__ == "__main__":
    main()
