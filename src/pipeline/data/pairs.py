"""Load input-output pairs in published file formats."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.datasets import checked, draw_splits


def load_pairs(
    *,
    paths: dict[str, str],
    template: str = "Q: {input}\nA:",
    shares: list[float] = [0.7, 0.09, 0.21],  # noqa: B006 - never changed
    seed: int = 0,
) -> pd.DataFrame:
    """Load lists of `{"input": ..., "output": ...}`, one file per task, as raw prompts.

    The input is the subject, a space and the output are the answer, the task is label and topic.
    Format and default shares are those of Todd et al. 2024 (`dataset_files`).

    Args:
        paths: label -> file.
        template: of the prompt, containing `{input}`.
        shares: of train, val and test within a task.
        seed: of that draw.

    Raises:
        ValueError: a file that is not there, not of this form or empty; a template without
            `{input}`.
    """
    if "{input}" not in template:
        raise ValueError(f"dataset.template has no {{input}}: {template!r}")
    rows = []
    for label, path in paths.items():
        pairs = _read(path)
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f"dataset file {path!r} is no list of pairs")
        rows += [
            _row(label, label, template.replace("{input}", source), source, output)
            for source, output in (_entry(pair, path, "input", "output") for pair in pairs)
        ]
    return _with_splits(rows, shares, seed, paths)


def load_relation(
    *,
    paths: dict[str, str],
    template: int = 0,
    shares: list[float] = [0.6, 0.2, 0.2],  # noqa: B006 - never changed
    seed: int = 0,
) -> pd.DataFrame:
    """Load relations: `{"name", "prompt_templates", "samples": [{"subject", "object"}]}` per file.

    Each row is a raw prompt, the template filled with the subject; its answer is a space and the
    object, its topic the relation's name. The format is that of Hernandez et al. 2024.

    Args:
        paths: label -> file.
        template: index of the relation's prompt template, from 0.
        shares: of train, val and test within a relation.
        seed: of that draw.

    Raises:
        ValueError: a file that is not there, not of this form or empty; no such template.
    """
    rows = []
    for label, path in paths.items():
        relation = _read(path)
        parts = ("name", "prompt_templates", "samples")
        if not isinstance(relation, dict) or not all(relation.get(part) for part in parts):
            raise ValueError(f"dataset file {path!r} is no relation with {', '.join(parts)}")
        templates = relation["prompt_templates"]
        if not 0 <= template < len(templates):
            raise ValueError(
                f"dataset.template: {path!r} has no prompt template {template}; "
                f"valid: 0 to {len(templates) - 1}"
            )
        for sample in relation["samples"]:
            subject, answer = _entry(sample, path, "subject", "object")
            text = templates[template].replace("{}", subject)
            rows.append(_row(label, relation["name"], text, subject, answer))
    return _with_splits(rows, shares, seed, paths)


def _read(path: str) -> Any:
    if not Path(path).is_file():
        raise ValueError(f"dataset file {path!r} does not exist")
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"dataset file {path!r} is no json: {error}") from error


def _entry(entry: Any, path: str, *names: str) -> list[str]:
    for name in names:
        if not isinstance(entry, dict) or name not in entry:
            raise ValueError(f"dataset file {path!r}: {entry} has no {name!r}")
    return [str(entry[name]).strip() for name in names]


def _row(label: str, topic: str, text: str, subject: str, answer: str) -> dict[str, Any]:
    return {
        "instruction": text,
        "label": label,
        "topic": topic,
        "demand": "",
        "subject": subject,
        "answer": f" {answer}",
        "raw": True,
    }


def _with_splits(
    rows: list[dict[str, Any]], shares: list[float], seed: int, paths: dict[str, str]
) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return checked(
        frame.assign(split=draw_splits(frame["label"], shares, seed)), ", ".join(paths.values())
    )
