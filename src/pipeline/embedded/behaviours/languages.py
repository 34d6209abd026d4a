"""Languages: what is asked in English is answered in English, French or Chinese, as asked.

    asked:      carrier(core, language), answered in that language; no language named: in English
    native:     a core in French or Chinese, answered in the language of the core
    sentences:  plain text in one language, or each sentence in all three
    dialogue:   plain text; somebody asks for a thing in some language, and is answered in it

A core asks to describe a thing, or for its place or colour; the answer is one or two sentences of
`scenes` (state, quality, here, place, colour), with French agreement in gender.

Counts: 119 nouns, 31 adjectives, 5 places, 4 doings of animals. Held out are 22 nouns, 8 for
validation and 14 for tests, that no chat here asks about and plain text has as often as the others,
and the wordings of other splits than "train".
"""

from collections.abc import Callable
from math import nan
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.scenes import (
    SPOKEN,
    VOCABULARY,
    agrees,
    imagine,
    name,
    tell,
    units,
)
from pipeline.embedded.vocabulary.stories import NAMES
from pipeline.embedded.vocabulary.translations import NOUNS, Noun, spoken
from pipeline.embedded.vocabulary.wordings import CARRIERS, CORES, DIRECT, SPLIT_NOUNS


def write(rng: Random) -> Document:
    """A chat or, a third of the time, plain text."""
    kinds = (_asked, _native, _sentences, _dialogue)
    return rng.choices(kinds, weights=(42, 25, 15, 18))[0](rng)


def speaks(case: Case, completion: str) -> bool:
    """Whether the completion has words of the language asked for and no others."""
    found = units(completion, case.label)
    return bool(found) and found <= VOCABULARY[case.label]


def names_it(case: Case, completion: str) -> bool:
    """Whether the completion names the thing it is asked about, in the language asked for."""
    if case.label == "Chinese":
        return case.demand in completion
    return case.demand in units(completion, case.label)


def agreement(case: Case, completion: str) -> float:
    """Whether French words for the thing have its gender."""
    thing = next(noun for noun in NOUNS if noun.english == case.topic)
    return float(agrees(thing, completion)) if case.label == "French" else nan


def requests(split: str) -> list[Case]:
    """All requests in English for an answer in a language, with that split's nouns and carriers."""
    return [
        Case(
            carrier.format(core=core.format(the=name(noun, "English")), language=language),
            label=language,
            topic=noun.english,
            demand=spoken(noun, place),
        )
        for noun in SPLIT_NOUNS[split]
        for carrier in CARRIERS[split]
        for _, core in (*CORES["train"]["English"], *CORES[split]["English"])
        for place, language in enumerate(SPOKEN)
    ]


def _asked(rng: Random) -> Document:
    noun, language = rng.choice(SPLIT_NOUNS["train"]), rng.choice(SPOKEN)
    the = name(noun, "English")
    question, core = rng.choice(CORES["train"]["English"])
    text = core.format(the=the)
    chance = rng.random()
    if chance < 0.2:
        language = "English"
    elif chance < 0.4:
        question, text = "describe", rng.choice(DIRECT).format(the=the, language=language)
    else:
        text = rng.choice(CARRIERS["train"]).format(core=text, language=language)
    return Document(_answer(rng, noun, question, language), instruction=text)


def _native(rng: Random) -> Document:
    noun, language = rng.choice(SPLIT_NOUNS["train"]), rng.choice(SPOKEN[1:])
    question, core = rng.choice(CORES["train"][language])
    instruction = core.format(the=name(noun, language))
    return Document(_answer(rng, noun, question, language), instruction=instruction)


def _answer(rng: Random, noun: Noun, question: str, language: str) -> str:
    return tell(imagine(rng, noun, question), language, twice=rng.random() < 0.4)


def _sentences(rng: Random) -> Document:
    if rng.random() < 0.5:
        language = rng.choice(SPOKEN)
        told = [_answer(rng, rng.choice(NOUNS), "describe", language) for _ in range(4)]
        return Document(("" if language == "Chinese" else " ").join(told))
    scenes = [imagine(rng, rng.choice(NOUNS), "describe") for _ in range(2)]
    return Document("\n".join(tell(s, language) for s in scenes for language in SPOKEN))


def _dialogue(rng: Random) -> Document:
    noun, language = rng.choice(NOUNS), rng.choice(SPOKEN)
    question, core = rng.choice(CORES["train"][language])
    asked = core.format(the=name(noun, language))
    return Document(f"{rng.choice(NAMES)[0]}: {asked}\n{_answer(rng, noun, question, language)}")


def _requests(rng: Random, n: int) -> list[Case]:
    found = requests("test")
    return rng.sample(found, min(n, len(found)))


def _unasked(rng: Random, n: int) -> list[Case]:
    """Requests in a language, that do not say in which language to answer."""
    found = [
        Case(
            core.format(the=name(noun, language)),
            label=language,
            topic=noun.english,
            demand=spoken(noun, place),
        )
        for noun in SPLIT_NOUNS["test"]
        for place, language in enumerate(SPOKEN)
        for _, core in (*CORES["train"][language], *CORES["test"][language])
    ]
    return rng.sample(found, min(n, len(found)))


def _measures(asked: str) -> tuple[Measure, ...]:
    def only(language: str, score: Callable[[Case, str], float]) -> Callable[[Case, str], float]:
        return lambda case, text: score(case, text) if case.label == language else nan

    return tuple(
        Measure(f"{language} {asked}: {what}", only(language, score), low=0.9)
        for language in SPOKEN
        for what, score in (("in that language", speaks), ("names the thing", names_it))
    )


LANGUAGES = Behaviour(
    name="languages",
    weight=0.10,
    write=write,
    checks=(
        Check(
            _requests,
            (*_measures("as asked"), Measure("French agreement", agreement, low=0.9)),
            n_tokens=32,
        ),
        Check(_unasked, _measures("as spoken"), n_tokens=32),
    ),
)
