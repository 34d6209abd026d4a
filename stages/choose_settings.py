"""vectors/ x conditions on val prompts -> validation*.parquet, settings.json: what is reported."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.config.study import target
from pipeline.grid import validation_parts
from pipeline.measures.choice import Setting, choose_setting
from pipeline.measures.scores import CONDITION, score_table
from pipeline.measures.statistics import summarise
from pipeline.methods.directions import load_directions
from pipeline.model import chat
from pipeline.model.loading import load_model
from pipeline.runs.scratch import scratch, whole_file
from pipeline.runs.tracking import Run
from pipeline.sweeping import run_parts, swept_layers, with_directions
from stages import ROOT, main

INPUTS = ("dataset.parquet", "vectors/directions.safetensors", "vectors/choice.json")
OUTPUTS = ("validation.parquet", "validation_forward.parquet", "settings.json")
SECTIONS = ("model", "score", "sweep", "vectors")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Run the val prompts under the whole grid, and choose for each arm by its metric."""
    dataset = pd.read_parquet(folder / "dataset.parquet")
    selected = json.loads((folder / "vectors" / "choice.json").read_text())["layer"]
    model = load_model(study.model)
    directions, _ = load_directions(
        folder / "vectors" / "directions.safetensors",
        model=model.weights,
        template=chat.template_digest(model.tokenizer),
    )
    grid = validation_parts(study, dataset, swept_layers(study, model.n_layers, directions))
    grid = with_directions(study, model, dataset, grid, directions)
    with scratch(folder / "validation.parquet", key, root=ROOT) as work:
        completions, logits = run_parts(study, model, dataset, grid, work)
        settings = {
            name: asdict(_choose(study, name, completions, logits, selected))
            for name, arm in study.sweep.arms.items()
            if arm.strengths
        }
        with whole_file(folder / "validation_forward.parquet") as path:
            logits.to_parquet(path)
        with whole_file(folder / "settings.json") as path:
            path.write_text(json.dumps(settings, indent=1) + "\n")
        completions.to_parquet(work / "validation.parquet")
    tracked.summary({f"{a}/{k}": v for a, setting in settings.items() for k, v in setting.items()})


def _choose(
    study: Study, name: str, completions: pd.DataFrame, logits: pd.DataFrame, layer: int | None
) -> Setting:
    arm = study.sweep.arms[name]
    if arm.metric in study.sweep.logit_metrics:
        scores = logits[(logits["arm"] == name) & (logits["metric"] == arm.metric)]
    else:
        metric = {arm.metric: target(study.score.metrics[arm.metric])}
        scores = score_table(completions[completions["arm"] == name], metric)
    means = summarise(
        scores,
        [*CONDITION, "metric"],
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    return choose_setting(arm, means[means["source"] == "fitted"], layer)


if __name__ == "__main__":
    main()
