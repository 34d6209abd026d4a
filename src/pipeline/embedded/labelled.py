"""Distinct held-out cases of a label, and the tables of labelled requests that studies read."""

from collections.abc import Callable, Iterable
from random import Random

from pipeline.embedded.documents import Case

SIZES = {"train": 128, "val": 32, "test": 100}
"""Requests per label in a study's table."""
Cases = Callable[[Random, int, str, str], list[Case]]
"""Draws n cases of a label and a split."""


def distinct(draw: Callable[[], Case], n: int) -> list[Case]:
    """Draw until n prompts are there, none twice."""
    found: dict[str, Case] = {}
    while len(found) < n:
        case = draw()
        found[case.prompt] = case
    return list(found.values())


def labelled_rows(rng: Random, labels: Iterable[str], cases: Cases) -> list[dict[str, str]]:
    """Rows of a study's dataset: `SIZES` of them per label and split, all distinct."""
    return [
        {
            "instruction": case.prompt,
            "label": label,
            "split": split,
            "topic": case.topic,
            "demand": case.demand,
        }
        for split, size in SIZES.items()
        for label in labels
        for case in cases(rng, size, label, split)
    ]
