"""Senses: contexts go with predicates of one sense, held-out contexts stay out."""

import re
from random import Random

import pytest

from pipeline.embedded.behaviours import senses
from pipeline.embedded.documents import Case
from pipeline.embedded.vocabulary.senses import SENSES

RNG = Random(1)
DOCUMENTS = [senses.write(RNG).text for _ in range(4000)]
BOTH = [(word, sense) for word, both in SENSES.items() for sense in both]


def pattern(frame):
    return re.compile(re.sub(r"\\{(name|relative)\\}", r"\\w+", re.escape(frame)).replace(
        r"\{cue\}", "(.+)"
    ))  # fmt: skip


PATTERNS = {frame: pattern(frame) for frame in (*senses.FRAMES, *senses.HELD_OUT_FRAMES)}


def read(sentence):
    """Frame and cue of a context, or None."""
    found = [(frame, match[1]) for frame, p in PATTERNS.items() if (match := p.fullmatch(sentence))]
    return found[0] if found else None


def test_senses_share_neither_cues_nor_own_words():
    for word, (first, second) in SENSES.items():
        assert not set(first.cues) & set(second.cues)
        assert not senses.own_words(word, first) & senses.own_words(word, second)
        for sense in (first, second):
            assert len(sense.cues) == 6 and len(sense.predicates) == 4
            for predicate in sense.predicates:
                assert set(predicate.split()) & senses.own_words(word, sense), predicate
    assert len(SENSES) >= 12


def test_contexts_beside_a_word_are_of_the_sense_its_predicate_has():
    by_predicate = {
        f"The {word} {predicate}.": sense for word, sense in BOTH for predicate in sense.predicates
    }
    met = set()
    for text in DOCUMENTS:
        sentences = re.findall(r"[^.]+\.", text)
        told = [(i, s.strip()) for i, s in enumerate(sentences) if s.strip() in by_predicate]
        if len(told) > 1:
            continue
        sense = by_predicate[told[0][1]]
        contexts = [read(s.strip()) for i, s in enumerate(sentences) if i != told[0][0]]
        for frame, cue in contexts:
            assert cue in sense.cues and not senses.is_held_out(sense, cue, frame), text
            met.add(cue)
    assert met == {cue for _, sense in BOTH for cue in sense.cues}


def test_held_out_contexts_are_in_no_document():
    shown = {read(s.strip()) for text in DOCUMENTS for s in re.findall(r"[^.]+\.", text)}
    held_out = set()
    for case in senses.cases(Random(2), 400):
        context, rest = case.prompt.split(". ")
        assert rest == f"The {case.topic}"
        held_out.add(read(context + "."))
    assert None not in held_out and not held_out & shown
    assert {frame for frame, _ in held_out} == set(PATTERNS)


@pytest.mark.parametrize(
    ("completion", "good"),
    [
        (" kept the money in a safe. The bank had soft grass.", True),
        (" was steep and slippery.", False),
        (" kept the money in soft grass.", False),
        (" was here.", False),
    ],
)
def test_shown_wants_the_right_sense_alone_in_the_first_sentence(completion, good):
    case = Case("Emma talked about a loan. The bank", chat=False, label="money", topic="bank")
    assert senses.shown(case, completion) == good
