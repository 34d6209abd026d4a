"""fits/ x conditions on val prompts -> settings.json and validation.parquet: chosen settings."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from pipeline.config.contracts import bound, imported
from pipeline.config.errors import at_key
from pipeline.engine.arms import arm_part, run_parts
from pipeline.engine.phases import validated
from pipeline.engine.sweeps import Part, conditions_table
from pipeline.measures.scale import check_bounded, scale_of
from pipeline.measures.scores import long_table, score_completions, with_conditions, with_prompts
from pipeline.measures.settings import Setting, choose_setting
from pipeline.measures.statistics import summarise
from pipeline.runs.scratch import whole_file
from stages import Job, main

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Run the val prompts under every arm with a goal, and choose its setting by its metric."""
    sweep = job.study.sweep
    assert sweep is not None
    with job.scratch("validation.parquet") as work:
        settings, tables = {}, [pd.DataFrame()]
        parts = {name: _grid(job, name) for name in sweep.chosen()}
        if parts:
            scores = _scores(job, list(parts.values()), work)
        for name, part in parts.items():
            with at_key(f"sweep.arms.{name}"):
                setting, means = _choose(job, name, part, scores)
            settings[name] = setting
            tables.append(means)
        with whole_file(job.folder / "settings.json") as path:
            record = {name: asdict(setting) for name, setting in settings.items()}
            path.write_text(json.dumps(record, indent=1) + "\n")
        pd.concat(tables, ignore_index=True).to_parquet(work / "validation.parquet")
    job.tracked.summary({name: setting.axes for name, setting in settings.items()})


def _grid(job: Job, name: str) -> Part:
    sweep = job.study.sweep
    assert sweep is not None
    part = arm_part(sweep, name, ["val"], f"{name}-validation", job.inputs)
    return Part(part.name, validated(part.conditions), part.prompts)


def _scores(job: Job, parts: list[Part], work: Path) -> pd.DataFrame:
    """Compute the scores that the arms choose by, joined with prompts."""
    sweep = job.study.sweep
    assert sweep is not None
    completions, logits = run_parts(sweep, job.inputs.model, parts, work)
    by = {sweep.arm(name).metric for name in sweep.chosen()}
    metrics = {n: bound(node) for n, node in job.study.score.metrics.items() if n in by}
    of_completions = score_completions(with_prompts(completions, job.inputs.prompts), metrics)
    return with_prompts(long_table([of_completions, logits]), job.inputs.prompts)


def _choose(job: Job, name: str, part: Part, scores: pd.DataFrame) -> tuple[Setting, pd.DataFrame]:
    """Choose an arm's setting; also return the means it was chosen from."""
    study = job.study
    assert study.sweep is not None
    arm = study.sweep.arm(name)
    node = (study.sweep.logit_metrics | study.score.metrics)[str(arm.metric)]
    scale = scale_of(imported(node["_target_"]), node)
    check_bounded(scores, {str(arm.metric): scale})
    conditions = conditions_table([part])
    rows = scores[(scores["metric"] == arm.metric)]
    rows = rows[rows["condition"].isin(conditions["condition"])]
    means = summarise(
        rows,
        ["condition", "metric"],
        shares=[str(arm.metric)] if scale.share else [],
        bounded=[str(arm.metric)] if scale.bounded else [],
        cluster=study.score.cluster,
        seed=study.score.seed,
    )
    table = with_conditions(means, conditions)
    axes = list(dict.fromkeys(axis for condition in part.conditions for axis in condition.axes))
    setting = choose_setting(table, axes, str(arm.goal))
    if setting.tied == setting.candidates > 1:
        log.warning(
            "sweep.arms.%s: validation cannot separate any of its %d settings", name, setting.tied
        )
    return setting, table


if __name__ == "__main__":
    main()
