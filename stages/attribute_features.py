"""completions.parquet and autoencoders/ -> attributions/: which features end the recorded lists."""

from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor

from pipeline.config.sections import Study
from pipeline.lists import list_ends, recorded_lists
from pipeline.measures.lists import blank_over_break
from pipeline.methods.attribution import attribute, check_by_ablation
from pipeline.methods.feature_sets import strongest
from pipeline.methods.sae import load_sae
from pipeline.model.chat import single_tokens
from pipeline.model.loading import load_model
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from stages import ROOT, main

INPUTS = ("dataset.parquet", "completions.parquet", "autoencoders/quality.csv")
OUTPUTS = ("attributions",)
SECTIONS = ("autoencoders", "model", "sweep")
KEPT = 200
"""Features of each list and site that are written down, the largest in size."""


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Attribute the metric in every list, choose the strongest pairs, and check the largest."""
    section = study.autoencoders
    assert section is not None
    model = load_model(study.model)
    lists = recorded_lists(study, folder)
    ends = list_ends(model.tokenizer, lists)
    prompts = [lists.at[number, "whole"][: end + 1] for number, end in ends.items()]
    blank, line_break = single_tokens(model.tokenizer, [section.blank, section.line_break])

    def measure(logits: Tensor) -> Tensor:
        return blank_over_break(logits, blank=blank, line_break=line_break)

    autoencoders = [
        load_sae(folder / "autoencoders" / f"{site}.safetensors") for site in section.all_sites
    ]
    found = attribute(
        model, prompts, autoencoders, measure, top=KEPT, batch_tokens=study.model.batch_tokens
    )
    features = found.features.assign(
        from_end=found.features["position"] - ends.to_numpy()[found.features["prompt"]]
    )
    check = partial(
        check_by_ablation,
        model,
        prompts,
        measure=measure,
        top=section.checked,
        batch_tokens=study.model.batch_tokens,
    )
    checks = [check(sae, attribution=features) for sae in autoencoders]
    chosen = strongest(features, len(prompts), section.top)
    checked = pd.concat([one.table for one in checks], ignore_index=True)

    def numbered(table: pd.DataFrame) -> pd.DataFrame:
        """In tables a prompt goes by its number among all lists, those left out too."""
        return table.assign(prompt=ends.index.to_numpy()[table["prompt"]])

    with scratch(folder / "attributions", key, root=ROOT) as work:
        made = work / "attributions"
        made.mkdir(exist_ok=True)
        numbered(features).to_parquet(made / "features.parquet")
        numbered(found.errors).to_parquet(made / "errors.parquet")
        numbered(found.totals).to_parquet(made / "totals.parquet")
        numbered(checked).to_parquet(made / "checked.parquet")
        chosen.to_csv(made / "chosen.csv", index=False)
    tracked.table("chosen", chosen)
    tracked.summary(
        {"lists": len(ends), "lists without an end": len(lists) - len(ends)}
        | {
            f"rank correlation/{s}": one.rank
            for s, one in zip(section.all_sites, checks, strict=True)
        }
    )


if __name__ == "__main__":
    main()
