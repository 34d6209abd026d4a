"""Position rules: which tokens of each prompt to collect or edit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.engine.conditions import POSITION_RULES, Positions, PromptPositions, check_rule
from pipeline.model.tokenization import (
    subject_positions,
    template_length,
    template_tail,
    with_answer,
)

COLLECTED = ("last", "template", "all", "subject", "subject_tokens", "answer", "completion")
"""`last`: the prompt's last token. `template`: the chat template's tokens after the instruction.
`all`: every token. `subject`: the last token of the prompt's `subject`; `subject_tokens`: all of
them. `answer`: the tokens of its `answer`, appended to the prompt. `completion`: the recorded
completion (`completion_tokens`), appended to the prompt, and the token before it; of a prompt
shared by several completions, all tokens are included with the first completion, except the
sequence's first token, whose activations are outliers in many models.

A list of integers gives positions explicitly: from the start, or from the prompt's end if negative.
"""
EDITED = (*POSITION_RULES, "template", "subject", "subject_tokens", "answer")
"""In a sweep, `answer` is the completion tokens at the positions that the answer would have."""
_READ = {
    "subject": ("prompt", "subject", "raw"),
    "subject_tokens": ("prompt", "subject", "raw"),
    "answer": ("prompt", "answer", "raw"),
    "template": ("raw",),
}
"""Columns that a rule reads besides the tokens."""
Tokens = list[int]
Place = tuple[int, ...]


def locate(
    dataset: pd.DataFrame, tokenizer: Any, rule: Any, *, variables: Mapping[str, Any] | None
) -> tuple[dict[int, Tokens], dict[int, Place]]:
    """Return every sample's tokens, and the absolute positions that the rule names.

    Args:
        dataset: prompts with `sample`, `prompt`, `tokens`, `subject`, `answer`, `raw` and, for
            `completion`, `completion_tokens`. With `instruction` and `subject_start`, the subject
            is not searched in the whole prompt.
        tokenizer: of the tokens.
        rule: one of `COLLECTED`, or a list of positions.
        variables: of the chat template.

    Raises:
        ValueError: an unknown rule, a position outside the prompt, a subject that does not occur in
            its prompt, or a missing answer; names the sample.
    """
    check_rule(rule, COLLECTED)
    read = _READ.get(rule, ()) if isinstance(rule, str) else ()
    check_table(dataset, ("sample", "tokens", *read))
    find = _finder(tokenizer, rule, variables)
    tokens: dict[int, Tokens] = {}
    positions_by_sample: dict[int, Place] = {}
    for row in dataset.to_dict("records"):
        sample = row["sample"]
        try:
            tokens[sample], positions_by_sample[sample] = find(row)
        except ValueError as error:
            raise ValueError(f"positions {rule!r} of sample {sample}: {error}") from error
    return tokens, positions_by_sample


def check_table(prompts: Any, columns: Sequence[str]) -> None:
    """Fail unless prompts are a table with columns that `datasets.tokenise` makes.

    Raises:
        ValueError: they are no table, or it lacks a column.
    """
    if not isinstance(prompts, pd.DataFrame):
        raise ValueError(
            f"prompts are a {type(prompts).__name__}; valid: a table, as `prompt_table(model, "
            "texts)` makes it"
        )
    for name in columns:
        if name not in prompts:
            raise ValueError(f"the table has no column {name!r}, which `prompt_table` makes")


def resolve(
    dataset: pd.DataFrame, tokenizer: Any, rule: Any, *, variables: Mapping[str, Any] | None
) -> Positions:
    """Convert a sweep's rule, one of `EDITED` or a list, to the engine's positions for a dataset.

    Raises:
        ValueError: as `locate`.
    """
    check_rule(rule, EDITED)
    if rule in POSITION_RULES:
        return rule
    _, positions_by_sample = locate(dataset, tokenizer, rule, variables=variables)
    return PromptPositions(str(rule), list(positions_by_sample.values()))


def _finder(
    tokenizer: Any, rule: Any, variables: Mapping[str, Any] | None
) -> Callable[[dict[str, Any]], tuple[Tokens, Place]]:
    if rule == "answer":
        return lambda row: with_answer(tokenizer, row["prompt"], row["answer"], raw=row["raw"])
    if rule == "completion":
        return _completion_finder()
    if rule in ("subject", "subject_tokens"):
        subject_tokens = slice(-1, None) if rule == "subject" else slice(None)
        tail = template_tail(tokenizer, variables=variables)
        return lambda row: (_tokens(row), _subject(tokenizer, row, tail)[subject_tokens])
    if rule == "all":
        return lambda row: (_tokens(row), tuple(range(len(row["tokens"]))))
    if rule == "template":
        length = template_length(tokenizer, variables=variables)
        return lambda row: (_tokens(row), _region(row, length))
    listed = [-1] if rule == "last" else rule
    return lambda row: (_tokens(row), _inside(listed, len(row["tokens"])))


def _tokens(row: dict[str, Any]) -> Tokens:
    """Return a row's tokens, which a parquet file gives as numpy integers."""
    return list(map(int, row["tokens"]))


def _subject(tokenizer: Any, row: dict[str, Any], tail: str) -> Place:
    return subject_positions(
        tokenizer,
        row["prompt"],
        row["subject"],
        instruction=row.get("instruction"),
        start=row.get("subject_start", -1),
        tail=tail,
        raw=row["raw"],
    )


def _completion_finder() -> Callable[[dict[str, Any]], tuple[Tokens, Place]]:
    prompts: set[tuple[int, ...]] = set()

    def find(row: dict[str, Any]) -> tuple[Tokens, Place]:
        if "completion_tokens" not in row:
            raise ValueError("the dataset has no recorded completions")
        prompt = tuple(map(int, row["tokens"]))
        tokens = [*prompt, *map(int, row["completion_tokens"])]
        first = len(prompt) - 1 if prompt in prompts else 1
        prompts.add(prompt)
        return tokens, tuple(range(first, len(tokens)))

    return find


def _region(row: dict[str, Any], length: int) -> Place:
    if row["raw"]:
        raise ValueError("a raw text has no template around it")
    return _inside(list(range(-length, 0)), len(row["tokens"]))


def _inside(listed: list[int], length: int) -> Place:
    for position in listed:
        if not -length <= position < length:
            raise ValueError(f"there is no position {position} among {length} tokens")
    return tuple(sorted({position % length for position in listed}))
