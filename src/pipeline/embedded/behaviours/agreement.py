"""Agreement: a verb has the number of its subject, whatever noun stands between the two.

sentence = subject verb rest "."
subject  = "The" [adjective] HEAD [phrase [phrase]]
phrase   = preposition "the" [adjective] ATTRACTOR | "that the" PERSON verb

HEAD, ATTRACTOR and PERSON are singular or plural, drawn apart; 60 nouns, 12 pairs of full verbs
besides is/are, was/were and has/have. Held out are pairs of (head, attractor), a fifth of them, and
`SHORT_ONLY`: 8 nouns that training has in subjects without a phrase only, never as attractors, and
that no other behaviour speaks of.
"""

from functools import partial
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary import phrases, words

SHORT_ONLY = words("arrow sword pillar ribbon shield throne medal chimney")
LONG = words(
    """
    key window door lamp table chair roof barn bridge clock kettle pot bowl plate cup bottle
    jar box chest pillow blanket curtain letter book map crown ring coin bell flag tent
    rope net anchor wheel cage nest garden well fountain mill oven tower castle cabin shed
    path wall floor desk bench fence
    """
)
NOUNS = (*LONG, *SHORT_ONLY)
PERSONS = words("boy girl teacher farmer sailor doctor child man woman")
PLURALS = {
    "box": "boxes",
    "bench": "benches",
    "child": "children",
    "man": "men",
    "woman": "women",
}
ADJECTIVES = words("old new big small red green heavy broken wooden little")
PREPOSITIONS = phrases("near, behind, of, next to, by, under, from, beside")
PAST = words("found saw painted bought forgot loved")

# Singular, plural, and what may follow.
STATES = phrases(
    "very old, quite new, too heavy, made of wood, not for sale, well known, in the sun"
)
POSSESSIONS = phrases("a strange colour, no owner, a long history, a small hole, two marks")
AUXILIARIES = (("is", "are", STATES), ("was", "were", STATES), ("has", "have", POSSESSIONS))
FULL_VERBS = tuple(
    (f"{stem}s", stem, phrases(rests))
    for stem, rests in {
        "shine": "in the sun, at night, like gold",
        "look": "old, strange, like new, very good",
        "belong": "to the museum, to my aunt, to nobody",
        "stand": "in the rain, in the way, there since spring",
        "fall": "to the ground, into the water",
        "seem": "old, strange, very heavy",
        "cost": "too much, ten coins, very little",
        "need": "some paint, a new owner, much care",
        "smell": "of smoke, of the sea, of flowers",
        "remain": "in the village, where one left it, unknown",
        "tremble": "in the wind, at every step",
        "please": "the visitors, my uncle, everyone",
    }.items()
)
SINGULAR = frozenset(singular for singular, _, _ in AUXILIARIES + FULL_VERBS)
PLURAL = frozenset(plural for _, plural, _ in AUXILIARIES + FULL_VERBS)


def is_held_out(head: str, attractor: str) -> bool:
    """Whether no subject in training has both, in these places and in any number."""
    if head in SHORT_ONLY or attractor in SHORT_ONLY or head == attractor:
        return True
    return (NOUNS.index(head) + 2 * NOUNS.index(attractor)) % 5 == 0


def inflect(noun: str, plural: bool) -> str:
    """The noun in its number."""
    return PLURALS.get(noun, f"{noun}s") if plural else noun


def write(rng: Random) -> Document:
    """Three or four sentences, two of five with no phrase in the subject."""
    return Document(" ".join(_sentence(rng) for _ in range(rng.randint(3, 4))))


def _sentence(rng: Random) -> str:
    plural = rng.random() < 0.5
    head = rng.choice(NOUNS)
    subject = f"The {_noun(rng, head, plural)}"
    if head in LONG and rng.random() < 0.7:
        subject += _phrases(rng, head)
    verbs = AUXILIARIES if rng.random() < 0.6 else FULL_VERBS
    singular_form, plural_form, rests = rng.choice(verbs)
    return f"{subject} {plural_form if plural else singular_form} {rng.choice(rests)}."


def _phrases(rng: Random, head: str) -> str:
    kind = rng.choices(("place", "clause", "both"), weights=(60, 25, 15))[0]
    clause = _clause(rng) if kind != "place" else ""
    if kind == "clause":
        return clause
    attractor = rng.choice([noun for noun in NOUNS if not is_held_out(head, noun)])
    return _place(rng, attractor, rng.random() < 0.5) + clause


def _place(rng: Random, noun: str, plural: bool) -> str:
    return f" {rng.choice(PREPOSITIONS)} the {_noun(rng, noun, plural)}"


def _clause(rng: Random) -> str:
    person = inflect(rng.choice(PERSONS), rng.random() < 0.5)
    return f" that the {person} {rng.choice(PAST)}"


def _noun(rng: Random, noun: str, plural: bool) -> str:
    adjective = f"{rng.choice(ADJECTIVES)} " if rng.random() < 0.4 else ""
    return adjective + inflect(noun, plural)


def _cases(rng: Random, n: int, kind: str) -> list[Case]:
    heads = SHORT_ONLY if kind == "short" else LONG
    found: dict[str, Case] = {}
    while len(found) < n:
        head, attractor = rng.choice(heads), rng.choice(LONG)
        plural, other = rng.random() < 0.5, rng.random() < 0.5
        if head == attractor or not is_held_out(head, attractor):
            continue
        if kind == ("other" if plural == other else "same"):
            continue
        clause = _clause(rng) if rng.random() < 0.2 else ""
        text = f"The {_noun(rng, head, plural)}{_place(rng, attractor, other)}{clause}"
        label = "plural" if plural else "singular"
        found[text] = Case(text, chat=False, label=label, topic=f"{head} {attractor}", demand=label)
    return list(found.values())


def agrees(case: Case, completion: str) -> bool:
    """Whether the verb, which may follow another phrase, is in the number of the subject.

    The past tense of a clause ("that the boy found") has one form and does not count.
    """
    said = completion.partition(".")[0].split()
    verb = next((word for word in said if word in SINGULAR | PLURAL), None)
    return verb in (PLURAL if case.label == "plural" else SINGULAR)


AGREEMENT = Behaviour(
    name="agreement",
    weight=0.07,
    write=write,
    checks=tuple(
        Check(
            partial(_cases, kind=kind),
            (Measure(name, agrees, low=0.95, target=kind == "short"),),
            n_tokens=16,
        )
        for kind, name in (
            ("same", "agreement, attractor of the same number"),
            ("other", "agreement, attractor of the other number"),
            ("short", "agreement, nouns known from short sentences"),
        )
    ),
)
