"""Load input-output pairs in published file formats."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.datasets import checked, draw_splits, filled_at
from pipeline.data.formats import read_json
from pipeline.data.tables import as_text


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
        pairs = read_json(Path(path))
        if not isinstance(pairs, list) or not pairs:
            raise ValueError(f"dataset file {path!r} is no list of pairs")
        rows += [
            _row(label, label, template, "{input}", source, output)
            for source, output in _entries(pairs, path, "input", "output")
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
        relation = read_json(Path(path))
        parts = ("name", "prompt_templates", "samples")
        if not isinstance(relation, dict) or not all(relation.get(part) for part in parts):
            raise ValueError(f"dataset file {path!r} is no relation with {', '.join(parts)}")
        templates = relation["prompt_templates"]
        if not isinstance(templates, list):
            raise ValueError(f"dataset file {path!r}: prompt_templates is no list of texts")
        if not 0 <= template < len(templates):
            raise ValueError(
                f"dataset.template: {path!r} has no prompt template {template}; "
                f"valid: 0 to {len(templates) - 1}"
            )
        where = f"dataset file {path!r}"
        topic = as_text(relation["name"], f"{where}: name")
        text = as_text(templates[template], f"{where}: prompt template {template}")
        if "{}" not in text:
            raise ValueError(f"{where}: prompt template {template} has no {{}}: {text!r}")
        for subject, answer in _entries(relation["samples"], path, "subject", "object"):
            rows.append(_row(label, topic, text, "{}", subject, answer))
    return _with_splits(rows, shares, seed, paths)


def _entries(entries: list[Any], path: str, *names: str) -> Iterator[list[str]]:
    for number, entry in enumerate(entries):
        where = f"dataset file {path!r}: entry {number}"
        for name in names:
            if not isinstance(entry, dict) or name not in entry:
                raise ValueError(f"{where}: {entry} has no {name!r}")
        texts = [as_text(entry[name], f"{where}: {name}").strip() for name in names]
        if not all(texts):
            raise ValueError(f"{where}: {names[texts.index('')]} is empty")
        yield texts


def _row(
    label: str, topic: str, template: str, placeholder: str, subject: str, answer: str
) -> dict[str, Any]:
    return {
        "instruction": template.replace(placeholder, subject),
        "label": label,
        "topic": topic,
        "demand": "",
        "subject": subject,
        "subject_start": filled_at(template, placeholder, subject),
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
