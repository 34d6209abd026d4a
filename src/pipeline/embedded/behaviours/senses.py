"""Senses: plain text in which a word such as "bank" means what its context tells.

before = CONTEXT The WORD PREDICATE.
after  = The WORD PREDICATE. CONTEXT
CONTEXT = a frame with one cue of the sense, or with two

A document has one to three items. 13 words, two senses each, six cues and four predicates a sense;
the form of the word is the same in both. The predicates of a word's two senses share no word of
`own_words`, by which a completion is scored. Held out are two frames with every cue, and a quarter
of the pairs of a cue and another frame.
"""

import re
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.senses import SENSES, Sense
from pipeline.embedded.vocabulary.stories import NAMES, RELATIVES

FRAMES = (
    "{name} talked about {cue}.",
    "This story is about {cue}.",
    "The {relative} of {name} thought of {cue}.",
    "{name} could see {cue}.",
    "Everyone spoke of {cue}.",
    "{name} told the {relative} about {cue}.",
    "There was a picture of {cue}.",
    "{name} remembered {cue}.",
)
HELD_OUT_FRAMES = ("{name} dreamt of {cue}.", "The {relative} read a book about {cue}.")
COMMON = words("with from that were their its his her very had was the for and into")


def own_words(word: str, sense: Sense) -> frozenset[str]:
    """What only the predicates of this sense of a word say."""
    first, second = (_words(each) for each in SENSES[word])
    return first - second if sense is SENSES[word][0] else second - first


def is_held_out(sense: Sense, cue: str, frame: str) -> bool:
    """Whether training never has this cue in this frame."""
    place = sense.cues.index(cue) + (FRAMES.index(frame) if frame in FRAMES else 0)
    return frame in HELD_OUT_FRAMES or place % 4 == 0


def write(rng: Random) -> Document:
    """One to three items."""
    return Document(" ".join(_item(rng) for _ in range(rng.randint(1, 3))))


def shown(case: Case, completion: str) -> bool:
    """Whether the sentence has a word of the right sense and none of the other."""
    said = frozenset(re.findall(r"\w+", completion.split(".")[0]))
    right, wrong = SENSES[case.topic]
    if case.label == wrong.name:
        right, wrong = wrong, right
    return bool(said & own_words(case.topic, right)) and not said & own_words(case.topic, wrong)


def cases(rng: Random, n: int) -> list[Case]:
    """Held-out contexts up to "The WORD"."""
    found = []
    pairs = [(word, sense) for word, senses in SENSES.items() for sense in senses]
    for i in range(n):
        word, sense = pairs[i % len(pairs)]
        context = _context(rng, sense, held_out=True)
        found.append(
            Case(f"{context} The {word}", chat=False, label=sense.name, topic=word, demand=word)
        )
    return found


def _item(rng: Random) -> str:
    word = rng.choice(tuple(SENSES))
    sense = rng.choice(SENSES[word])
    said = f"The {word} {rng.choice(sense.predicates)}."
    contexts = [_context(rng, sense) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.75:
        return " ".join([*contexts, said])
    return " ".join([said, *contexts])


def _context(rng: Random, sense: Sense, held_out: bool = False) -> str:
    while True:
        cue = rng.choice(sense.cues)
        frame = rng.choice((*FRAMES, *HELD_OUT_FRAMES))
        if is_held_out(sense, cue, frame) == held_out:
            return frame.format(cue=cue, name=rng.choice(NAMES)[0], relative=rng.choice(RELATIVES))


def _words(sense: Sense) -> frozenset[str]:
    said = re.findall(r"\w+", " ".join(sense.predicates))
    return frozenset(word for word in said if len(word) > 2).difference(COMMON)


SENSES_TOLD = Behaviour(
    name="senses",
    weight=0.05,
    write=write,
    checks=(
        Check(
            cases,
            (Measure("sense of a word in its context", shown, low=0.95),),
            n_tokens=14,
        ),
    ),
)
