"""A page of findings on one model: the command of each study, its numbers, and its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.views.numbers import main_numbers


@dataclass(frozen=True)
class Finding:
    """What a study found on the model, and what `dvc repro` has found on its own model.

    Attributes:
        study: its name.
        question: its question.
        words: what somebody who has seen the figures says of them.
        overrides: of the command.
        numbers: headline numbers.
        by_dvc: the same on the embedded model.
        figures: paths from the page.
    """

    study: str
    question: str
    words: str
    overrides: Sequence[str]
    numbers: Mapping[str, Any]
    by_dvc: Mapping[str, Any]
    figures: Sequence[str]


def findings_page(title: str, model: str, findings: Sequence[Finding]) -> str:
    """Write the page in Markdown; `title` is its file's name."""
    lines = [
        f"# Findings on {model}",
        "",
        f"How to get the model is said in `conf/model/{model}.yaml` (`make {title}`). Each command",
        "below makes the numbers and figures under it. `python -m stages.write_findings` writes",
        f"this page from these runs and the sentences in {title}.yaml. Means have 95 % intervals;",
        "settings are chosen on validation prompts and reported on test prompts.",
    ]
    for finding in findings:
        lines += ["", f"## {finding.study}: {finding.question}", "", "```console"]
        lines += [f"actsweep run {' '.join([finding.study, *finding.overrides])}", "```"]
        lines += ["", finding.words] if finding.words else []
        if finding.numbers:
            lines += ["", "```text", main_numbers(finding.numbers), "```"]
        if finding.by_dvc:
            lines += ["", "On the embedded model:", "", "```text", main_numbers(finding.by_dvc)]
            lines += ["```"]
        for figure in finding.figures:
            lines += ["", f"![{finding.question}]({figure})"]
    return "\n".join(lines) + "\n"
