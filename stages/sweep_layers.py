"""vectors/ x conditions -> sweep.parquet (completions), forward.parquet (scores without them)."""

import json
from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.forward import read_texts
from pipeline.grid import compared, report_parts
from pipeline.measures.choice import Setting
from pipeline.measures.scores import long_table
from pipeline.methods.directions import load_directions
from pipeline.model import chat
from pipeline.model.loading import load_model
from pipeline.runs.scratch import scratch, whole_file
from pipeline.runs.tracking import Run
from pipeline.sweeping import run_parts, swept_layers, with_directions
from stages import ROOT, main

INPUTS = ("dataset.parquet", "texts.parquet", "vectors/directions.safetensors", "settings.json")
OUTPUTS = ("sweep.parquet", "forward.parquet")
SECTIONS = ("model", "sweep", "vectors")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Run every test prompt under every condition; a killed run goes on at its next chunk."""
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
        completions, logits = run_parts(study, model, dataset, sweep, work)
        losses = read_texts(
            model,
            pd.read_parquet(folder / "texts.parquet"),
            [c for part in sweep for c in part.conditions if compared(c, settings)],
            work,
            batch_tokens=study.model.batch_tokens,
        )
        with whole_file(folder / "forward.parquet") as path:
            long_table([logits, losses]).to_parquet(path)
        completions.to_parquet(work / "sweep.parquet")
    tracked.summary(
        {
            "conditions": sum(len(part.conditions) for part in sweep),
            "completions": len(completions),
            "cut at length limit": int((completions["stopped"] == "length").sum()),
        }
    )


if __name__ == "__main__":
    main()
