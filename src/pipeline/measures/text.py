"""Text statistics of completions: list items, final numbers, n-grams and self-BLEU."""

import math
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pandas as pd

SMOOTHING = 0.1
"""Match count of an n-gram order without matches: NLTK's smoothing method 1."""

_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+")
_NUMBER = re.compile(
    r"""
    (?P<sign> (?<!\w) [-+\N{MINUS SIGN}] )?
    (?:
        (?P<dotted> [1-9]\d{0,2} (?: \.\d{3} ){2,9} (?!\.?\d) ) (?: ,(?P<after_comma> \d+ ) )?
      | (?P<whole>
            \d{1,3} (?P<mark> [,'’\u00a0\u2009\u202f] ) \d{3} (?: (?P=mark) \d{3} )* (?!\d)
          | \d+
        )
        (?: \.(?P<after_point> \d+ ) )?
      | (?<![\w.]) \.(?P<fraction> \d+ )
    )
    (?: [eE] (?P<exponent> [-+\N{MINUS SIGN}]? \d{1,3} ) (?!\w) )?
    """,
    re.VERBOSE,
)


def final_number(text: str) -> Fraction | None:
    """Return the last number of a text, exactly; None without one.

    Read as numbers: -3.5 and +3, also with the sign U+2212; .5; 2.5e-3; thousands as 1,200 and
    1'200, with no-break or thin spaces, or twice or more by points, as 1.000.000,5. A sign after a
    letter or digit is an operator. Else a comma or blank separates numbers: 3,5 ends in 5.
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    parts = {name: part or "" for name, part in numbers[-1].groupdict().items()}
    whole = re.sub(r"\D", "", parts["dotted"] + parts["whole"]) or "0"
    decimals = parts["after_comma"] + parts["after_point"] + parts["fraction"]
    power = (parts["exponent"] or "0").replace("\N{MINUS SIGN}", "-")
    # By way of Decimal: Python's int refuses texts of more than 4,300 digits.
    value = Fraction(Decimal(f"{whole}.{decimals or 0}e{power}"))
    return -value if parts["sign"] in ("-", "\N{MINUS SIGN}") else value


def spoken_units(text: str) -> list[str]:
    """Split a text into case-folded words of letters, and single Chinese characters."""
    return _UNIT.findall(text.casefold())


def list_items(completion: str, separator: str) -> list[str]:
    """Return the non-blank lines of a list, unstripped."""
    return [line for line in completion.split(separator) if line.strip()]


def distinct(items: list[str]) -> int:
    """Count distinct items after stripping and case folding."""
    return len({item.strip().casefold() for item in items})


def words(text: str) -> list[str]:
    """Split a text into BLEU tokens: blank-separated words and line breaks."""
    return [word for word in text.replace("\n", " \n ").split(" ") if word]


def self_bleu_scores(texts: list[str], n_grams: int) -> list[float]:
    """Compute BLEU of each text against all the others (at least one).

    BLEU = min(1, exp(1 - r / c)) * exp(sum_n log(p_n) / n_grams), c the number of tokens, r the
    length of the reference closest in length (the shorter of two), p_n the clipped n-gram
    precision: each n-gram counts at most as often as in the reference that has it most. An order
    without matches counts as 0.1 matches (smoothing method 1); a text without a matching token
    scores 0. Source: Papineni et al. 2002; Chen and Cherry 2014.
    """
    tokens = [words(text) for text in texts]
    lengths = [len(sequence) for sequence in tokens]
    log_precisions = [0.0] * len(texts)
    known = [True] * len(texts)
    for order in range(1, n_grams + 1):
        counts = [_count_n_grams(sequence, order) for sequence in tokens]
        largest, second = _two_largest(counts)
        for i, text_counts in enumerate(counts):
            matches = sum(
                min(count, second[gram] if count == largest[gram] else largest[gram])
                for gram, count in text_counts.items()
            )
            known[i] &= order > 1 or matches > 0
            precision = (matches or SMOOTHING) / max(1, text_counts.total())
            log_precisions[i] += math.log(precision) / n_grams
    nearest = _nearest_lengths(lengths)
    return [
        math.exp(min(0.0, 1 - nearest[length] / length) + log_precision) if is_known else 0.0
        for length, log_precision, is_known in zip(lengths, log_precisions, known, strict=True)
    ]


def _count_n_grams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def _two_largest(
    counts: list[Counter[tuple[str, ...]]],
) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    # The two largest counts give the maximum over the *other* texts, for every text, in one pass.
    largest: Counter[tuple[str, ...]] = Counter()
    second: Counter[tuple[str, ...]] = Counter()
    for text_counts in counts:
        for gram, count in text_counts.items():
            if count > largest[gram]:
                largest[gram], second[gram] = count, largest[gram]
            elif count > second[gram]:
                second[gram] = count
    return largest, second


def _nearest_lengths(lengths: list[int]) -> dict[int, int]:
    """Map each length to the nearest length of another text, the shorter of two."""
    counts = Counter(lengths)
    distinct_lengths = sorted(counts)
    nearest = {}
    for place, length in enumerate(distinct_lengths):
        if counts[length] > 1:
            nearest[length] = length
        else:
            around = distinct_lengths[max(0, place - 1) : place] + distinct_lengths[place + 1 :][:1]
            nearest[length] = min(around, key=lambda other: (abs(other - length), other))
    return nearest


def texts_of(samples: pd.DataFrame, column: str) -> list[str]:
    """Return a column's texts, empty where a value is missing.

    Raises:
        ValueError: a value that is no text, such as a number of a JSON file.
    """
    values = ["" if value is None or value != value else value for value in samples[column]]
    for value in values:
        if not isinstance(value, str):
            raise ValueError(
                f"column {column!r} has {value!r}, which is no text; quote it in the file"
            )
    return values
