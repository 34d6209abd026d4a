"""Target prompts of Patchscopes: every prompt of a file as the source of a few other prompts."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.datasets import checked, draw_splits, filled_at, load_table
from pipeline.data.prompts import select_prompts
from pipeline.data.tables import text_column

_PLACEHOLDER = "{placeholder}"


def target_prompts(
    *,
    path: str,
    targets: dict[str, str],
    answers: dict[str, str],
    placeholder: str = "x",
    prompts: Any = None,
    columns: dict[str, str] | None = None,
    shares: list[float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Pair every prompt of a file with every target prompt, as raw texts.

    A row's instruction is the target prompt, its label the target's name and its subject the
    placeholder; `source`, `source_subject` and `source_subject_start` are the file's prompt. Other
    columns are kept.

    Args:
        path: a file of `datasets.load_table`: the source prompts.
        targets: label -> text that contains `{placeholder}` once.
        answers: label -> the file's column with what the target prompt should be continued by.
        placeholder: the text whose last token's state is replaced.
        prompts: of the file: a label, or column -> value or values; None: all.
        columns: our column name -> the file's, if they differ.
        shares: of train, val and test, drawn over topics instead of the file's splits.
        seed: of that draw.

    Raises:
        ValueError: as `datasets.load_table`; no target, a target without `{placeholder}` or without
            an answer, or an unknown column.
    """
    if not targets:
        raise ValueError("dataset.targets: there is none; valid: {label: text}")
    for label, text in targets.items():
        if text.count(_PLACEHOLDER) != 1:
            raise ValueError(f"target {label} has no single {_PLACEHOLDER}: {text!r}")
    if set(answers) != set(targets):
        unlike = sorted(set(answers) ^ set(targets))
        raise ValueError(f"answers and targets differ in {', '.join(unlike)}; valid: the same")
    file = select_prompts(load_table(path=path, columns=columns, raw=True), prompts)
    file = file.reset_index(drop=True)
    for label, column in answers.items():
        if column not in file:
            raise ValueError(f"answers.{label}: no column {column!r}; it has: {', '.join(file)}")
    if shares is not None:
        topics = file["topic"].drop_duplicates()
        drawn = draw_splits(pd.Series([""] * len(topics)), shares, seed)
        file = file.assign(split=file["topic"].map(dict(zip(topics, drawn, strict=True))))
    tables = [
        file.assign(
            instruction=text.replace(_PLACEHOLDER, placeholder),
            label=label,
            subject=placeholder,
            subject_start=filled_at(text, _PLACEHOLDER, placeholder),
            answer=text_column(file, answers[label], f"{path}: answers.{label}"),
            source=file["instruction"],
            source_subject=file["subject"],
            source_subject_start=file["subject_start"].astype(np.int64),
        )
        for label, text in targets.items()
    ]
    return checked(pd.concat(tables, ignore_index=True), path)
