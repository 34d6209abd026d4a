"""Small sentences about a thing in three languages, with French agreement and elision."""

import re
from random import Random
from typing import NamedTuple

from pipeline.embedded.vocabulary.translations import (
    ADJECTIVES,
    ANIMALS,
    COLOURS,
    DOINGS,
    NOUNS,
    PLACES,
    Adjective,
    Noun,
    spoken,
)

SPOKEN = ("English", "French", "Chinese")
FORMS = {
    "describe": ("state", "quality", "here"),
    "place": ("place",),
    "colour": ("colour",),
}
"""What a sentence may be that answers such a question."""
VOWELS = "aeiouâéêîœ"
_STATES = tuple((f"is {p.english}", f"est {p.french}", f"在{p.chinese}") for p in PLACES)


class Scene(NamedTuple):
    """What two sentences tell of a thing; any language can tell it."""

    form: str
    noun: Noun
    adjective: Adjective
    other: Adjective
    state: tuple[str, str, str]


def imagine(rng: Random, noun: Noun, question: str) -> Scene:
    """A scene that answers a question about the thing."""
    form = rng.choice(FORMS[question])
    states = DOINGS if noun in ANIMALS and form == "state" and rng.random() < 0.6 else _STATES
    adjective = rng.choice(COLOURS if form == "colour" or rng.random() < 0.5 else ADJECTIVES)
    other = rng.choice([a for a in ADJECTIVES if a != adjective])
    return Scene(form, noun, adjective, other, rng.choice(states))


def tell(scene: Scene, language: str, *, twice: bool = False) -> str:
    """The scene in words, in one sentence or two."""
    the, it, copula, stop = {
        "English": (name(scene.noun, language), "It", "is", "."),
        "French": (
            name(scene.noun, language),
            "Elle" if scene.noun.feminine else "Il",
            "est",
            ".",
        ),
        "Chinese": (scene.noun.chinese, "它", "是", "。"),
    }[language]
    space = "" if language == "Chinese" else " "
    state = scene.state[SPOKEN.index(language)]
    if scene.form == "state":
        first = f"{name(scene.noun, language, scene.adjective)}{space}{state}"
    elif scene.form == "here":
        here = {"English": "Here is", "French": "Voici", "Chinese": "这里有"}[language]
        thing = name(scene.noun, language, scene.adjective, article="a")
        first = f"{here}{space}{thing}"
    elif scene.form == "place":
        first = f"{the}{space}{state}"
    else:
        first = f"{the}{space}{copula}{space}{quality(scene.adjective, scene.noun, language)}"
    told = first[0].upper() + first[1:] + stop
    if not twice:
        return told
    other = quality(scene.other, scene.noun, language)
    return f"{told}{space}{it}{space}{copula}{space}{other}{stop}"


def name(
    noun: Noun, language: str, adjective: Adjective | None = None, *, article: str = "the"
) -> str:
    """The thing with its article, with or without an adjective."""
    if language == "Chinese":
        return noun.chinese if adjective is None else f"{adjective.chinese}的{noun.chinese}"
    if language == "English":
        words = noun.english if adjective is None else f"{adjective.english} {noun.english}"
        if article == "a":
            article = "an" if words[0] in VOWELS else "a"
        return f"{article} {words}"
    words = noun.french
    if adjective is not None:
        form = quality(adjective, noun, language)
        words = f"{form} {words}" if adjective.before else f"{words} {form}"
    if article == "a":
        return f"{'une' if noun.feminine else 'un'} {words}"
    return f"l'{words}" if words[0] in VOWELS else f"{'la' if noun.feminine else 'le'} {words}"


def quality(adjective: Adjective, noun: Noun, language: str) -> str:
    """The adjective as it is said of the thing after "is"."""
    if language == "Chinese":
        return f"{adjective.chinese}的"
    if language == "English":
        return adjective.english
    return adjective.feminine if noun.feminine else adjective.french


def units(text: str, language: str) -> set[str]:
    """Words of a text, or characters if it is to be Chinese."""
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return set("".join(words)) if language == "Chinese" else set(words)


def _vocabulary(language: str) -> frozenset[str]:
    place = SPOKEN.index(language)
    texts = [spoken(noun, place) for noun in NOUNS]
    texts += [(a.english, f"{a.french} {a.feminine}", a.chinese)[place] for a in ADJECTIVES]
    texts += [states[place] for states in (*DOINGS, *_STATES)]
    texts.append(
        ("the a an is it here", "le la l un une est il elle voici", "是的在它这里有")[place]
    )
    return frozenset(units(" ".join(texts), language))


VOCABULARY = {language: _vocabulary(language) for language in SPOKEN}
"""All words that sentences of a language have, all characters for Chinese."""
MASCULINE = {"le", "un", "il", *(a.french for a in ADJECTIVES if a.french != a.feminine)}
FEMININE = {"la", "une", "elle", *(a.feminine for a in ADJECTIVES if a.french != a.feminine)}


def agrees(noun: Noun, french: str) -> bool:
    """Whether nothing said of the thing has the other gender."""
    text = french
    for _, state, _ in _STATES:
        text = text.replace(state, "est")
    return not units(text, "French") & (MASCULINE if noun.feminine else FEMININE)
