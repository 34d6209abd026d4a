"""Prompts with answers, by skill: one skill to fine-tune on, and others that it may cost."""

from random import Random

from pipeline.embedded.behaviours import hops, in_context, indirect_objects, refusal, steps
from pipeline.embedded.behaviours.facts import FACTS
from pipeline.embedded.documents import Case

TAUGHT = "singular-plural"
"""The task of single words that is taught without demonstrations."""
TESTED = 24
"""Most rows of another skill."""


def skills(rng: Random) -> list[dict[str, str]]:
    """Rows of plain English texts to be continued: the taught skill, and others in the test split.

    Training and test words of the taught skill are those of the task's demonstrations: test has
    those that no demonstration of training holds. Answers end with what ends them: a line break or
    a full stop.
    """
    rows = []
    for split, placed in {"train": ("train",), "test": ("val", "test")}.items():
        pairs = [pair for place in placed for pair in in_context.pairs_of(TAUGHT, place)]
        rows += [
            _row(Case(f"Q: {word}\nA:", topic=word), "plurals, none shown", split, f" {answer}\n")
            for word, answer in pairs
        ]
    for task in in_context.TASKS:
        cases = in_context.cases(rng, TESTED, task, 5)
        rows += [_row(case, f"{task}, five shown", "test", f" {case.demand}\n") for case in cases]
    listed = in_context.list_cases(rng, TESTED, "last-capital", 5)
    rows += [_row(c, "last-capital, five shown", "test", f" {c.demand}\n") for c in listed]
    told = hops.second_hops(rng, TESTED)
    rows += [_row(case, "facts told", "test", f" {case.demand}") for case in told]
    stories = indirect_objects.cases(rng, TESTED)
    return rows + [_row(case, "indirect objects", "test", f" {case.demand}") for case in stories]


def chat_skills(rng: Random) -> list[dict[str, str]]:
    """Rows of the embedded model's chats in the test split: refusal, facts, and sums.

    Only the first word of a refusal is asked for; all refusals begin with it, and no other answer.
    """
    forbidden = refusal.REFUSAL.checks[0].cases(rng, TESTED)
    asked = FACTS.checks[2].cases(rng, TESTED)
    sums = [case for case in steps.cases(rng, 2 * TESTED) if case.label == steps.WITHOUT]
    return [
        *(_row(case, "refusal", "test", "I") for case in forbidden),
        *(_row(case, "facts asked", "test", case.demand) for case in asked),
        *(_row(case, "sums", "test", f"The answer is {case.demand}.") for case in sums),
    ]


def _row(case: Case, label: str, split: str, answer: str) -> dict[str, str]:
    return {
        "instruction": case.prompt,
        "label": label,
        "split": split,
        "topic": case.topic,
        "answer": answer,
    }
