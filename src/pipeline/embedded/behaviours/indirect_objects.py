"""Indirect objects: two people are somewhere, one gives something, and the other gets it.

story = opening(A, B, place) [between] giver(S, thing) receiver "." [ending]

The giver S is A or B, the receiver the other one (orders ABBA and BABA by which stands where), so
that a story up to its last name is a prompt. In 1 of 16 stories a third person gives, and A or B
gets it by chance: nothing in the text decides. Held out are pairs of names, in either order (a
fifth of 435), and a tenth of the combinations of 10 openings and 8 givings.
"""

from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.stories import NAMES, PLACES

PEOPLE = tuple(name for name, _ in NAMES)
THINGS = words(
    "book ring drink ball kite lamp letter basket flower hat map coin toy cake key pencil"
)
# No name begins a document: a word is another token there, without a blank before it.
OPENINGS = (
    "When {a} and {b} went to the {place},",
    "When {a} and {b} came to the {place},",
    "After {a} and {b} met at the {place},",
    "While {a} and {b} were at the {place},",
    "As {a} and {b} left the {place},",
    "Yesterday {a} and {b} went to the {place}.{between} Then",
    "In the evening {a} and {b} were near the {place}.{between} Later",
    "Last week {a} met {b} at the {place}.{between} There",
    "One day {a} saw {b} near the {place}.{between} Then",
    "That day {a} was with {b} at the {place}.{between} Later",
)
BETWEEN = ("", " It was cold.", " They talked for an hour.", " The sun was warm.", " It rained.")
GIVINGS = (
    "{s} gave a {thing} to {io}.",
    "{s} handed a {thing} to {io}.",
    "{s} sold a {thing} to {io}.",
    "{s} lent a {thing} to {io}.",
    "{s} brought a {thing} to {io}.",
    "{s} showed a {thing} to {io}.",
    "{s} passed a {thing} to {io}.",
    "{s} decided to give a {thing} to {io}.",
)
ENDINGS = (
    "{io} thanked {s}.",
    "{io} was happy with the {thing}.",
    "{io} did not want it.",
    "Then {s} went home.",
    "{io} put the {thing} away.",
)


def is_held_out_pair(a: str, b: str) -> bool:
    """Whether training tells of these two never together."""
    return (PEOPLE.index(a) + PEOPLE.index(b)) % 5 == 0


def is_held_out_form(opening: str, giving: str) -> bool:
    """Whether training never combines these two."""
    return (OPENINGS.index(opening) - GIVINGS.index(giving)) % 10 == 0


def write(rng: Random) -> Document:
    """One or two stories, each of people, place and thing of its own."""
    return Document(" ".join(_story(rng) for _ in range(rng.choice((1, 2, 2)))))


def _story(rng: Random) -> str:
    a, b = _pair(rng, held_out=False)
    opening, giving = _form(rng, held_out=False)
    s, io = rng.sample((a, b), 2)
    if rng.random() < 1 / 16:
        s = rng.choice([name for name in PEOPLE if name not in (a, b)])
    ending = " " + rng.choice(ENDINGS) if rng.random() < 0.6 else ""
    return _tell(rng, f"{opening} {giving}{ending}", a=a, b=b, s=s, io=io)


def _pair(rng: Random, held_out: bool) -> tuple[str, str]:
    while True:
        a, b = rng.sample(PEOPLE, 2)
        if is_held_out_pair(a, b) == held_out:
            return a, b


def _form(rng: Random, held_out: bool) -> tuple[str, str]:
    while True:
        opening, giving = rng.choice(OPENINGS), rng.choice(GIVINGS)
        if is_held_out_form(opening, giving) == held_out:
            return opening, giving


def _tell(rng: Random, form: str, **people: str) -> str:
    return form.format(
        place=rng.choice(PLACES), thing=rng.choice(THINGS), between=rng.choice(BETWEEN), **people
    )


def cases(rng: Random, n: int) -> list[Case]:
    """Held-out pairs in held-out forms, half in either order, up to the receiver's name."""
    found = []
    for number in range(n):
        a, b = _pair(rng, held_out=True)
        opening, giving = _form(rng, held_out=True)
        order, s, io = ("ABBA", b, a) if number % 2 else ("BABA", a, b)
        form = f"{opening} {giving}".removesuffix(" {io}.")
        found.append(
            Case(
                _tell(rng, form, a=a, b=b, s=s),
                chat=False,
                label=order,
                topic=" and ".join(sorted((a, b))),
                demand=io,
            )
        )
    return found


def received(case: Case, completion: str) -> bool:
    """Whether the first word is the name of the receiver."""
    return completion.replace(".", " ").split()[:1] == [case.demand]


INDIRECT_OBJECTS = Behaviour(
    name="indirect objects",
    weight=0.06,
    write=write,
    checks=(Check(cases, (Measure("indirect objects named", received, low=0.95),), n_tokens=4),),
)
