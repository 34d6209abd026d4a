"""dataset.parquet and the model -> completions.parquet, and recorded/: their activations."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipeline.completing import complete, decoding_of
from pipeline.config.sections import Study
from pipeline.data.recording import drawn, kept, whole
from pipeline.engine.conditions import Condition
from pipeline.grid import Part
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.runs.scratch import scratch, whole_file
from pipeline.runs.tracking import Run
from pipeline.store.collecting import write_store
from stages import ROOT, main

INPUTS = ("dataset.parquet",)
OUTPUTS = ("completions.parquet", "recorded")
SECTIONS = ("autoencoders", "collect", "model", "sweep")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Complete every prompt several times, and keep the activations of prompts and completions."""
    assert study.autoencoders is not None
    prompts = drawn(pd.read_parquet(folder / "dataset.parquet"), study.autoencoders.recorded)
    model = load_model(study.model)
    part = Part("recorded", "recorded", (Condition("recorded"),), tuple(prompts["sample"]))
    with scratch(folder / "recorded", key, root=ROOT) as work:
        completions = complete(
            model,
            prompts,
            [part],
            work,
            decoding=replace(decoding_of(study), repeats=1),
            seed=study.sweep.seed,
            batch_tokens=study.model.batch_tokens,
        )
        tokens = whole(prompts, completions)
        store = write_store(
            work / "recorded",
            model,
            study.model,
            tokens,
            kept(prompts, tokens),
            [Site.parse(site) for site in study.autoencoders.all_sites],
            rule="prompts once, completions all",
            rows_per_shard=study.collect.rows_per_shard,
        )
        with whole_file(folder / "completions.parquet") as path:
            completions.to_parquet(path)
    tracked.summary({"completions": len(completions), "rows": len(store)})


if __name__ == "__main__":
    main()
