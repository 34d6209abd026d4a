"""fits/ x conditions -> conditions.parquet, completions.parquet and logits.parquet."""

from pipeline.engine.arms import arm_part, run_parts
from pipeline.engine.conditions import Condition
from pipeline.engine.phases import compared, on_texts, reported
from pipeline.engine.sweeps import Part, conditions_table, score_texts
from pipeline.measures.scores import long_table
from pipeline.runs.scratch import whole_file
from stages import Job, main


def run(job: Job) -> None:
    """Run the prompts of each arm under its reported conditions; a killed run resumes."""
    sweep = job.study.sweep
    assert sweep is not None
    parts: list[Part] = []
    at_setting: set[str] = set()
    for_texts: list[Condition] = []
    for name in sweep.arms:
        part = arm_part(sweep, name, sweep.arm(name).splits, name, job.inputs)
        if name in job.settings:
            part = Part(name, reported(part.conditions, job.settings[name]), part.prompts)
        parts.append(part)
        at_setting |= {each.id for each in compared(part.conditions, job.settings.get(name))}
        for_texts += on_texts(part.conditions, job.settings.get(name))
    with job.scratch("completions.parquet") as work:
        completions, logits = run_parts(sweep, job.inputs.model, parts, work)
        losses = score_texts(job.inputs.model, job.inputs.texts, for_texts, work)
        table = conditions_table(parts)
        table["at_setting"] = table["condition"].isin(at_setting)
        chosen = [setting.condition for setting in job.settings.values()]
        table["is_setting"] = table["condition"].isin(chosen)
        for file, rows in (("conditions", table), ("logits", long_table([logits, losses]))):
            with whole_file(job.folder / f"{file}.parquet") as path:
                rows.to_parquet(path)
        completions.to_parquet(work / "completions.parquet")
    cut = int((completions["stopped"] == "length").sum())
    counts = {"conditions": len(table), "completions": len(completions)}
    job.tracked.summary({**counts, "cut at length limit": cut})


if __name__ == "__main__":
    main()
