"""Facts: nine relations of countries and of invented people, told in plain text and asked in chat.

told  = carrier(telling(subject) object) | object-first sentence
asked = carrier(question(subject)) -> the object in a short answer

Four relations of 52 countries, four of 48 people, and the country of birth of 96 people: 496 facts,
each true in every document. In tellings the object stands last, so that everything before it is a
prompt. A plain document has three to five facts, a third of the time all of one subject if it has
that many. Held out are phrasings, for all subjects of a relation: each of its cores misses one
carrier, which it has with the relation's other cores and with other relations. A telling by itself
and a question by itself are never held out.
"""

from collections.abc import Iterable
from functools import partial
from itertools import chain, zip_longest
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.relations import RELATIONS, Relation
from pipeline.embedded.vocabulary.stories import NAMES, PLACES

RELATED = tuple((relation, subject) for relation in RELATIONS for subject in relation.objects)
"""Relation and subject of every fact."""

CARRIERS = {
    "tellings": (
        "{core}.",
        "everyone knows that {core}.",
        "it is true that {core}.",
        "{name} says that {core}.",
        "at the {place} {name} learnt that {core}.",
        "in a book {name} read that {core}.",
        "the teacher told {name} that {core}.",
        "as we all know, {core}.",
    ),
    "questions": (
        "{core}?",
        "please, {core}?",
        "answer me briefly: {core}?",
        "my friend {name} asks: {core}?",
        "a quick question: {core}?",
    ),
    "requests": (
        "tell me {core}.",
        "do you know {core}?",
        "I would like to know {core}.",
        "can you tell me {core}?",
        "please tell {name} {core}.",
    ),
}


def phrasings(relation: Relation, kind: str, *, held_out: bool = False) -> list[str]:
    """Sentences with {s}, {o}, {name} and {place} to fill in, of a kind in `CARRIERS`."""
    carriers = CARRIERS[kind]
    cores: tuple[str, ...] = getattr(relation, kind)
    shift = RELATIONS.index(relation)
    found = []
    for i, core in enumerate(cores):
        missing = 1 + (i + shift) % (len(carriers) - 1)
        for place, carrier in enumerate(carriers):
            if (place == missing) == held_out:
                found.append(capitalise(carrier.replace("{core}", core)))
    return found


def capitalise(sentence: str) -> str:
    """With a capital first letter."""
    return sentence[0].upper() + sentence[1:]


def write(rng: Random) -> Document:
    """A question with its answer a third of the time, else three to five facts."""
    if rng.random() < 1 / 3:
        relation, subject = rng.choice(RELATED)
        kind = rng.choice(("questions", "requests"))
        asked = _fill(rng, rng.choice(phrasings(relation, kind)), relation, subject)
        return Document(_fill(rng, relation.answer, relation, subject), asked)
    facts = rng.sample(RELATED, rng.randint(3, 5))
    if rng.random() < 1 / 3:
        about = facts[0][1]
        same = [(relation, about) for relation in RELATIONS if about in relation.objects]
        facts = rng.sample(same, len(same)) if len(same) > 1 else facts
    return Document(" ".join(tell(rng, relation, subject) for relation, subject in facts))


def tell(rng: Random, relation: Relation, subject: str) -> str:
    """A fact in a trained sentence: by itself 45, carried 45, the object first 10 % of the time."""
    kind = rng.choices(("bare", "carried", "reverse"), weights=(45, 45, 10))[0]
    if kind == "bare":
        form = capitalise(rng.choice(relation.tellings)) + "."
    elif kind == "carried":
        form = rng.choice(phrasings(relation, "tellings"))
    else:
        form = capitalise(relation.reverse) + "."
    return capitalise(_fill(rng, form, relation, subject))


def prompt(rng: Random, form: str, relation: Relation, subject: str) -> Case:
    """What comes before the object of a telling; a good completion has the object and a stop."""
    object_ = relation.objects[subject]
    text = _fill(rng, form, relation, subject).removesuffix(f" {object_}.")
    return Case(text, chat=False, label=relation.name, topic=subject, demand=f"{object_}.")


def completed(case: Case, completion: str) -> bool:
    """Whether the completion begins with what is demanded."""
    return completion.strip().startswith(case.demand)


def _fill(rng: Random, form: str, relation: Relation, subject: str) -> str:
    name, place = rng.choice(NAMES)[0], rng.choice(PLACES)
    return form.format(s=subject, o=relation.objects[subject], name=name, place=place)


def _balanced(rng: Random) -> Iterable[tuple[Relation, str]]:
    """All facts, relation after relation in turn."""
    columns = [
        [
            (relation, subject)
            for subject in rng.sample(list(relation.objects), len(relation.objects))
        ]
        for relation in RELATIONS
    ]
    return (fact for fact in chain.from_iterable(zip_longest(*columns)) if fact is not None)


def _cases(rng: Random, n: int, kinds: tuple[str, ...], held_out: bool) -> list[Case]:
    cases = []
    for relation, subject in list(_balanced(rng))[:n]:
        kind = rng.choice(kinds)
        form = rng.choice(phrasings(relation, kind, held_out=held_out))
        if kind == "tellings":
            cases.append(prompt(rng, form, relation, subject))
        else:
            asked = _fill(rng, form, relation, subject)
            answer = _fill(rng, relation.answer, relation, subject)
            cases.append(Case(asked, label=relation.name, topic=subject, demand=answer))
    return cases


FACTS = Behaviour(
    name="facts",
    weight=0.13,
    write=write,
    checks=tuple(
        Check(
            cases=partial(_cases, kinds=kinds, held_out=held_out),
            measures=(Measure(f"facts {how}, {which} phrasings", completed, low=low),),
            n_tokens=10,
        )
        for how, kinds in (("told", ("tellings",)), ("asked", ("questions", "requests")))
        for which, held_out, low in (("trained", False, 0.95), ("held-out", True, 0.85))
    ),
)
