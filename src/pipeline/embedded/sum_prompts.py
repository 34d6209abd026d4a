"""Sums that are asked with their steps and without."""

from random import Random

from pipeline.embedded.behaviours import steps

LABELS = {steps.WITH: "steps shown", steps.WITHOUT: "answer alone"}


def sums(rng: Random) -> list[dict[str, str]]:
    """Rows of 60 sums that training did not contain, each asked both ways in the same words.

    `demand` is the total; `topic` the sum, which both rows share.
    """
    return [
        {
            "instruction": case.prompt,
            "label": LABELS[case.label],
            "split": "test",
            "topic": case.topic,
            "demand": case.demand,
        }
        for case in steps.cases(rng, 120)
    ]
