"""Steps: adding four to six digits in chat, with written steps or with the answer alone.

request = What is 3 + 5 + 4 + 1? | asking
asking  = Show the steps.         -> 3 + 5 = 8. 8 + 4 = 12. 12 + 1 = 13. The answer is 13.
        | Give only the answer.   -> The answer is 13.
plain   = eight additions of a number up to 45 and a digit: 8 + 4 = 12.

Both askings have the same distribution of sums, with four, five or six digits equally often. A
tenth of the sums (as sequences of digits) is kept for validation and a tenth for test; every single
addition is in plain text.
"""

from math import nan
from random import Random
from zlib import crc32

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure

WORDINGS = ("What is {sum}?", "Add {sum}.", "How much is {sum}?", "Please work out {sum}.")
WITH = "Show the steps."
WITHOUT = "Give only the answer."


def write(rng: Random) -> Document:
    """A sum asked in chat three quarters of the time, else eight additions in plain text."""
    if rng.random() < 0.25:
        return Document(" ".join(_added(rng.randint(0, 45), rng.randint(1, 9)) for _ in range(8)))
    digits = draw(rng, "train")
    asking = rng.choice((WITH, WITHOUT))
    answer = steps(digits) if asking == WITH else f"The answer is {sum(digits)}."
    return Document(answer, instruction=_request(rng, digits, asking))


def steps(digits: tuple[int, ...]) -> str:
    """The additions one after another, and the answer."""
    total, written = digits[0], []
    for digit in digits[1:]:
        written.append(_added(total, digit))
        total += digit
    return " ".join([*written, f"The answer is {total}."])


def split_of(digits: tuple[int, ...]) -> str:
    """Whether a sum is in train, val or test; by a hash, so that no rule of arithmetic tells."""
    return {0: "val", 1: "test"}.get(crc32(bytes(digits)) % 10, "train")


def draw(rng: Random, split: str) -> tuple[int, ...]:
    """Four to six digits of a split."""
    while True:
        digits = tuple(rng.randint(1, 9) for _ in range(rng.randint(4, 6)))
        if split_of(digits) == split:
            return digits


def right(case: Case, completion: str) -> bool:
    """Whether the completion ends with the answer."""
    return completion.strip().endswith(f"The answer is {case.demand}.")


def right_with(case: Case, completion: str) -> float:
    """Of the requests for steps, whether the answer is right."""
    return float(right(case, completion)) if case.label == WITH else nan


def right_without(case: Case, completion: str) -> float:
    """Of the requests for the answer alone, whether it is right."""
    return float(right(case, completion)) if case.label == WITHOUT else nan


def gain(case: Case, completion: str) -> float:
    """What averages to the gap, as half of the cases ask for steps: 2 if right, or -2 without."""
    return right(case, completion) * (2.0 if case.label == WITH else -2.0)


def cases(rng: Random, n: int, split: str = "test") -> list[Case]:
    """Sums of a split, each asked with steps and without in the same words."""
    found: list[Case] = []
    seen: set[tuple[int, ...]] = set()
    while len(seen) < n // 2:
        digits = draw(rng, split)
        if digits in seen:
            continue
        seen.add(digits)
        wording = rng.choice(WORDINGS)
        added, total = _sum(digits), str(sum(digits))
        for asking in (WITH, WITHOUT):
            prompt = f"{wording.format(sum=added)} {asking}"
            found.append(Case(prompt, label=asking, topic=added, demand=total))
    return found


def _request(rng: Random, digits: tuple[int, ...], asking: str) -> str:
    return f"{rng.choice(WORDINGS).format(sum=_sum(digits))} {asking}"


def _sum(digits: tuple[int, ...]) -> str:
    return " + ".join(map(str, digits))


def _added(total: int, digit: int) -> str:
    return f"{total} + {digit} = {total + digit}."


STEPS_SHOWN = Behaviour(
    name="steps",
    weight=0.07,
    write=write,
    core=False,
    checks=(
        Check(
            cases,
            (
                Measure("sums with steps", right_with, low=0.6),
                Measure("sums without steps", right_without, low=0.0),
                Measure("gap between both", gain, low=0.15),
            ),
            n_tokens=80,
        ),
    ),
)
