"""Stories up to the receiver's name, in plain English too, for the circuits study."""

from itertools import combinations
from random import Random

from pipeline.embedded.behaviours.indirect_objects import (
    GIVINGS,
    OPENINGS,
    THINGS,
    is_held_out_form,
    is_held_out_pair,
)
from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.stories import PLACES

NAMES = words(
    """
    Anna Clara Emma Julia Maria Rosa Sofia Vera Adam Boris Carl David Felix Hugo Ivan Karl Leo Max
    Oscar Peter Simon
    """
)
"""The names that are one token to other models too, so that one can stand for another."""
PAIRS = {"train": 2, "test": 3}
"""Pairs of names for each form and split; no pair is used twice, and training of the embedded model
has none of the test's."""


def indirect_objects(rng: Random) -> list[dict[str, str]]:
    """Rows of every held-out form with pairs of names, either of the pair as the giver.

    `answer` is the receiver and `foil` the giver. `corrupted` is the same text with three other
    names in place of the two, so that nothing decides between answer and foil; its tokens stand at
    the same positions. `label` is the order of the names, `topic` the pair.
    """
    forms = [
        f"{opening.replace('{between}', '')} {giving}".removesuffix(" {io}.")
        for opening in OPENINGS
        for giving in GIVINGS
        if is_held_out_form(opening, giving)
    ]
    rows = []
    for split, count in PAIRS.items():
        held_out = split == "test"
        pairs = [pair for pair in combinations(NAMES, 2) if is_held_out_pair(*pair) == held_out]
        drawn = iter(rng.sample(pairs, len(forms) * count))
        for form in forms:
            for _ in range(count):
                rows += _told(rng, form, rng.sample(next(drawn), 2), split)
    return rows


def _told(rng: Random, form: str, pair: list[str], split: str) -> list[dict[str, str]]:
    a, b = pair
    things = {"place": rng.choice(PLACES), "thing": rng.choice(THINGS)}
    others = rng.sample([name for name in NAMES if name not in pair], 3)
    corrupted = form.format(**things, **dict(zip("abs", others, strict=True)))
    return [
        {
            "instruction": form.format(a=a, b=b, s=giver, **things),
            "corrupted": corrupted,
            "answer": f" {receiver}",
            "foil": f" {giver}",
            "label": order,
            "split": split,
            "topic": " and ".join(sorted(pair)),
            "template": form.format(a="A", b="B", s="S", place="PLACE", thing="THING"),
        }
        for order, giver, receiver in (("ABBA", b, a), ("BABA", a, b))
    ]
