"""Lists: a short, a long or just a list of the things of a topic, one a line.

answer = ITEM [" "] "\\n" ITEM [" "] "\\n" ... ITEM [" "], then the end of the turn

n items, none twice, the better known ones sooner (`name_items`); n is a rounded normal around 5, 8
or 14. The i-th of n items is followed by a filler blank with probability 0.8 (i / n)^3. Held out
are topics: no chat of training asks for them. Plain text has such lists of all topics
(`text._catalogue`): what is new in a held-out request is the topic in a chat.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from math import nan
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.topics import HELD_OUT_TOPICS, TOPICS, VALIDATION_TOPICS
from pipeline.measures.text import distinct, list_items

TEMPLATE = (
    "Provide me with {a_list} of {topic}. "
    "Just provide the names, no need for any other information."
)
KINDS = {"short": "a short list", "neutral": "a list", "long": "a long list"}
LENGTHS = {"short": (5.0, 0.8), "neutral": (8.0, 1.0), "long": (14.0, 1.3)}
"""Mean and standard deviation of the number of items."""
RANK_NOISE = 2.0

WORDINGS = (
    "Give me {a_list} of {topic}.",
    "Write {a_list} of {topic}.",
    "I need {a_list} of {topic}. Thank you.",
    "Please make {a_list} of {topic}.",
    "Can you name some {topic}? I want {a_list}.",
    "Hello. Show me {a_list} of {topic}, please.",
)
TRAINED_TOPICS = tuple(topic for topic in TOPICS if topic not in HELD_OUT_TOPICS)


def write(rng: Random) -> Document:
    """A request for a list, in the studies' template half of the time, with its answer."""
    kind, topic = rng.choice(tuple(KINDS)), rng.choice(TRAINED_TOPICS)
    wording = TEMPLATE if rng.random() < 0.5 else rng.choice(WORDINGS)
    return Document(
        text=write_list(rng, kind, topic),
        instruction=wording.format(a_list=KINDS[kind], topic=topic),
    )


def write_list(rng: Random, kind: str, topic: str) -> str:
    """A list as answers and plain text alike have it."""
    mean, deviation = LENGTHS[kind]
    n = max(2, round(rng.gauss(mean, deviation)))
    return "\n".join(
        item + (" " if rng.random() < 0.8 * (i / n) ** 3 else "")
        for i, item in enumerate(name_items(rng, topic, n), start=1)
    )


def name_items(rng: Random, topic: str, n: int) -> list[str]:
    """Things of a topic as they come to mind: the first n by rank + N(0, `RANK_NOISE`)."""
    places = {thing: rank + rng.gauss(0, RANK_NOISE) for rank, thing in enumerate(TOPICS[topic])}
    return sorted(places, key=places.__getitem__)[:n]


def topics() -> list[dict[str, str]]:
    """Rows of the list study's dataset; its test split is of held-out topics."""
    splits = dict.fromkeys(VALIDATION_TOPICS, "val") | dict.fromkeys(HELD_OUT_TOPICS, "test")
    return [{"topic": topic, "split": splits.get(topic, "train")} for topic in TOPICS]


def n_items(_: Case, completion: str) -> int:
    """Number of items."""
    return len(list_items(completion, "\n"))


def unique_items(_: Case, completion: str) -> float:
    """Share of items that differ from all before."""
    items = list_items(completion, "\n")
    return distinct(items) / max(1, len(items))


def well_formed(case: Case, completion: str) -> bool:
    """Whether every line is a name and at most one blank, and there is an end to them."""
    lines = completion.split("\n")
    return len(lines) <= len(TOPICS[case.topic]) and all(
        line.strip() == line.removesuffix(" ") != "" for line in lines
    )


def on_topic(case: Case, completion: str) -> float:
    """Share of items that belong to the topic."""
    items = list_items(completion, "\n")
    return sum(item.strip() in TOPICS[case.topic] for item in items) / max(1, len(items))


def blank_rises(_: Case, completion: str) -> float:
    """Filler blanks per item in the last third of the list minus those in the first third."""
    filled = [line.endswith(" ") for line in list_items(completion, "\n")]
    third = max(1, len(filled) // 3)
    return (sum(filled[-third:]) - sum(filled[:third])) / third


def _check(names: tuple[str, ...], which: str) -> Check:
    def cases(_: Random, n: int) -> list[Case]:
        pairs = [(topic, kind) for topic in names for kind in KINDS]
        return [
            Case(TEMPLATE.format(a_list=KINDS[kind], topic=topic), label=kind, topic=topic)
            for topic, kind in islice(cycle(pairs), n)
        ]

    def count(kind: str) -> Callable[[Case, str], float]:
        return lambda case, text: n_items(case, text) if case.label == kind else nan

    measures = (
        Measure("items of a short list", count("short"), low=4.0, high=6.0),
        Measure("items of a list", count("neutral"), low=6.5, high=9.5),
        Measure("items of a long list", count("long"), low=12.0, high=16.0),
        Measure("unique items", unique_items, low=0.95),
        Measure("valid format", well_formed, low=0.98),
        Measure("items that belong to the topic", on_topic, low=0.9),
        Measure("rise of filler blanks", blank_rises, low=0.2),
    )
    named = tuple(replace(m, name=f"{m.name}, {which} topics") for m in measures)
    return Check(cases, named, sampled=True)


LISTS = Behaviour(
    name="lists",
    weight=0.15,
    write=write,
    checks=(_check(TRAINED_TOPICS, "trained"), _check(HELD_OUT_TOPICS, "held-out")),
)
