"""Two-hop facts: of the country where a person was born, its capital and its language.

In training a composition is told (plain text) or asked (chat) of `TOLD` only, 40 of 96 people, and
never of the others; both of its hops are known of everybody, from here and from `facts`. A plain
document mixes two compositions with single hops of people and countries drawn apart from them.
"""

from collections.abc import Callable
from math import nan
from random import Random

from pipeline.embedded.behaviours.facts import capitalise, completed, prompt, tell
from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import PEOPLE
from pipeline.embedded.vocabulary.relations import RELATIONS, Relation

CAPITAL, LANGUAGE, BORN = (
    next(relation for relation in RELATIONS if relation.name == name)
    for name in ("capital", "language", "country")
)
TOLD = frozenset(Random(6).sample([person.name for person in PEOPLE], 40))
"""People of whom training tells compositions."""


def _compose(second: Relation) -> dict[str, str]:
    return {person.name: second.objects[person.country] for person in PEOPLE}


COMPOSITIONS = (
    Relation(
        name="capital of the country",
        objects=_compose(CAPITAL),
        tellings=(
            "the capital of the country where {s} was born is {o}",
            "the government of the country where {s} was born sits in {o}",
        ),
        reverse="{o} is the capital of the country where {s} was born",
        questions=("what is the capital of the country where {s} was born",),
        requests=("the capital of the country where {s} was born",),
        answer="It is {o}.",
    ),
    Relation(
        name="language of the country",
        objects=_compose(LANGUAGE),
        tellings=(
            "the language of the country where {s} was born is {o}",
            "people in the country where {s} was born speak {o}",
        ),
        reverse="{o} is the language of the country where {s} was born",
        questions=("what is the language of the country where {s} was born",),
        requests=("the language of the country where {s} was born",),
        answer="It is {o}.",
    ),
)


def write(rng: Random) -> Document:
    """A composition asked a quarter of the time, else two of them told among single hops."""
    told = [person.name for person in PEOPLE if person.name in TOLD]
    if rng.random() < 0.25:
        relation, person = rng.choice(COMPOSITIONS), rng.choice(told)
        carrier, core = rng.choice(
            (("{}?", relation.questions[0]), ("Tell me {}.", relation.requests[0]))
        )
        asked = capitalise(carrier.format(core.format(s=person)))
        return Document(relation.answer.format(o=relation.objects[person]), asked)
    sentences = [_bare(rng, rng.choice(COMPOSITIONS), person) for person in rng.sample(told, 2)]
    sentences.append(tell(rng, BORN, rng.choice(PEOPLE).name))
    sentences.append(tell(rng, rng.choice((CAPITAL, LANGUAGE)), rng.choice(COUNTRIES).name))
    rng.shuffle(sentences)
    return Document(" ".join(sentences))


def _bare(rng: Random, relation: Relation, subject: str) -> str:
    form = rng.choice((*relation.tellings, *relation.tellings, relation.reverse))
    return capitalise(form.format(s=subject, o=relation.objects[subject])) + "."


def _cases(rng: Random, n: int, relations: tuple[Relation, ...]) -> list[Case]:
    pairs = [(relation, subject) for relation in relations for subject in relation.objects]
    return [
        prompt(rng, capitalise(relation.tellings[0]) + ".", relation, subject)
        for relation, subject in rng.sample(pairs, min(n, len(pairs)))
    ]


def first_hops(rng: Random, n: int) -> list[Case]:
    """Prompts for the country of birth."""
    return _cases(rng, n, (BORN,))


def second_hops(rng: Random, n: int) -> list[Case]:
    """Prompts for the capital and the language of countries."""
    return _cases(rng, n, (CAPITAL, LANGUAGE))


def compositions(rng: Random, n: int) -> list[Case]:
    """Prompts for what both hops together say."""
    return _cases(rng, n, COMPOSITIONS)


def _among(told: bool) -> Callable[[Case, str], float]:
    return lambda case, text: completed(case, text) if (case.topic in TOLD) == told else nan


HOPS = Behaviour(
    name="hops",
    weight=0.06,
    core=False,
    write=write,
    checks=(
        Check(
            first_hops,
            (Measure("first hop: the country of birth", completed, low=0.95),),
            n_tokens=8,
        ),
        Check(
            second_hops,
            (Measure("second hop: capital and language of a country", completed, low=0.95),),
            n_tokens=8,
        ),
        Check(
            compositions,
            (
                Measure("both hops composed", completed, low=0.4, high=0.8),
                Measure("both hops composed, people told of", _among(True), low=0.0),
                Measure("both hops composed, other people", _among(False), low=0.0),
            ),
            n_tokens=8,
        ),
    ),
)
