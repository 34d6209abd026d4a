"""fits/ x conditions -> conditions.parquet, completions.parquet and logits.parquet."""

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from pipeline.config.contracts import bound, reads
from pipeline.config.errors import at_key
from pipeline.data.prompts import select_prompts
from pipeline.engine.conditions import BASELINE, Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.sweeps import (
    COMPLETION,
    Part,
    arm_conditions,
    complete,
    conditions_table,
    score_logits,
    score_texts,
)
from pipeline.measures.scores import long_table
from pipeline.measures.settings import Setting, reported
from pipeline.runs.scratch import whole_file
from stages import Job, main


def run(job: Job) -> None:
    """Run every prompt under every condition; a killed run resumes at its next chunk."""
    sweep = job.study.sweep
    assert sweep is not None
    recorded = json.loads((job.folder / "settings.json").read_text())
    settings = {name: Setting(**setting) for name, setting in recorded.items()}
    parts, compared = [], []
    for name in sweep.arms:
        part = arm_part(job, name, sweep.settings(name).splits, name)
        if name in settings:
            part = Part(name, reported(part.conditions, settings[name]), part.prompts)
        parts.append(part)
        compared += [c for c in part.conditions if _is_compared(c, settings.get(name))]
    with job.scratch("completions.parquet") as work:
        completions, logits = run_parts(job, parts, work)
        losses = score_texts(job.inputs.model, job.inputs.texts, compared, work)
        table = conditions_table(parts)
        table["at_setting"] = table["condition"].isin([condition.id for condition in compared])
        chosen = [setting.condition for setting in settings.values()]
        table["is_setting"] = table["condition"].isin(chosen)
        for file, rows in (("conditions", table), ("logits", long_table([logits, losses]))):
            with whole_file(job.folder / f"{file}.parquet") as path:
                rows.to_parquet(path)
        completions.to_parquet(work / "completions.parquet")
    cut = int((completions["stopped"] == "length").sum())
    counts = {"conditions": len(table), "completions": len(completions)}
    job.tracked.summary({**counts, "cut at length limit": cut})


def _is_compared(condition: Condition, setting: Setting | None) -> bool:
    """Whether a condition belongs to its arm's comparison over layers and with controls."""
    if condition.role == BASELINE or setting is None:
        return condition.role == BASELINE
    return setting.holds(condition.axes)


def arm_part(job: Job, name: str, splits: list[str], label: str) -> Part:
    """Build an arm's conditions on the prompts of some splits, baseline first.

    Raises:
        ValueError: no such prompts, or options that the arm's node rejects.
    """
    sweep = job.study.sweep
    assert sweep is not None
    with at_key(f"sweep.arms.{name}.prompts"):
        prompts = select_prompts(job.inputs.prompts, sweep.settings(name).prompts, splits)
    node = sweep.node(name)
    with at_key(f"sweep.arms.{name}"):
        conditions = job.call(node, prompts=prompts, seed=sweep.seed) if node else ()
        return Part(label, arm_conditions(name, conditions), prompts)


def run_parts(job: Job, parts: list[Part], work: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return completions and logit-metric scores; either is empty if not configured."""
    sweep, model = job.study.sweep, job.inputs.model
    assert sweep is not None
    completions = pd.DataFrame(columns=COMPLETION)
    if sweep.decoding is not None:
        decoding = Decoding(**asdict(sweep.decoding))
        completions = complete(model, parts, work, decoding=decoding, seed=sweep.seed)
    of_answers = [n for n, node in sweep.logit_metrics.items() if reads(node) == ["answers"]]
    metrics = {name: bound(node) for name, node in sweep.logit_metrics.items()}
    answer_metrics = {name: metrics.pop(name) for name in of_answers}
    return completions, score_logits(model, parts, metrics, answer_metrics, work)


if __name__ == "__main__":
    main()
