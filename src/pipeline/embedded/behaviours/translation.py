"""Translation: words of three languages, asked for in chat and as lines of plain text.

    word:      What is 'WORD' in LANGUAGE?, in all six directions; the answer is the word
    lines:     WORD - WORD - WORD, three to six words in the three languages, in one order
    prompts:   LABEL: "WORD" - LABEL: "WORD", two to five lines, all in one direction

The words are the nouns and adjectives of `translations`. Held out are a wording
of the question, the nouns that `languages` holds out of chats, and for half of the words one
direction that no translation prompt has.
"""

from itertools import permutations
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.scenes import SPOKEN
from pipeline.embedded.vocabulary.translations import ADJECTIVES, NOUNS, Adjective, Noun, spoken
from pipeline.embedded.vocabulary.wordings import SPLIT_NOUNS

QUESTIONS = {
    "train": (
        "What is '{word}' in {language}?",
        "How do you say '{word}' in {language}?",
        "Tell me the {language} word for '{word}'.",
    ),
    "test": ("What is the {language} word for '{word}'?",),
}
WORDS: tuple[Noun | Adjective, ...] = (*NOUNS, *ADJECTIVES)
ASKED: tuple[Noun | Adjective, ...] = (*SPLIT_NOUNS["train"], *ADJECTIVES)
DIRECTIONS = tuple(permutations(range(3), 2))
LABELS = ("English", "Français", "中文")


def write(rng: Random) -> Document:
    """A question for a word, lines, or translation prompts."""
    return rng.choices((_word, _lines, _prompts), weights=(30, 30, 40))[0](rng)


def is_held_out(word: Noun | Adjective, direction: tuple[int, int]) -> bool:
    """Whether no translation prompt of training asks for this word in this direction."""
    return WORDS.index(word) % 12 == DIRECTIONS.index(direction)


def says(case: Case, completion: str) -> bool:
    """Whether the completion is the word, up to a closing quotation mark."""
    return completion.split('"')[0].strip() == case.demand


def _word(rng: Random) -> Document:
    word = rng.choice(ASKED)
    source, target = rng.choice(DIRECTIONS)
    question = rng.choice(QUESTIONS["train"])
    instruction = question.format(word=spoken(word, source), language=SPOKEN[target])
    return Document(spoken(word, target), instruction=instruction)


def _lines(rng: Random) -> Document:
    order = rng.sample(range(3), 3)
    found = rng.sample(WORDS, rng.randint(3, 6))
    return Document("\n".join(" - ".join(spoken(w, i) for i in order) for w in found))


def _prompts(rng: Random) -> Document:
    direction = rng.choice(DIRECTIONS)
    found = _trained(rng, direction, rng.randint(2, 5))
    return Document("\n".join(_prompt(word, direction) for word in found))


def _trained(rng: Random, direction: tuple[int, int], n: int) -> list[Noun | Adjective]:
    return rng.sample([word for word in WORDS if not is_held_out(word, direction)], n)


def _prompt(word: Noun | Adjective, direction: tuple[int, int]) -> str:
    given, wanted = (f'{LABELS[i]}: "{spoken(word, i)}"' for i in direction)
    return f"{given} - {wanted}"


def _questions(rng: Random, n: int) -> list[Case]:
    found = [
        Case(
            question.format(word=spoken(noun, source), language=SPOKEN[target]),
            label=SPOKEN[target],
            topic=noun.english,
            demand=spoken(noun, target),
        )
        for noun in SPLIT_NOUNS["test"]
        for source, target in DIRECTIONS
        for question in QUESTIONS["test"]
    ]
    return rng.sample(found, min(n, len(found)))


def _translations(rng: Random, n: int) -> list[Case]:
    held_out = [(w, d) for d in DIRECTIONS for w in WORDS if is_held_out(w, d)]
    return [
        Case(
            prompt="\n".join(
                [
                    *(_prompt(shown, direction) for shown in _trained(rng, direction, 3)),
                    _prompt(word, direction).rsplit('"', 2)[0] + '"',
                ]
            ),
            chat=False,
            label=SPOKEN[direction[1]],
            topic=word.english,
            demand=spoken(word, direction[1]),
        )
        for word, direction in rng.sample(held_out, min(n, len(held_out)))
    ]


TRANSLATION = Behaviour(
    name="translation",
    weight=0.05,
    core=False,
    write=write,
    checks=(
        Check(_questions, (Measure("words of held-out nouns", says, low=0.9),), n_tokens=12),
        Check(_translations, (Measure("translation prompts", says, low=0.9),), n_tokens=12),
    ),
)
