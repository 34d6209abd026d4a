"""Expected accuracy of n completions against the mean over all subsets, listed one by one."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.metrics import final_number_right
from pipeline.measures.repeats import any_right, best_of, majority
from pipeline.measures.text import final_number


def cases(count=40):
    rng = np.random.default_rng(0)
    for _ in range(count):
        total = int(rng.integers(1, 8))
        answers = [[None, 5, 6, 7][int(i)] for i in rng.integers(0, 4, total)]
        # Few values, so that ties occur.
        yield answers, rng.integers(0, 4, total).astype(float)


def subsets(total, n):
    return list(combinations(range(total), n))


def voted(answers, correct) -> float:
    counts = {a: answers.count(a) for a in answers if a is not None}
    if counts.get(correct, 0) < max(counts.values(), default=1):
        return 0.0
    return 1 / sum(count == counts[correct] for count in counts.values())


def test_every_rule_is_the_mean_over_all_subsets():
    for answers, values in cases():
        right = np.array([answer == 5 for answer in answers])
        for n in range(1, len(answers) + 1):
            drawn = [list(s) for s in subsets(len(answers), n)]
            anywhere = np.mean([right[s].any() for s in drawn])
            best = np.mean([right[s][values[s] == values[s].max()].mean() for s in drawn])
            vote = np.mean([voted([answers[i] for i in s], 5) for s in drawn])
            assert any_right(right, n) == pytest.approx(anywhere)
            assert best_of(right, values, n) == pytest.approx(best)
            assert majority(answers, 5, n) == pytest.approx(vote)


def test_a_verifier_that_knows_reaches_the_ceiling_and_one_that_does_not_gains_nothing():
    right = np.array([True, False, False, True, False, False])
    for n in range(1, 7):
        assert best_of(right, right.astype(float), n) == pytest.approx(any_right(right, n))
        assert best_of(right, np.zeros(6), n) == pytest.approx(1 / 3)
        assert best_of(right, -right.astype(float), n) == pytest.approx(comb(2, n) / comb(6, n))


def test_majority_amplifies_what_is_more_frequent_than_every_other_answer():
    frequent, rare = [5] * 8 + [6] * 4 + [7] * 4, [5] * 4 + [6] * 8 + [7] * 4
    up, down = ([majority(answers, 5, n) for n in (1, 3, 5, 9)] for answers in (frequent, rare))
    assert up[0] == pytest.approx(0.5) and (np.diff(up) > 0.02).all()
    assert down[0] == pytest.approx(0.25) and (np.diff(down) < -0.02).all()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 + 5 = 8. The answer is 13.", 13),
        ("1,200.", 1200),
        ("it is **-3.5** now", Fraction(-7, 2)),
        ("10-3", 3),
        ("none", None),
        ("12,3456", 3456),
        ("so .5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("wait ...5", 5),
        ("No.5", 5),
        ("\N{MINUS SIGN}3", -3),
        ("x=\N{MINUS SIGN}3.25.", Fraction(-13, 4)),
        ("10\N{MINUS SIGN}3", 3),
        ("+7", 7),
        ("1e5", 100_000),
        ("2.5E-3", Fraction(1, 400)),
        ("1e\N{MINUS SIGN}2", Fraction(1, 100)),
        ("5eggs", 5),
        ("1,234,567.5", Fraction(2_469_135, 2)),
        ("1234,567", 567),
        ("1.000", 1),
        ("1.000.000", 1_000_000),
        ("1.000.000,25", Fraction(4_000_001, 4)),
        ("1\N{NARROW NO-BREAK SPACE}200\N{NARROW NO-BREAK SPACE}000", 1_200_000),
        ("1'200", 1200),
        ("10 000", 0),
        ("at 10:45", 45),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert final_number(text) == number


def test_a_number_may_be_longer_than_python_reads_as_text():
    equal = final_number("so " + "9" * 5000) == 10**5000 - 1
    assert equal


def test_final_numbers_are_compared_as_numbers():
    samples = pd.DataFrame(
        {
            "completion": ["so 13.", "13.0", "31", "", "13 or 14", "13", "5", "0.5", "-3", "1e3"],
            "demand": [*["13"] * 5, "many", ".5", ".5", "\N{MINUS SIGN}3", "1,000"],
        }
    )
    expected = [1, 1, 0, 0, 0, np.nan, 0, 1, 1, 1]
    np.testing.assert_array_equal(final_number_right(samples), expected)
