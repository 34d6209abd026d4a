"""Facts of relations as prompts, each with another subject whose answer an edit aims at."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.datasets import checked, load_table
from pipeline.data.prompts import select_prompts
from pipeline.data.tables import text_column


def load_facts(
    *,
    path: str,
    prompts: Any = None,
    columns: dict[str, str] | None = None,
    shares: list[float] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Load facts as raw prompts, the relation as label, with a target for edits.

    Args:
        path: a file of `datasets.load_table` with subjects and answers.
        prompts: of the file: a label, or column -> value or values; None: all.
        columns: our column name -> the file's, if they differ.
        shares: of train, val and test, drawn within each label if the file has no split.
        seed: of the splits and targets.

    Raises:
        ValueError: as `datasets.load_table` and `with_targets`; a fact without subject or answer.
    """
    table = load_table(path=path, columns=columns, shares=shares, seed=seed, raw=True)
    facts = select_prompts(table, prompts)
    needed = {column: text_column(facts, column, path) for column in ("subject", "answer")}
    return checked(with_targets(facts.assign(**needed), seed), path)


def with_targets(facts: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Draw for each fact another one of its relation and split with another answer.

    Adds `target_subject` and `target`, the other fact's subject and answer.

    Raises:
        ValueError: all facts of a relation and split have the same answer.
    """
    facts = facts.reset_index(drop=True)
    rng = np.random.default_rng(seed)
    drawn = np.empty(len(facts), dtype=int)
    for (label, split), group in facts.groupby(["label", "split"]):
        answers = group["answer"].to_numpy()
        if len(set(answers)) < 2:
            raise ValueError(
                f"relation {label}, split {split}: every answer is {answers[0]!r}; valid: 2 answers"
            )
        for place, answer in zip(group.index, answers, strict=True):
            drawn[place] = rng.choice(group.index[answers != answer])
    return facts.assign(
        target_subject=facts["subject"].to_numpy()[drawn], target=facts["answer"].to_numpy()[drawn]
    )
