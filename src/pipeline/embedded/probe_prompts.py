"""Texts for attention and probes in the embedded model's language, which is also plain English."""

from random import Random

from pipeline.embedded.behaviours import indirect_objects, text
from pipeline.embedded.behaviours.agreement import (
    ADJECTIVES,
    AUXILIARIES,
    FULL_VERBS,
    LONG,
    PAST,
    PERSONS,
    PREPOSITIONS,
    inflect,
)

N_STORIES = 40
ROUNDS = 8
"""Sentences about each noun."""

_PARTS = ("train", "val", "train", "test", "train", "train", "train", "test")
"""Splits of nouns, in turn."""

Phrase = list[tuple[str, int]]
"""Words, each with the index of its parent in the phrase; the phrase's head has -1."""

_EXCEPTIONS: dict[str, Phrase] = {
    "made of wood": [("made", -1), ("of", 2), ("wood", 0)],
    "there since spring": [("there", -1), ("since", 2), ("spring", 0)],
    "where one left it": [("where", 2), ("one", 2), ("left", -1), ("it", 2)],
}
"""What may follow a verb; the head of everything else is its last word."""


def stories(rng: Random) -> list[dict[str, str]]:
    """Rows of texts that training never tells, in which names and things come again.

    Label `gift`: two people and who gives something to whom, up to the receiver's name; `story`: a
    few sentences about a thing. Both are N_STORIES.
    """
    gifts = [(case.prompt, "gift") for case in indirect_objects.cases(rng, N_STORIES)]
    told = [(row["text"], "story") for row in text.held_out(rng)[:N_STORIES]]
    return [
        {"instruction": instruction, "label": label, "split": "test", "topic": f"{label} {number}"}
        for number, (instruction, label) in enumerate(gifts + told)
    ]


def parsed_sentences(rng: Random) -> list[dict[str, str]]:
    """Rows of sentences of the grammar in `behaviours.agreement`, with their dependency trees.

    `heads`: the number of each word's parent, counted from 1; 0 is the root, the verb. Of a phrase
    with a preposition or article the noun is the head; both phrases of a subject depend on its
    noun; a relative clause's verb is its head. The full stop is not a word. `topic` is the
    subject's noun: splits share none.
    """

    rows: dict[str, dict[str, str]] = {}
    for _ in range(ROUNDS):
        for place, noun in enumerate(LONG):
            text = ""
            while not text or text in rows:
                words = sentence(rng, noun)
                text = " ".join(word for word, _ in words) + "."
            rows[text] = {
                "instruction": text,
                "split": _PARTS[place % len(_PARTS)],
                "topic": noun,
                "label": "sentence",
                "heads": " ".join(str(parent + 1) for _, parent in words),
            }
    return list(rows.values())


def sentence(rng: Random, noun: str) -> Phrase:
    """Draw a sentence about a noun, with each word's parent; the verb's is -1."""
    plural = rng.random() < 0.5
    subject = _noun_phrase(rng, "The", noun, plural)
    kind = rng.choices(("", "place", "clause", "both"), weights=(10, 45, 25, 20))[0]
    if kind in ("place", "both"):
        attractor = rng.choice([word for word in LONG if word != noun])
        _attach(subject, _place(rng, attractor, rng.random() < 0.5))
    if kind in ("clause", "both"):
        person = _noun_phrase(rng, "the", rng.choice(PERSONS), rng.random() < 0.5, adjective=0.0)
        _attach(subject, [("that", 3), *_moved(person, 1, 3), (rng.choice(PAST), -1)])
    singular_form, plural_form, rests = rng.choice(
        AUXILIARIES if rng.random() < 0.5 else FULL_VERBS
    )
    verb = len(subject)
    words = _moved(subject, 0, verb)
    words.append((plural_form if plural else singular_form, -1))
    rest = rng.choice(rests)
    parts = rest.split()
    phrase = _EXCEPTIONS.get(rest) or _flat(parts)
    return [*words, *_moved(phrase, verb + 1, verb)]


def _noun_phrase(
    rng: Random, article: str, noun: str, plural: bool, adjective: float = 0.4
) -> Phrase:
    adjectives = [rng.choice(ADJECTIVES)] if rng.random() < adjective else []
    return _flat([article, *adjectives, inflect(noun, plural)])


def _place(rng: Random, noun: str, plural: bool) -> Phrase:
    phrase = _noun_phrase(rng, "the", noun, plural)
    return _flat([*rng.choice(PREPOSITIONS).split(), *(word for word, _ in phrase)])


def _flat(words: list[str]) -> Phrase:
    """Make the last word the parent of all others."""
    return [*((word, len(words) - 1) for word in words[:-1]), (words[-1], -1)]


def _attach(phrase: Phrase, further: Phrase) -> None:
    """Append a phrase that depends on the head of another one."""
    head = next(place for place, (_, parent) in enumerate(phrase) if parent == -1)
    phrase += _moved(further, len(phrase), head)


def _moved(phrase: Phrase, start: int, head: int) -> Phrase:
    """Move a phrase to a place in a sentence, where its head depends on another word."""
    return [(word, head if parent == -1 else parent + start) for word, parent in phrase]
