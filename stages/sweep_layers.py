"""vectors/ x conditions -> sweep.parquet (completions), text_losses.parquet (unrelated text)."""

import json
from pathlib import Path

import pandas as pd

from pipeline.engine.scoring import cross_entropy
from pipeline.grid import Part, compared, report_parts
from pipeline.measures.choice import Setting
from pipeline.methods.directions import load_directions
from pipeline.model import chat
from pipeline.model.loading import LanguageModel, load_model
from pipeline.scratch import scratch, whole_file
from pipeline.sections import Study
from pipeline.sweeping import complete, decoding_of, swept_layers, with_directions
from pipeline.tracking import Run
from stages import ROOT, main

INPUTS = ("dataset.parquet", "texts.parquet", "vectors/directions.safetensors", "settings.json")
OUTPUTS = ("sweep.parquet", "text_losses.parquet")
SECTIONS = ("model", "sweep", "vectors")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Complete every test prompt under every condition; a killed run goes on at its next chunk."""
    dataset = pd.read_parquet(folder / "dataset.parquet")
    chosen = json.loads((folder / "settings.json").read_text())
    settings = {arm: Setting(**setting) for arm, setting in chosen.items()}
    model = load_model(study.model)
    directions, _ = load_directions(
        folder / "vectors" / "directions.safetensors",
        model=model.weights,
        template=chat.template_digest(model.tokenizer),
    )
    layers = swept_layers(study, model.n_layers, directions)
    sweep = report_parts(study, dataset, layers, settings)
    sweep = with_directions(study, model, dataset, sweep, directions)
    with scratch(folder / "sweep.parquet", key, root=ROOT) as work:
        table = complete(
            model,
            dataset,
            sweep,
            work,
            decoding=decoding_of(study),
            seed=study.sweep.seed,
            batch_tokens=study.model.batch_tokens,
        )
        texts = pd.read_parquet(folder / "texts.parquet")
        with whole_file(folder / "text_losses.parquet") as path:
            _read_texts(study, model, texts, sweep, settings).to_parquet(path)
        table.to_parquet(work / "sweep.parquet")
    tracked.summary(
        {
            "conditions": sum(len(part.conditions) for part in sweep),
            "completions": len(table),
            "cut at length limit": int((table["stopped"] == "length").sum()),
        }
    )


def _read_texts(
    study: Study,
    model: LanguageModel,
    texts: pd.DataFrame,
    sweep: list[Part],
    settings: dict[str, Setting],
) -> pd.DataFrame:
    """Cross-entropy of unrelated text under the conditions that are compared over layers.

    Rules that name tokens of a prompt, such as its last or its subject, name none in another text.
    """
    if texts.empty:
        return pd.DataFrame({"condition": []})
    anywhere = ("none", "all", "after_first", "generated")
    conditions = [
        condition
        for part in sweep
        for condition in part.conditions
        if compared(condition, settings) and condition.positions in anywhere
    ]
    losses = cross_entropy(
        model, texts["tokens"].tolist(), conditions, batch_tokens=study.model.batch_tokens
    )
    rows = [
        {**condition.columns, "sample": sample, "cross_entropy": loss}
        for condition, row in zip(conditions, losses.tolist(), strict=True)
        for sample, loss in zip(texts["sample"], row, strict=True)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


if __name__ == "__main__":
    main()
