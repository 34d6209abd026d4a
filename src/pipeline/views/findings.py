"""A page of findings on one model: the command of each study, its numbers, and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.sections import Study
from pipeline.runs.records import flatten
from pipeline.views.numbers import main_numbers


@dataclass(frozen=True)
class Finding:
    """What a study found on the model, and what `dvc repro` has found on its own model."""

    study: str
    question: str
    overrides: Sequence[str]
    numbers: Mapping[str, Any]
    by_dvc: Mapping[str, Any]
    figures: Sequence[str]


def overrides_of(study: Study, default: Study, model: str) -> list[str]:
    """List the overrides that turn a study's file into this run of it."""
    ignored = ("model", "tracking", "code")
    ran, as_is = (
        flatten({k: v for k, v in each.config.items() if k not in ignored})
        for each in (study, default)
    )
    changed = [f"{key}={_word(value)}" for key, value in ran.items() if as_is.get(key) != value]
    same_model = study.model.path == default.model.path
    return [*([] if same_model else [f"model={model}"]), *changed]


def findings_page(title: str, model: str, findings: Sequence[Finding]) -> str:
    """Write the page in Markdown."""
    lines = [
        f"# {title}",
        "",
        f"Written by `python -m stages.write_findings` from runs with `model={model}`. Means have",
        "95 % intervals; settings are chosen on validation prompts and reported on test prompts.",
    ]
    for finding in findings:
        lines += ["", f"## {finding.study}: {finding.question}", "", "```console"]
        lines += [f"actsweep run {' '.join([finding.study, *finding.overrides])}", "```"]
        if finding.numbers:
            lines += ["", "```text", main_numbers(finding.numbers), "```"]
        if finding.by_dvc:
            lines += ["", "On the embedded model:", "", "```text", main_numbers(finding.by_dvc)]
            lines += ["```"]
        for figure in finding.figures:
            lines += ["", f"![{finding.question}]({figure})"]
    return "\n".join(lines) + "\n"


def _word(value: Any) -> str:
    """Write a value for a command line, quoted for the shell where it must be."""
    text = str(value).replace(" ", "") if isinstance(value, list) else str(value)
    return f"'{text}'" if any(c in text for c in "[]{}* ") else text
