"""Pairs of words by relation, and one sentence in several languages."""

from collections.abc import Sequence
from random import Random

from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.word_pairs import FRENCH, OPPOSITES, PAST, PLURALS

PAIRS = 40
"""Most pairs of a relation."""

SENTENCES = {
    "English": "The hungry fox looked at the old bridge near the river.",
    "French": "Le renard affamé regardait le vieux pont près de la rivière.",
    "German": "Der hungrige Fuchs betrachtete die alte Brücke am Fluss.",
    "Chinese": "饥饿的狐狸看着河边的老桥。",
    "numbers": "In 2024 the bridge cost 1234567.89 euros.",
    "code": "for fox in range(10): print(fox, end='\\n')",
}


def vocabulary(rng: Random) -> list[dict[str, str]]:
    """Rows of pairs (`instruction`, `answer`) of a relation (`topic`), and of sentences.

    Words begin with the blank that they have inside of a text. A sentence has no answer.
    """
    relations: dict[str, Sequence[tuple[str, str]]] = {
        "capital": [(country.name, country.capital) for country in COUNTRIES],
        "plural": [pair for pair in PLURALS if pair[0] != pair[1]],
        "past tense": PAST,
        "opposite": OPPOSITES,
        "French": FRENCH,
    }
    rows = [
        _row(f" {first}", f" {second}", "pair", relation)
        for relation, pairs in relations.items()
        for first, second in rng.sample(list(pairs), PAIRS)
    ]
    return [*rows, *(_row(text, "", "sentence", name) for name, text in SENTENCES.items())]


def _row(text: str, answer: str, label: str, topic: str) -> dict[str, str]:
    return {
        "instruction": text,
        "answer": answer,
        "label": label,
        "split": "test",
        "topic": topic,
    }
