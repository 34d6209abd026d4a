"""sweep.parquet -> scores.parquet (a row per sample), summary.parquet (means), metrics.json."""

import json
from pathlib import Path

import pandas as pd

from pipeline.measures.headline import headline
from pipeline.measures.metrics import cross_entropy
from pipeline.measures.statistics import summarise
from pipeline.scratch import whole_file
from pipeline.sections import Study
from pipeline.study import target
from pipeline.tracking import Run
from pipeline.views.completions import completion_table
from stages import main

INPUTS = ("sweep.parquet", "text_losses.parquet", "vectors/choice.json")
OUTPUTS = ("scores.parquet", "summary.parquet", "metrics.json", "curves.csv")
SECTIONS = ("score", "sweep")
CONDITION = [
    "condition",
    "arm",
    "intervention",
    "source",
    "draw",
    "layer",
    "strength",
    "positions",
]
SHOWN = 40
SAMPLE = ["sample", "repeat", "split", "label", "topic"]


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Score every completion, average, and choose what is reported."""
    sweep = pd.read_parquet(folder / "sweep.parquet")
    losses = pd.read_parquet(folder / "text_losses.parquet")
    metrics = {name: target(node) for name, node in study.score.metrics.items()}
    scored = []
    for _, samples in sweep.groupby(["condition", "split"], sort=False):
        for name, metric in metrics.items():
            rows = samples[CONDITION + SAMPLE].assign(metric=name, score=metric(samples))
            scored.append(rows)
    if len(losses):
        text = losses.assign(repeat=0, split="text", label="text", topic=losses["sample"].map(str))
        rows = text[CONDITION + SAMPLE]
        scored.append(rows.assign(metric="cross_entropy", score=cross_entropy(losses)))
    scores = pd.concat(scored, ignore_index=True)
    summary = summarise(
        scores,
        [*CONDITION, "label", "split", "metric"],
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    choice = json.loads((folder / "vectors" / "choice.json").read_text())
    reported = headline(study, summary, scores, choice)
    for name, table in (("scores", scores), ("summary", summary)):
        with whole_file(folder / f"{name}.parquet") as path:
            table.to_parquet(path)
    with whole_file(folder / "metrics.json") as path:
        path.write_text(json.dumps(reported, indent=1) + "\n")
    curves = _curves(summary)
    with whole_file(folder / "curves.csv") as path:
        curves.to_csv(path, index=False)
    tracked.summary(reported)
    tracked.curve(curves)
    test = sweep[sweep["split"] == "test"]
    for arm, numbers in reported.items():
        if "layer" in numbers:
            pair = completion_table(test, **numbers["conditions"], n=SHOWN)
            tracked.table(f"completions/{arm}", pair)


def _curves(summary: pd.DataFrame) -> pd.DataFrame:
    """Test means of the fitted directions, a row per layer and a column per curve."""
    rows = summary[(summary["split"] == "test") & (summary["source"] == "fitted")]
    names = rows["arm"] + "/" + rows["metric"] + "/" + rows["positions"]
    names += "/" + rows["strength"].map("{:g}".format)
    wide = rows.assign(curve=names).pivot(index="layer", columns="curve", values="mean")
    return wide.reset_index()


if __name__ == "__main__":
    main()
