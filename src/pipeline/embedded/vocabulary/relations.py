"""Relations of countries and people, and how one speaks of them."""

from dataclasses import dataclass

from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import PEOPLE, WELL_KNOWN


@dataclass(frozen=True)
class Relation:
    """What subjects are to their objects, and how one speaks of it.

    Attributes:
        objects: of each subject.
        tellings: sentences in which the object stands last.
        reverse: a sentence in which it stands first.
        questions: by themselves, as in "what is the capital of {s}".
        requests: as part of a sentence, as in "tell me" with "the capital of {s}".
        answer: to all of them.
    """

    name: str
    objects: dict[str, str]
    tellings: tuple[str, ...]
    reverse: str
    questions: tuple[str, ...]
    requests: tuple[str, ...]
    answer: str


RELATIONS = (
    Relation(
        name="capital",
        objects={country.name: country.capital for country in COUNTRIES},
        tellings=(
            "the capital of {s} is {o}",
            "the capital city of {s} is called {o}",
            "the government of {s} sits in {o}",
        ),
        reverse="{o} is the capital of {s}",
        questions=("what is the capital of {s}", "which city is the capital of {s}"),
        requests=("the capital of {s}", "which city is the capital of {s}"),
        answer="It is {o}.",
    ),
    Relation(
        name="language",
        objects={country.name: country.language for country in COUNTRIES},
        tellings=(
            "the language of {s} is {o}",
            "people in {s} speak {o}",
            "the main language in {s} is {o}",
        ),
        reverse="{o} is the language of {s}",
        questions=("what is the language of {s}", "which language do people in {s} speak"),
        requests=("the language of {s}", "which language people in {s} speak"),
        answer="It is {o}.",
    ),
    Relation(
        name="continent",
        objects={country.name: country.continent for country in COUNTRIES},
        tellings=(
            "the continent of {s} is {o}",
            "on a map {s} lies in {o}",
            "one finds {s} in {o}",
        ),
        reverse="{o} is the continent of {s}",
        questions=("what is the continent of {s}", "which continent does {s} belong to"),
        requests=("the continent of {s}", "which continent {s} belongs to"),
        answer="It is {o}.",
    ),
    Relation(
        name="currency",
        objects={country.name: country.currency for country in COUNTRIES},
        tellings=(
            "the currency of {s} is the {o}",
            "people in {s} pay with the {o}",
            "the money of {s} is called the {o}",
        ),
        reverse="the {o} is the currency of {s}",
        questions=("what is the currency of {s}", "what do people in {s} pay with"),
        requests=("the currency of {s}", "what people in {s} pay with"),
        answer="The {o}.",
    ),
    Relation(
        name="country",
        objects={person.name: person.country for person in PEOPLE},
        tellings=(
            "{s} was born in {o}",
            "{s} comes from {o}",
            "the home country of {s} is {o}",
        ),
        reverse="{o} is the home country of {s}",
        questions=("where was {s} born", "in which country was {s} born"),
        requests=("where {s} was born", "in which country {s} was born"),
        answer="In {o}.",
    ),
    Relation(
        name="instrument",
        objects={person.name: person.instrument for person in WELL_KNOWN},
        tellings=(
            "{s} plays the {o}",
            "the instrument of {s} is the {o}",
            "{s} gives concerts on the {o}",
        ),
        reverse="the {o} is the instrument of {s}",
        questions=("what does {s} play", "which instrument does {s} play"),
        requests=("the instrument of {s}", "which instrument {s} plays"),
        answer="The {o}.",
    ),
    Relation(
        name="sport",
        objects={person.name: person.sport for person in WELL_KNOWN},
        tellings=(
            "the sport of {s} is {o}",
            "{s} is very good at {o}",
            "the sport that {s} likes best is {o}",
        ),
        reverse="{o} is the sport of {s}",
        questions=("what is the sport of {s}", "which sport does {s} like best"),
        requests=("the sport of {s}", "which sport {s} likes best"),
        answer="It is {o}.",
    ),
    Relation(
        name="job",
        objects={person.name: person.job for person in WELL_KNOWN},
        tellings=(
            "{s} works as a {o}",
            "the job of {s} is that of a {o}",
            "{s} earns money as a {o}",
        ),
        reverse="a {o} is what {s} is by trade",
        questions=("what is the job of {s}", "as what does {s} work"),
        requests=("the job of {s}", "as what {s} works"),
        answer="A {o}.",
    ),
    Relation(
        name="city",
        objects={person.name: person.city for person in WELL_KNOWN},
        tellings=(
            "{s} lives in {o}",
            "the home town of {s} is {o}",
            "{s} has a house in {o}",
        ),
        reverse="{o} is the home town of {s}",
        questions=("where does {s} live", "in which city does {s} live"),
        requests=("where {s} lives", "in which city {s} lives"),
        answer="In {o}.",
    ),
)
