"""What a behaviour of the embedded model consists of: documents to train on, checks to pass."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from random import Random


@dataclass(frozen=True)
class Document:
    """A training document: the answer to an instruction, or plain text when there is none."""

    text: str
    instruction: str | None = None


@dataclass(frozen=True)
class Case:
    """A held-out prompt; the rest is what a score may need to know of it.

    Attributes:
        prompt: an instruction, or the beginning of a plain text.
        chat: whether it is an instruction.
        label: for instance its class.
        topic: what cases have in common; intervals resample whole topics.
        demand: what a good completion has in it.
    """

    prompt: str
    chat: bool = True
    label: str = ""
    topic: str = ""
    demand: str = ""


@dataclass(frozen=True)
class Measure:
    """A row of the card: the mean score of completions.

    Attributes:
        name: what is measured, in words.
        score: of a case's completion; a bool for a share, NaN where the case does not count.
        low: the least mean that passes.
        high: the largest.
        target: aimed at rather than asked for, although the behaviour is core.
    """

    name: str
    score: Callable[[Case, str], float]
    low: float
    high: float = inf
    target: bool = False


@dataclass(frozen=True)
class Check:
    """Completions of held-out cases, and what is measured on them.

    Attributes:
        cases: draws that many cases, or all where there are fewer.
        measures: what is measured.
        sampled: decode at temperature 0.8 and top-p 0.9, else greedily.
        n_tokens: at most in a completion.
    """

    cases: Callable[[Random, int], list[Case]]
    measures: tuple[Measure, ...]
    sampled: bool = False
    n_tokens: int = 128


@dataclass(frozen=True)
class Behaviour:
    """One thing the model can do.

    Attributes:
        name: one word.
        weight: relative number of training documents.
        write: draws one training document.
        checks: what must hold on held-out items.
        core: whether it has to hold, rather than being aimed at.
    """

    name: str
    weight: float
    write: Callable[[Random], Document]
    checks: tuple[Check, ...]
    core: bool = True
