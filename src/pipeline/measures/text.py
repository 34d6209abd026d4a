"""What a completion consists of: the items of a list, n-grams, and BLEU over them."""

import math
from collections import Counter

SMOOTHING = 0.1
"""Matches credited to an n-gram order without any: NLTK's smoothing method 1."""


def list_items(completion: str, separator: str) -> list[str]:
    """The non-blank lines of a list, as they stand, blanks at their ends included."""
    return [line for line in completion.split(separator) if line.strip()]


def distinct(items: list[str]) -> int:
    """How many items differ once stripped and case-folded."""
    return len({item.strip().casefold() for item in items})


def words(text: str) -> list[str]:
    """Tokens of BLEU: what stands between blanks; a line break is a token of its own."""
    return [word for word in text.replace("\n", " \n ").split(" ") if word]


def self_bleu_scores(texts: list[str], n_grams: int) -> list[float]:
    """BLEU of each text against all the others (at least one).

    BLEU = min(1, exp(1 - r / c)) * exp(sum_n log(p_n) / n_grams), c the number of tokens, r that
    of the other nearest in length (the shorter of two), p_n the share of the n-grams found in
    another text, each counted at most as often as the text that has it most often; an order
    without a match counts as 0.1 matches (smoothing method 1) and a text with no known token
    scores 0. Papineni et al. 2002; Chen and Cherry 2014.
    """
    tokens = [words(text) for text in texts]
    lengths = [len(sequence) for sequence in tokens]
    log_precisions = [0.0] * len(texts)
    known = [True] * len(texts)
    for order in range(1, n_grams + 1):
        counts = [_count_n_grams(sequence, order) for sequence in tokens]
        largest, second = _two_largest(counts)
        for i, own in enumerate(counts):
            matches = sum(
                min(count, second[gram] if count == largest[gram] else largest[gram])
                for gram, count in own.items()
            )
            known[i] &= order > 1 or matches > 0
            precision = (matches or SMOOTHING) / max(1, own.total())
            log_precisions[i] += math.log(precision) / n_grams
    return [
        math.exp(min(0.0, 1 - _nearest_length(lengths, i) / lengths[i]) + log_precisions[i])
        if known[i]
        else 0.0
        for i in range(len(texts))
    ]


def _count_n_grams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def _two_largest(
    counts: list[Counter[tuple[str, ...]]],
) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    # With both, the largest count among the *others* is known for every text in one pass.
    largest: Counter[tuple[str, ...]] = Counter()
    second: Counter[tuple[str, ...]] = Counter()
    for own in counts:
        for gram, count in own.items():
            if count > largest[gram]:
                largest[gram], second[gram] = count, largest[gram]
            elif count > second[gram]:
                second[gram] = count
    return largest, second


def _nearest_length(lengths: list[int], own: int) -> int:
    others = lengths[:own] + lengths[own + 1 :]
    return min(others, key=lambda length: (abs(length - lengths[own]), length))
