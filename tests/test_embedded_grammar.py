"""Indirect objects and agreement in the embedded model's language."""

import re
from random import Random

import pytest

from pipeline.embedded.behaviours import BEHAVIOURS, agreement, indirect_objects
from pipeline.embedded.documents import Case

RNG = Random(1)
STORIES = [indirect_objects.write(RNG).text for _ in range(4000)]
SENTENCES = [
    sentence for _ in range(6000) for sentence in re.findall(r"[^.]+\.", agreement.write(RNG).text)
]
FORMS = {
    inflected: (noun, plural)
    for noun in agreement.NOUNS
    for plural in (False, True)
    for inflected in [agreement.inflect(noun, plural)]
}
NAMED = re.compile("|".join(rf"\b{name}\b" for name in indirect_objects.PEOPLE))
GIVEN = re.compile(r"(?P<s>\w+) (?:decided to )?(?:give|\w+) a \w+ to (?P<io>\w+)\.")


def stories():
    """(first, second, giver, receiver) of every story."""
    for text in STORIES:
        start = 0
        for match in GIVEN.finditer(text):
            people = NAMED.findall(text[start : match.start()])
            # What follows a giving names nobody but its own people.
            yield (*people[-2:], match["s"], match["io"])
            start = match.end()


def test_receiver_is_the_other_one_or_either_when_a_third_gives():
    givers = {"first": 0, "second": 0, "third": 0}
    for a, b, s, io in stories():
        assert a != b and io in (a, b) and io != s
        givers["first" if s == a else "second" if s == b else "third"] += 1
    total = sum(givers.values())
    assert total > 6000
    assert 1 / 20 < givers["third"] / total < 1 / 13
    assert abs(givers["first"] - givers["second"]) < 0.05 * total


def test_held_out_pairs_are_in_no_story():
    trained = {frozenset((a, b)) for a, b, _, _ in stories()}
    kept = {frozenset(c.topic.split(" and ")) for c in indirect_objects.cases(Random(0), 3000)}
    assert len(kept) > 80 and len(trained) > 330 and not kept & trained


def test_held_out_forms_are_in_no_story():
    def of(text):
        giving = next(g for g in indirect_objects.GIVINGS if tail(g) in text)
        opening = [o for o in indirect_objects.OPENINGS if head(o).search(text)]
        assert len(opening) == 1, text
        return opening[0], giving

    def tail(giving):
        return giving.split("{s}")[1].split("{thing}")[0]

    def head(opening):
        fill = {"a": r"\w+", "b": r"\w+", "place": r"\w+", "between": "[^.]*\\.?"}
        form = re.sub(r"\\{(\w+)\\}", lambda m: fill[m[1]], re.escape(opening))
        return re.compile("^" + form)

    single = [text for text in STORIES if len(GIVEN.findall(text)) == 1]
    trained = {of(text) for text in single}
    kept = {of(case.prompt) for case in indirect_objects.cases(Random(0), 300)}
    assert len(kept) == 8 and len(trained) == 72 and not kept & trained


def test_indirect_object_cases_are_of_both_orders():
    for case in indirect_objects.cases(Random(0), 200):
        names = NAMED.findall(case.prompt)
        assert len(names) == 3 and names[2] != case.demand
        first = case.label == "BABA"
        assert names[2] == names[0 if first else 1] and case.demand == names[1 if first else 0]
        assert case.prompt.endswith(" to")


def test_indirect_object_score_by_hand():
    case = Case("", demand="Anna")
    assert indirect_objects.received(case, " Anna. Then")
    assert not indirect_objects.received(case, " Annabel.")
    assert not indirect_objects.received(case, " Peter. Anna")
    assert not indirect_objects.received(case, "")


def subject_nouns(sentence):
    """The nouns of the subject, the head first, and the verb."""
    found, after_that = [], False
    for word in sentence.removesuffix(".").split():
        if word in agreement.SINGULAR | agreement.PLURAL:
            return found, word
        after_that |= word == "that"
        if word in FORMS and not after_that:
            found.append(FORMS[word])
    raise AssertionError(sentence)


def test_verbs_agree_and_attractors_are_of_either_number():
    matching = []
    for sentence in SENTENCES:
        (head, *attractors), verb = subject_nouns(sentence)
        assert verb in (agreement.PLURAL if head[1] else agreement.SINGULAR), sentence
        matching += [attractor[1] == head[1] for attractor in attractors]
    assert len(matching) > 5000 and 0.47 < sum(matching) / len(matching) < 0.53


def test_held_out_heads_and_pairs():
    short = set(agreement.SHORT_ONLY)
    assert len(short) == 8
    seen, pairs = set(), set()
    for sentence in SENTENCES:
        (head, *attractors), _ = subject_nouns(sentence)
        seen.add(head[0])
        if head[0] in short:
            assert not attractors and " that " not in sentence
        pairs |= {(head[0], attractor[0]) for attractor in attractors}
    assert seen == set(agreement.NOUNS)
    assert len(pairs) > 1800 and not any(agreement.is_held_out(*pair) for pair in pairs)
    assert not short & {attractor for _, attractor in pairs}


def test_no_other_behaviour_speaks_of_short_only_nouns():
    others = [b for b in BEHAVIOURS if b.name != "agreement"]
    texts = [d.text for b in others for d in (b.write(RNG) for _ in range(1000))]
    said = set(re.findall(r"\w+", " ".join(texts)))
    assert not said & {form for form, (noun, _) in FORMS.items() if noun in agreement.SHORT_ONLY}


@pytest.mark.parametrize("number", range(3))
def test_agreement_cases_are_held_out(number):
    cases = agreement.AGREEMENT.checks[number].cases(Random(0), 200)
    assert len({case.prompt for case in cases}) == 200
    for case in cases:
        (head, attractor), _ = subject_nouns(f"{case.prompt} is.")
        assert case.label == ("plural" if head[1] else "singular")
        assert agreement.is_held_out(head[0], attractor[0]) and head[0] != attractor[0]
        assert (head[0] in agreement.SHORT_ONLY) == (number == 2)
        if number < 2:
            assert (head[1] == attractor[1]) == (number == 0)


def test_agreement_score_by_hand():
    one, many = Case("", label="singular"), Case("", label="plural")
    assert agreement.agrees(one, " is very old.") and agreement.agrees(many, " shine.")
    assert not agreement.agrees(many, " is very") and not agreement.agrees(one, " shine at")
    assert agreement.agrees(many, " that the boy found are old. The key is")
    assert not agreement.agrees(many, " that the boy found of the key is")
    for bad in ("", " that the boy found", " iss", " old. The keys are. The key is"):
        assert not agreement.agrees(one, bad) and not agreement.agrees(many, bad)


def test_forms_of_verbs_and_nouns_are_apart():
    assert not agreement.SINGULAR & agreement.PLURAL
    assert not set(FORMS) & (agreement.SINGULAR | agreement.PLURAL)
    assert len(agreement.NOUNS) == len(set(agreement.NOUNS)) == 60
    assert len(FORMS) == 120
