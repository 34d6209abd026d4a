"""Steps: every addition is right, checked sums are new, the gap is that of paired sums."""

import re
from math import isnan
from random import Random

import pytest

from pipeline.embedded.behaviours import steps
from pipeline.embedded.behaviours.steps import WITH, WITHOUT

RNG = Random(1)
DOCUMENTS = [steps.write(RNG) for _ in range(6000)]
CHATS = [d for d in DOCUMENTS if d.instruction]
ADDITION = re.compile(r"(\d+) \+ (\d+) = (\d+)\.")


def digits_of(instruction):
    return tuple(map(int, re.findall(r"\d", instruction)))


def test_every_addition_and_every_answer_is_right():
    added = set()
    for d in DOCUMENTS:
        for a, b, c in ADDITION.findall(d.text):
            assert int(a) + int(b) == int(c)
            if d.instruction is None:
                added.add((int(a), int(b)))
    assert added == {(a, b) for a in range(46) for b in range(1, 10)}
    for d in CHATS:
        digits = digits_of(d.instruction)
        assert d.text.endswith(f"The answer is {sum(digits)}.")
        written = len(digits) - 1 if d.instruction.endswith(WITH) else 0
        assert len(ADDITION.findall(d.text)) == written


def test_steps_by_hand():
    assert steps.steps((3, 5, 4)) == "3 + 5 = 8. 8 + 4 = 12. The answer is 12."


def test_both_askings_have_the_same_sums():
    lengths = {
        asking: [len(digits_of(d.instruction)) for d in CHATS if d.instruction.endswith(asking)]
        for asking in (WITH, WITHOUT)
    }
    assert len(lengths[WITH]) == pytest.approx(len(lengths[WITHOUT]), rel=0.1)
    for n in (4, 5, 6):
        shares = [lengths[asking].count(n) / len(lengths[asking]) for asking in lengths]
        assert shares == pytest.approx([1 / 3, 1 / 3], abs=0.04)


def test_checked_sums_are_in_no_document():
    asked = {digits_of(d.instruction) for d in CHATS}
    checked = {digits_of(case.prompt) for case in steps.cases(Random(2), 300)}
    chosen = {digits_of(case.prompt) for case in steps.cases(Random(2), 300, "val")}
    assert len(checked) == len(chosen) == 150
    assert not asked & checked and not asked & chosen and not checked & chosen
    assert {steps.split_of(digits) for digits in asked} == {"train"}


def test_the_gap_is_the_difference_of_means_over_pairs():
    cases = steps.cases(Random(2), 8)
    assert [case.label for case in cases] == [WITH, WITHOUT] * 4
    assert all(a.topic == b.topic for a, b in zip(cases[::2], cases[1::2], strict=True))
    # Three of four right with steps, one of four without.
    wrong = {1, 3, 5, 6}
    texts = [
        "The answer is 0." if i in wrong else f"1 + 1 = 2. The answer is {case.demand}."
        for i, case in enumerate(cases)
    ]
    scored = list(zip(cases, texts, strict=True))
    assert sum(steps.gain(*each) for each in scored) / 8 == 3 / 4 - 1 / 4
    with_steps = [steps.right_with(*each) for each in scored]
    assert [isnan(score) for score in with_steps] == [False, True] * 4
    assert with_steps[::2] == [True, True, True, False]
    assert [steps.right_without(*each) for each in scored][1::2] == [False, False, False, True]
