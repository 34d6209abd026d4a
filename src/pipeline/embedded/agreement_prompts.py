"""Subjects up to their verb, for the agreement study; also plain English for other models."""

from collections.abc import Iterator
from random import Random

from pipeline.embedded.behaviours.agreement import (
    ADJECTIVES,
    LONG,
    NOUNS,
    PREPOSITIONS,
    inflect,
    is_held_out,
)

HEADS = {"train": 24, "val": 12, "test": 24}
"""Head nouns per split; no noun is the head of two splits."""


def number_agreement(rng: Random) -> list[dict[str, str]]:
    """Rows of four subjects per head noun: HEAD and ATTRACTOR each singular and plural.

    "The old key near the doors" is labelled by the number of its head (`topic`); `attractor` says
    whether the other noun has the `same` or the `other` number. Training has no subject with both
    nouns.
    """
    heads = rng.sample(NOUNS, len(NOUNS))
    splits = [split for split, count in HEADS.items() for _ in range(count)]
    return [
        row | {"split": split}
        for split, head in zip(splits, heads, strict=True)
        for row in _subjects(rng, head)
    ]


def _subjects(rng: Random, head: str) -> Iterator[dict[str, str]]:
    attractors = [noun for noun in LONG if noun != head and is_held_out(head, noun)]
    for label in ("singular", "plural"):
        for number in ("singular", "plural"):
            nouns = (
                inflect(head, label == "plural"),
                inflect(rng.choice(attractors), number == "plural"),
            )
            first, second = (
                f"{rng.choice(ADJECTIVES)} {noun}" if rng.random() < 0.4 else noun for noun in nouns
            )
            yield {
                "instruction": f"The {first} {rng.choice(PREPOSITIONS)} the {second}",
                "label": label,
                "topic": head,
                "attractor": "same" if number == label else "other",
            }
