"""Facts of the embedded model's language: documents tell the truth, held-out phrasings stay out."""

import re
from random import Random

import pytest

from pipeline.embedded.behaviours import facts, hops
from pipeline.embedded.documents import Case
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.people import LAST_NAMES, PEOPLE, WELL_KNOWN
from pipeline.embedded.vocabulary.relations import RELATIONS
from pipeline.embedded.vocabulary.stories import NAMES, PLACES

RNG = Random(1)
DOCUMENTS = [facts.write(RNG) for _ in range(6000)]
COMPOSED = [hops.write(RNG) for _ in range(4000)]
NAME = "|".join(name for name, _ in NAMES)
FILLS = {
    "s": r"(?P<s>[A-Z]\w+(?: [A-Z]\w+)?)",
    "o": r"(?P<o>\w+)",
    "name": f"(?:{NAME})",
    "place": f"(?:{'|'.join(PLACES)})",
}


def pattern(form):
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda m: FILLS[m[1]], re.escape(form)))


def sentences(text):
    return re.findall(r"[^.]+\.", text)


OBJECTS = {relation.name: relation.objects for relation in (*RELATIONS, *hops.COMPOSITIONS)}


def longest(form):
    return max(re.split(r"\{\w+\}", form), key=len)


# The longest literal part of a form is looked for first: it is faster than the pattern.
TOLD = [
    (longest(form), pattern(form), relation)
    for relation in (*RELATIONS, *hops.COMPOSITIONS)
    for form in (
        *(facts.capitalise(f"{core}.") for core in (*relation.tellings, relation.reverse)),
        *(facts.phrasings(relation, "tellings") if relation in RELATIONS else ()),
    )
]


def parse(sentence):
    """Relation, subject and object of the one form that a sentence has."""
    found = {
        (relation.name, match["s"], match["o"])
        for part, form, relation in TOLD
        if part in sentence and (match := form.fullmatch(sentence.strip()))
    }
    assert len(found) == 1, (sentence, found)
    return found.pop()


def told(documents):
    return [parse(s) for d in documents if d.instruction is None for s in sentences(d.text)]


def test_plain_documents_tell_the_truth_and_every_fact():
    seen = set()
    for name, subject, object_ in told(DOCUMENTS):
        assert object_ in (OBJECTS[name][subject], OBJECTS[name][subject].capitalize())
        seen.add((name, subject))
    assert seen == {(relation.name, subject) for relation, subject in facts.RELATED}


def test_answers_are_true():
    forms = {
        pattern(form): relation
        for relation in RELATIONS
        for kind in ("questions", "requests")
        for form in facts.phrasings(relation, kind)
    }
    asked = [d for d in DOCUMENTS if d.instruction is not None]
    assert 0.3 < len(asked) / len(DOCUMENTS) < 0.37
    for d in asked[:500]:
        (relation, subject), *others = [
            (relation, match["s"])
            for form, relation in forms.items()
            if (match := form.fullmatch(d.instruction))
        ]
        assert not others
        assert d.text == relation.answer.format(o=relation.objects[subject])


@pytest.mark.parametrize("kind", list(facts.CARRIERS))
def test_held_out_phrasings_are_never_trained(kind):
    texts = [d.instruction if kind != "tellings" else d.text for d in DOCUMENTS]
    corpus = "\n".join(text for text in texts if text)
    for relation in RELATIONS:
        kept = facts.phrasings(relation, kind, held_out=True)
        assert len(kept) == len(getattr(relation, kind)) >= 2
        for form in kept:
            assert not pattern(form).search(corpus), form
        trained = facts.phrasings(relation, kind)
        assert sum(bool(pattern(form).search(corpus)) for form in trained) == len(trained)


def test_six_relations_or_more_of_forty_subjects_or_more():
    assert len(RELATIONS) == 9 and len(facts.RELATED) == 4 * 52 + 96 + 4 * 48
    for relation in RELATIONS:
        assert len(relation.objects) >= 40
        assert relation.name == "continent" or len(set(relation.objects.values())) >= 8
        for form in relation.tellings:
            assert form.endswith("{o}") and "{s}" in form


def test_countries_and_people_are_their_own():
    assert len({c.name for c in COUNTRIES}) == len({c.capital for c in COUNTRIES}) == 52
    assert len(PEOPLE) == len(set(LAST_NAMES)) == 96
    assert not set(LAST_NAMES) & {name for name, _ in NAMES}
    assert {p.city for p in PEOPLE}.isdisjoint(c.capital for c in COUNTRIES)
    for first in {p.name.split()[0] for p in WELL_KNOWN}:
        same = [p for p in PEOPLE if p.name.startswith(f"{first} ")]
        assert len({p.country for p in same}) > 1


@pytest.mark.parametrize("check", facts.FACTS.checks)
def test_cases_cover_all_subjects_or_all_relations_alike(check):
    assert len({(c.label, c.topic) for c in check.cases(Random(0), 10_000)}) == len(facts.RELATED)
    few = [case.label for case in check.cases(Random(0), 90)]
    assert {few.count(relation.name) for relation in RELATIONS} == {10}


def test_prompts_end_before_the_object():
    for check in facts.FACTS.checks[:2]:
        for case in check.cases(Random(0), 500):
            relation = next(r for r in RELATIONS if r.name == case.label)
            assert not case.chat and case.prompt[-1].isalpha()
            assert case.demand == f"{relation.objects[case.topic]}."
            assert case.topic in case.prompt


def test_scores_by_hand():
    case = Case("The capital of France is", chat=False, demand="Paris.")
    assert facts.completed(case, " Paris. The") and not facts.completed(case, " Parish.")
    assert not facts.completed(case, " Rome. Paris.") and not facts.completed(case, "")


def test_compositions_are_true_and_told_of_some_only():
    composed = set()
    names = {relation.name for relation in hops.COMPOSITIONS}
    for name, subject, object_ in told(COMPOSED):
        assert OBJECTS[name][subject] == object_
        if name in names:
            composed.add((name, subject))
    assert composed == {(r.name, person) for r in hops.COMPOSITIONS for person in hops.TOLD}
    for d in COMPOSED:
        if d.instruction is not None:
            assert any(person in d.instruction for person in hops.TOLD)


def test_facts_compose_nothing():
    assert not any("the country where" in (d.instruction or d.text) for d in DOCUMENTS)


def test_composition_follows_both_hops():
    by_name = {country.name: country for country in COUNTRIES}
    capital, language = hops.COMPOSITIONS
    for person in PEOPLE:
        assert capital.objects[person.name] == by_name[person.country].capital
        assert language.objects[person.name] == by_name[person.country].language


def test_measures_of_compositions_count_their_people_alone():
    check = hops.HOPS.checks[-1]
    everyone, of_told, of_others = (m.score for m in check.measures)
    cases = check.cases(Random(0), 1000)
    assert len(cases) == 192
    for case in cases:
        right = f" {case.demand}"
        assert everyone(case, right) == 1
        counted, other = (of_told, of_others) if case.topic in hops.TOLD else (of_others, of_told)
        assert counted(case, right) == 1 and counted(case, " Nowhere.") == 0
        assert other(case, right) != other(case, right)
