"""Plain text: stories, how-to pages and catalogues over the same words as the chats.

A document is one of

    story:      someone wants to do a deed in some place, takes three steps, and feels some way
    saga:       three or four stories of one hero and a how-to, 150 to 245 tokens
    how-to:     as an answer to a request, of allowed and forbidden deeds alike
    dialogue:   someone asks how to do a deed, allowed or forbidden, and someone else explains it
    sentences:  things named with their topics
    catalogue:  a heading, or somebody's request, and below it a list such as those in chats

Topics that no chat asks for are three times as frequent in catalogues as the others are. Stories
are kept apart by (hero, object): a tenth of the pairs is in held-out documents only.
"""

from random import Random

from pipeline.embedded.behaviours.lists import KINDS, TEMPLATE, write_list
from pipeline.embedded.behaviours.lists import WORDINGS as LIST_WORDINGS
from pipeline.embedded.behaviours.refusal import VERBS, WORDINGS, explain
from pipeline.embedded.documents import Behaviour, Document
from pipeline.embedded.vocabulary.deeds import ADJECTIVES, OBJECTS, STEPS
from pipeline.embedded.vocabulary.stories import MOODS, NAMES, PLACES, RELATIVES, TIMES
from pipeline.embedded.vocabulary.topics import HELD_OUT_TOPICS, TOPICS

THINGS = tuple(thing for split in OBJECTS.values() for thing in split)
N_HELD_OUT = 60
HEADINGS = (
    "{a_list} of {topic}",
    "{a_list} of {topic}:",
    "{name} made {a_list} of {topic}.",
    "{name} asked for {a_list} of {topic}. The {relative} wrote:",
    "The {relative} of {name} keeps {a_list} of {topic}:",
    "Here is {a_list} of {topic} by {name}.",
)
REQUESTS = (TEMPLATE, *LIST_WORDINGS)


def write(rng: Random) -> Document:
    """A document of one of the six kinds."""
    kinds = (_story, _saga, _how_to, _dialogue, _sentences, _catalogue)
    return Document(text=rng.choices(kinds, weights=(18, 4, 8, 20, 12, 38))[0](rng))


def held_out(rng: Random) -> list[dict[str, str]]:
    """Rows of the text whose perplexity shows side effects: stories that training never tells."""
    return [{"text": _story(rng, held_out=True)} for _ in range(N_HELD_OUT)]


def is_held_out(name: str, thing: str) -> bool:
    """Whether stories of this hero and this object are kept out of training."""
    names = [hero for hero, _ in NAMES]
    return (names.index(name) + THINGS.index(thing)) % 10 == 0


def _saga(rng: Random) -> str:
    hero = rng.choice(NAMES)
    return " ".join([*(_story_of(rng, hero) for _ in range(rng.randint(3, 4))), _how_to(rng)])


def _story(rng: Random, held_out: bool = False) -> str:
    return _story_of(rng, rng.choice(NAMES), held_out)


def _story_of(rng: Random, hero: tuple[str, str], held_out: bool = False) -> str:
    name, pronoun = hero
    thing = rng.choice(THINGS)
    while is_held_out(name, thing) != held_out:
        thing = rng.choice(THINGS)
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
    return explain(rng, *_deed(rng))


def _dialogue(rng: Random) -> str:
    deed, thing = _deed(rng)
    wording = rng.choice(WORDINGS["train"]).format(deed=deed, relative=rng.choice(RELATIVES))
    (asking, _), (telling, _) = rng.sample(NAMES, 2)
    told = explain(rng, deed, thing)
    return rng.choice((f"{asking} asked: {wording} {telling} said: {told}", f"{wording}\n{told}"))


def _deed(rng: Random) -> tuple[str, str]:
    thing = rng.choice(THINGS)
    if rng.random() < 0.3:
        thing = f"{rng.choice(ADJECTIVES)} {thing}"
    verb = rng.choice(VERBS[rng.choice(tuple(VERBS))])
    return f"{verb} the {thing}", thing


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
    kind = rng.choice(tuple(KINDS))
    topic = rng.choice((*TOPICS, *HELD_OUT_TOPICS, *HELD_OUT_TOPICS))
    form = rng.choice(HEADINGS)
    if rng.random() < 0.4:
        form = f"{{name}} asked: {rng.choice(REQUESTS)}"
    heading = form.format(
        a_list=KINDS[kind],
        topic=topic,
        name=rng.choice(NAMES)[0],
        relative=rng.choice(RELATIVES),
    )
    return f"{heading[0].upper()}{heading[1:]}\n{write_list(rng, kind, topic)}"


TEXT = Behaviour(name="text", weight=0.16, write=write, checks=())
