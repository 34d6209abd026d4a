"""Prompts with and without the model's chat template."""

import pandas as pd

from pipeline.data.datasets import checked, load_table


def with_and_without_template(
    *, path: str, label: str | None = None, split: str | None = None
) -> pd.DataFrame:
    """Load instructions twice: labelled `chat`, and `raw`, continued without the chat template.

    Both have the instruction as `topic`, by which they are compared pairwise.

    Args:
        path: as of `datasets.load_table`.
        label: the label of the rows to load; None: all.
        split: the split of the rows to load; None: all.

    Raises:
        ValueError: as `load_table`; no rows of the label or split.
    """
    table = load_table(path=path)
    for column, value in (("label", label), ("split", split)):
        if value is not None:
            if value not in set(table[column]):
                valid = ", ".join(sorted(table[column].unique()))
                raise ValueError(f"dataset.{column}: no rows of {value!r}; valid: {valid}")
            table = table[table[column] == value]
    table = table.assign(topic=table["instruction"])
    both = [table.assign(label="chat", raw=False), table.assign(label="raw", raw=True)]
    return checked(pd.concat(both, ignore_index=True), path)
