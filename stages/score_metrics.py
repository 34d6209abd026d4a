"""What the sweep wrote -> scores.parquet (a row per sample), summary.parquet, metrics.json."""

import json
from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.config.study import target
from pipeline.measures.choice import Setting
from pipeline.measures.headline import headline
from pipeline.measures.scores import CONDITION, long_table, score_table
from pipeline.measures.statistics import summarise
from pipeline.runs.scratch import whole_file
from pipeline.runs.tracking import Run
from pipeline.views.completions import completion_table
from stages import main

INPUTS = ("sweep.parquet", "forward.parquet", "settings.json")
OUTPUTS = ("scores.parquet", "summary.parquet", "metrics.json", "curves.csv")
SECTIONS = ("score", "sweep")
SHOWN = 40


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Score every completion and average."""
    sweep = pd.read_parquet(folder / "sweep.parquet")
    metrics = {name: target(node) for name, node in study.score.metrics.items()}
    scored = [score_table(sweep, metrics), pd.read_parquet(folder / "forward.parquet")]
    settings = {
        arm: Setting(**setting)
        for arm, setting in json.loads((folder / "settings.json").read_text()).items()
    }
    scores = _mark(long_table(scored), settings)
    summary = summarise(
        scores,
        [*CONDITION, "chosen", "label", "split", "metric"],
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    reported = headline(study, scores, settings)
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
    for arm, numbers in reported.items():
        if "layer" in numbers and len(sweep):
            pair = completion_table(sweep, **numbers["conditions"], n=SHOWN)
            tracked.table(f"completions/{arm}", pair)


def _mark(scores: pd.DataFrame, settings: dict[str, Setting]) -> pd.DataFrame:
    """A column `chosen`: whether a condition is at its arm's strength and rule, at any layer."""
    marks = [
        source == "none" or settings[arm].holds(strength, positions)
        for arm, source, strength, positions in zip(
            *(scores[name] for name in ("arm", "source", "strength", "positions")), strict=True
        )
    ]
    return scores.assign(chosen=marks)


def _curves(summary: pd.DataFrame) -> pd.DataFrame:
    """Means of the fitted directions as chosen, a row per layer and a column per curve."""
    rows = summary[summary["chosen"] & (summary["source"] == "fitted")]
    names = rows["arm"] + "/" + rows["metric"]
    wide = rows.assign(curve=names).pivot(index="layer", columns="curve", values="mean")
    return wide.reset_index()


if __name__ == "__main__":
    main()
