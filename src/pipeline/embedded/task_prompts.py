"""Pairs of an input and an output by in-context task, in plain English."""

from random import Random

from pipeline.embedded.behaviours.in_context import LIST_TASKS, TASKS, list_cases, split_of

MOST = {"train": 60, "val": 12, "test": 24}
"""Most pairs of a task in a split."""


def word_pairs(rng: Random) -> list[dict[str, str]]:
    """Rows of pairs (`input`, `output`) of a `task`: six of words, four of country lists.

    Splits are those of training: no demonstration there has a pair of val or test.
    """
    rows = []
    for task, pairs in TASKS.items():
        for split, most in MOST.items():
            listed = [pair for pair in pairs if split_of(task, pair[0]) == split]
            chosen = rng.sample(listed, min(most, len(listed)))
            rows += [_row(task, split, word, answer) for word, answer in chosen]
    for task in LIST_TASKS:
        for split, most in MOST.items():
            cases = list_cases(rng, most, task, 0, split)
            asked = {case.prompt.removeprefix("Q: ").removesuffix("\nA:"): case for case in cases}
            rows += [_row(task, split, text, case.demand) for text, case in asked.items()]
    return rows


def _row(task: str, split: str, source: str, output: str) -> dict[str, str]:
    return {"task": task, "input": source, "output": output, "split": split}
