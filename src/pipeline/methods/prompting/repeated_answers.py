"""Accuracy of n completions of a prompt by majority vote, best-of-n and exact check."""

from typing import Annotated

import numpy as np
import pandas as pd

from pipeline.config.declared import NeedsInEach, OneOrMore
from pipeline.measures.repeats import any_right, best_of, majority
from pipeline.measures.text import final_number
from pipeline.methods.prompting.completion_scores import conditions_of, log_probabilities_after
from pipeline.model.loading import LanguageModel

RULES = ("any", "best", "vote")
"""`any`: one of n is right, the ceiling of every choice among n. `best`: the one with the largest
mean log-probability per token is right. `vote`: the most frequent final number is right."""


def _has_number(text: str) -> bool:
    return final_number(text) is not None


def accuracy_by_n(
    model: LanguageModel,
    prompts: pd.DataFrame,
    completions: Annotated[
        pd.DataFrame, NeedsInEach("demand", "number in its demand", _has_number)
    ],
    *,
    ns: list[OneOrMore],
) -> pd.DataFrame:
    """Tabulate the accuracy with n completions of each prompt, by `RULES`.

    An answer is a completion's last number (`text.final_number`), right if it is that of the
    prompt's `demand`; a completion without a number is wrong and has no vote. Every value is the
    mean over all subsets of n of the R completions (`measures.repeats`); at n = 1 all rules are the
    share of right completions. Conditions with fewer completions than n have no row.

    Args:
        model: the unedited model, which computes log p(completion | prompt) / tokens.
        prompts: a dataset with `demand`.
        completions: repeated completions of the prompts under conditions.
        ns: numbers of completions.

    Returns:
        One row per condition, sample, n and rule: the columns of conditions and prompts, `repeats`
        (R), `n`, `rule`, `score`.

    Raises:
        ValueError: an n below 1 or above R of every condition, or a demand without a number.
    """
    most = int(completions.groupby(["condition", "sample"]).size().max())
    for n in ns:
        if not 1 <= n <= most:
            raise ValueError(f"ns: {n} of {most} completions; valid: 1 to {most}")
    wanted = completions["demand"].map(final_number)
    if wanted.isna().any():
        sample = completions["sample"][wanted.isna()].iloc[0]
        raise ValueError(f"the demand of sample {sample} has no number")
    tokens = prompts.set_index("sample")["tokens"]
    logs = log_probabilities_after(
        model, list(tokens.loc[completions["sample"]]), list(completions["tokens"])
    )
    lengths = completions["n_tokens"].to_numpy()
    # A completion without tokens is the last choice.
    value = np.where(lengths > 0, logs / np.maximum(lengths, 1), -np.inf)
    answered = completions.assign(
        value=value, answer=completions["completion"].map(final_number), wanted=wanted
    )
    rows = []
    for (condition, sample), group in answered.groupby(["condition", "sample"], sort=False):
        right = (group["answer"] == group["wanted"]).to_numpy(dtype=bool)
        answers = [None if pd.isna(answer) else answer for answer in group["answer"]]
        for n in (n for n in ns if n <= len(group)):
            accuracies = (
                any_right(right, n),
                best_of(right, group["value"].to_numpy(), n),
                majority(answers, group["wanted"].iloc[0], n),
            )
            for rule, accuracy in zip(RULES, accuracies, strict=True):
                rows.append((condition, sample, len(group), n, rule, accuracy))
    columns = ["condition", "sample", "repeats", "n", "rule", "score"]
    return conditions_of(completions).merge(
        pd.DataFrame(rows, columns=columns), on=["condition", "sample"], validate="one_to_many"
    )
