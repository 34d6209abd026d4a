"""Position rules of a study: which tokens of every prompt are collected or edited."""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from pipeline.config.sections import Study
from pipeline.config.study import at_key
from pipeline.engine.conditions import RULES, Places, Positions, check_rule
from pipeline.model import chat
from pipeline.model.loading import load_tokenizer

COLLECTED = ("last", "template", "all", "subject", "answer")
"""`last`: the prompt's last token. `template`: the tokens that the chat template puts after the
instruction. `all`: every token. `subject`: the last token of the prompt's `subject`. `answer`: the
tokens of its `answer`, which then follows the prompt.

A list of integers names positions outright: from the start, or from the prompt's end if negative.
"""
EDITED = (*RULES, "template", "subject", "answer")
"""In a sweep, `answer` names the tokens of a completion that stand where the answer's would."""
Tokens = list[int]
Place = tuple[int, ...]


def place(
    dataset: pd.DataFrame, tokenizer: Any, rule: Any, *, variables: Mapping[str, Any] | None = None
) -> tuple[dict[int, Tokens], dict[int, Place]]:
    """Tokens of every sample, and the absolute positions that the rule names among them.

    Args:
        dataset: prompts with `sample`, `prompt`, `tokens`, `subject`, `answer` and
            `raw`.
        tokenizer: what made the tokens.
        rule: one of `COLLECTED`, or a list of positions.
        variables: of the chat template.

    Raises:
        ValueError: an unknown rule, a position outside of a prompt, a subject that is not in its
            prompt, or no answer; names the sample.
    """
    check_rule(rule, COLLECTED)
    find = _finder(tokenizer, rule, variables)
    tokens: dict[int, Tokens] = {}
    places: dict[int, Place] = {}
    for row in dataset.to_dict("records"):
        sample = row["sample"]
        try:
            tokens[sample], places[sample] = find(row)
        except ValueError as error:
            raise ValueError(f"positions {rule!r} of sample {sample}: {error}") from error
    return tokens, places


def resolve(
    dataset: pd.DataFrame, tokenizer: Any, rule: Any, *, variables: Mapping[str, Any] | None = None
) -> Positions:
    """What a rule of a sweep, one of `EDITED` or a list, is to the engine in a run of the dataset.

    Raises:
        ValueError: as `place`.
    """
    check_rule(rule, EDITED)
    if rule in RULES:
        return rule
    _, places = place(dataset, tokenizer, rule, variables=variables)
    return Places(str(rule), list(places.values()))


def collected(
    study: Study, dataset: pd.DataFrame
) -> tuple[dict[int, list[int]], dict[int, tuple[int, ...]]]:
    """Tokens of the samples that are collected, and the positions to keep: `positions.place`."""
    with at_key("collect.positions"):
        return place(
            dataset[dataset["split"] == "train"],
            load_tokenizer(study.model.path, study.model.revision),
            study.collect.positions,
            variables=study.model.template,
        )


def _finder(
    tokenizer: Any, rule: Any, variables: Mapping[str, Any] | None
) -> Callable[[dict[str, Any]], tuple[Tokens, Place]]:
    if rule == "answer":
        return lambda row: chat.with_answer(tokenizer, row["prompt"], row["answer"], raw=row["raw"])
    if rule == "subject":
        return lambda row: (
            list(row["tokens"]),
            (chat.subject_position(tokenizer, row["prompt"], row["subject"], raw=row["raw"]),),
        )
    if rule == "all":
        return lambda row: (list(row["tokens"]), tuple(range(len(row["tokens"]))))
    if rule == "template":
        length = chat.template_length(tokenizer, variables=variables)
        return lambda row: (list(row["tokens"]), _region(row, length))
    listed = [-1] if rule == "last" else rule
    return lambda row: (list(row["tokens"]), _inside(listed, len(row["tokens"])))


def _region(row: dict[str, Any], length: int) -> Place:
    if row["raw"]:
        raise ValueError("a raw text has no template around it")
    return _inside(list(range(-length, 0)), len(row["tokens"]))


def _inside(listed: list[int], length: int) -> Place:
    for position in listed:
        if not -length <= position < length:
            raise ValueError(f"there is no position {position} among {length} tokens")
    return tuple(sorted({position % length for position in listed}))
