"""Sweep outputs -> scores.parquet (one row per sample), summary.parquet and headline.json."""

import json
import logging

import pandas as pd

from pipeline.config.contracts import bound, imported
from pipeline.measures.headline import curves_by_layer, headline, means_of
from pipeline.measures.scale import TEXT_METRIC, TEXT_SCALE, Scale, check_bounded, scale_of
from pipeline.measures.scores import (
    doubts,
    long_table,
    score_completions,
    with_conditions,
    with_prompts,
)
from pipeline.measures.statistics import summarise
from pipeline.runs.scratch import whole_file
from pipeline.views.completions import completion_table
from stages import Job, main

log = logging.getLogger(__name__)

SHOWN = 40
"""Pairs of completions logged to a tracked run."""


def run(job: Job) -> None:
    """Score every completion and average the scores."""
    study, prompts = job.study, job.inputs.prompts
    assert study.sweep is not None
    metrics = {name: bound(node) for name, node in study.score.metrics.items()}
    logits = pd.read_parquet(job.folder / "logits.parquet")
    completions = job.inputs.completions
    scores = long_table([score_completions(completions, metrics), logits])
    for doubt in doubts(scores, {study.sweep.arm(name).metric for name in study.sweep.arms}):
        log.warning("%s", doubt)
    joined = with_conditions(with_prompts(scores, prompts), job.inputs.conditions)
    scales = _scales(job)
    check_bounded(joined, scales)
    summary = summarise(
        joined,
        ["condition", "label", "split", "metric"],
        shares=[name for name, scale in scales.items() if scale.share],
        bounded=[name for name, scale in scales.items() if scale.bounded],
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    summary = summary.assign(
        metric_label=[scales[name].label for name in summary["metric"]],
        percent=[scales[name].percent for name in summary["metric"]],
        share=[scales[name].share for name in summary["metric"]],
    )
    arms = {name: study.sweep.arm(name) for name in study.sweep.arms}
    reported = headline(
        joined,
        {name: (arm.metric, arm.goal) for name, arm in arms.items() if arm.metric is not None},
        job.settings,
        scales,
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    summary = with_conditions(summary, job.inputs.conditions)
    for name, table in (("scores", scores), ("summary", summary)):
        with whole_file(job.folder / f"{name}.parquet") as path:
            table.to_parquet(path)
    for name, numbers in (("headline", reported), ("metrics", means_of(reported))):
        with whole_file(job.folder / f"{name}.json") as path:
            path.write_text(json.dumps(numbers, indent=1) + "\n")
    curves = curves_by_layer(summary)
    with whole_file(job.folder / "curves.csv") as path:
        curves.to_csv(path, index=False)
    job.tracked.summary(reported)
    if len(curves):
        job.tracked.curve(curves)
    for name, numbers in reported.items():
        if "setting" in numbers and len(completions):
            pair = completion_table(completions, **numbers["conditions"], n=SHOWN)
            job.tracked.table(f"completions/{name}", pair)


def _scales(job: Job) -> dict[str, Scale]:
    assert job.study.sweep is not None
    nodes = job.study.sweep.logit_metrics | job.study.score.metrics
    scales = {name: scale_of(imported(node["_target_"]), node) for name, node in nodes.items()}
    return scales | {TEXT_METRIC: TEXT_SCALE}


if __name__ == "__main__":
    main()
