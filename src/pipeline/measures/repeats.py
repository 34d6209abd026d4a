"""Expected accuracy with n of R completions of a prompt, exact over all subsets of n.

An average over all subsets uses every completion for every n and has no bias, unlike the first n
completions (all that is above chance) or draws with replacement. Source: Chen et al. 2021 (pass@k).
"""

from collections.abc import Hashable, Sequence
from math import comb

import numpy as np
from jaxtyping import Bool, Float


def any_right(right: Bool[np.ndarray, " completion"], n: int) -> float:
    """Compute P(a subset of n has a right completion) = 1 - C(R - c, n) / C(R, n), c right ones."""
    total, wrong = len(right), int((~right).sum())
    return 1 - comb(wrong, n) / comb(total, n)


def best_of(
    right: Bool[np.ndarray, " completion"], value: Float[np.ndarray, " completion"], n: int
) -> float:
    """Compute P(the completion with the largest value in a subset of n is right).

    With g completions of a value and l of lower ones, the value is the largest of a subset with
    probability (C(l + g, n) - C(l, n)) / C(R, n); among equal values the draw is at random.
    """
    expected = 0.0
    for level in np.unique(value):
        group, lower = right[value == level], int((value < level).sum())
        expected += float(group.mean()) * (comb(lower + len(group), n) - comb(lower, n))
    return expected / comb(len(right), n)


def majority(answers: Sequence[Hashable], correct: Hashable, n: int) -> float:
    """Compute P(`correct` is the most frequent answer in a subset of n); ties are drawn at random.

    An answer of None is no vote. Sums over the number of votes v for `correct` and t answers that
    tie with it: C(c, v) [x^(n - v) y^t] prod_a (sum_{i < v} C(c_a, i) x^i + C(c_a, v) x^v y) /
    (t + 1), with c_a the count of another answer.
    """
    counts: dict[Hashable, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    for_correct, silent = counts.pop(correct, 0), counts.pop(None, 0)
    won = 0.0
    for votes in range(1, min(for_correct, n) + 1):
        # Ways to draw the completions that do not vote for `correct`, by (drawn, tied answers).
        ways = {(drawn, 0): comb(silent, drawn) for drawn in range(silent + 1)}
        for count in counts.values():
            further: dict[tuple[int, int], int] = {}
            for (drawn, tied), number in ways.items():
                for i in range(min(count, votes, n - votes - drawn) + 1):
                    key = (drawn + i, tied + (i == votes))
                    further[key] = further.get(key, 0) + number * comb(count, i)
            ways = further
        won += comb(for_correct, votes) * sum(
            number / (tied + 1) for (drawn, tied), number in ways.items() if drawn == n - votes
        )
    return won / comb(len(answers), n)
