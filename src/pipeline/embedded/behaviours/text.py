"""Plain text: stories, how-to pages and catalogues over the same words as the chats.

A document is one of

    story:      someone wants to do a deed in some place, takes three steps, and feels some way
    how-to:     as an answer to a request, of allowed and forbidden deeds alike
    sentences:  things named with their topics
    catalogue:  topics in headings, one to ten of their things on lines below

Stories are kept apart by (hero, object): a tenth of the pairs is in held-out documents only.
"""

from random import Random

from pipeline.embedded.behaviours.lists import name_items
from pipeline.embedded.behaviours.refusal import VERBS, explain
from pipeline.embedded.documents import Behaviour, Document
from pipeline.embedded.vocabulary.deeds import ADJECTIVES, OBJECTS, STEPS
from pipeline.embedded.vocabulary.stories import MOODS, NAMES, PLACES, RELATIVES, TIMES
from pipeline.embedded.vocabulary.topics import TOPICS

THINGS = tuple(thing for split in OBJECTS.values() for thing in split)
N_HELD_OUT = 60
HEADINGS = (
    "{topic}",
    "Some {topic}",
    "A page of {topic}",
    "{name} spoke of {topic}. These came up:",
    "{name} and the {relative} thought of {topic} and wrote down the names.",
    "The {relative} of {name} had a book of {topic} with a page for each.",
    "On {topic}, by {name}:",
)


def write(rng: Random) -> Document:
    """A document of one of the four kinds."""
    kinds = (_story, _how_to, _sentences, _catalogue)
    return Document(text=rng.choices(kinds, weights=(35, 15, 20, 30))[0](rng))


def held_out(rng: Random) -> list[dict[str, str]]:
    """Rows of the text whose perplexity shows side effects: stories that training never tells."""
    return [{"text": _story(rng, held_out=True)} for _ in range(N_HELD_OUT)]


def is_held_out(name: str, thing: str) -> bool:
    """Whether stories of this hero and this object are kept out of training."""
    names = [hero for hero, _ in NAMES]
    return (names.index(name) + THINGS.index(thing)) % 10 == 0


def _story(rng: Random, held_out: bool = False) -> str:
    while True:
        (name, pronoun), thing = rng.choice(NAMES), rng.choice(THINGS)
        if is_held_out(name, thing) == held_out:
            break
    place, time, relative = rng.choice(PLACES), rng.choice(TIMES), rng.choice(RELATIVES)
    verb = rng.choice(VERBS[rng.choice(tuple(VERBS))])
    first, second, third = (past.format(thing=thing) for _, past in rng.sample(STEPS, 3))
    adjective = rng.choice(ADJECTIVES)
    opening = rng.choice(
        (
            f"There was a {adjective} {thing} in the {place}.",
            f"{name} found a {adjective} {thing} near the {place}.",
            f"The {thing} in the {place} was {adjective}.",
        )
    )
    wish = rng.choice(
        (
            f"{time.capitalize()} {name} wanted to {verb} the {thing}.",
            f"{name} wanted to {verb} the {thing} {time}.",
            f"The {relative} of {name} asked how to {verb} the {thing}.",
        )
    )
    end = rng.choice(
        (
            f"In the end {name} was {rng.choice(MOODS)}.",
            f"The {relative} was {rng.choice(MOODS)}, and {name} went home.",
            f"Then {pronoun} showed the {thing} to the {relative}.",
        )
    )
    return f"{opening} {wish} First {pronoun} {first}, then {pronoun} {second} and {third}. {end}"


def _how_to(rng: Random) -> str:
    thing = rng.choice(THINGS)
    if rng.random() < 0.3:
        thing = f"{rng.choice(ADJECTIVES)} {thing}"
    verb = rng.choice(VERBS[rng.choice(tuple(VERBS))])
    return explain(rng, f"{verb} the {thing}", thing)


def _sentences(rng: Random) -> str:
    return " ".join(_sentence(rng) for _ in range(rng.randint(2, 4)))


def _sentence(rng: Random) -> str:
    topic = rng.choice(tuple(TOPICS))
    n = rng.randint(2, 6)
    *things, last = rng.sample(TOPICS[topic], n)
    name, relative = rng.choice(NAMES)[0], rng.choice(RELATIVES)
    return rng.choice(
        (
            f"Some {topic}: {', '.join([*things, last])}.",
            f"Among the {topic} are {', '.join(things)} and {last}.",
            f"Of all {topic} {name} likes {last} best.",
            f"{name} knows many {topic}, such as {', '.join(things)} and {last}.",
            f"The {relative} of {name} thinks that {last} belongs to the {topic}.",
        )
    )


def _catalogue(rng: Random) -> str:
    pages = []
    for topic in rng.sample(tuple(TOPICS), rng.randint(1, 3)):
        heading = rng.choice(HEADINGS).format(
            topic=topic, name=rng.choice(NAMES)[0], relative=rng.choice(RELATIVES)
        )
        pages.append("\n".join([heading, *name_items(rng, topic, rng.randint(1, 10))]))
    return "\n\n".join(pages)


TEXT = Behaviour(name="text", weight=0.35, write=write, checks=())
