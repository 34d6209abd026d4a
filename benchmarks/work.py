"""What a work is, and when the outputs of two sides are the same."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.arithmetic import Need


class NotMeasurable(Exception):  # noqa: N818 - a fact of the machine, not a fault
    """This machine cannot do a work; says what it needs."""


@dataclass(frozen=True)
class Work:
    """Sides that do the same, ours first.

    Attributes:
        what: in words.
        sides: by name.
        same: raises a ValueError if an output (third argument) is not ours (second), or its part.
        need: the least that has to be computed and read, given our output.
        tokens: through all blocks: of a loop over conditions, and where they share.
        done: share of the work that a side does, where it is not all; seconds are divided by it.
        swept: whether it sweeps conditions.
        missing: sides that cannot be measured here, and why.
        score: how good an output is, where outputs are alike and not equal; written down per side.
        prepare: done before each side's turn.
        device: that the model runs on.
        dtype: that it computes in.
    """

    what: str
    sides: Mapping[str, Callable[[], Any]]
    same: Callable[[str, Any, Any], None]
    need: Callable[[Any], Need]
    tokens: Mapping[str, float] = field(default_factory=dict)
    done: Mapping[str, float] = field(default_factory=dict)
    swept: bool = False
    missing: list[str] = field(default_factory=list)
    score: Callable[[Any], float] | None = None
    prepare: Callable[[], None] = lambda: None
    device: str = "cpu"
    dtype: str = "float32"


def near(side: str, expected: Tensor, found: Tensor) -> None:
    """Numbers in float32: within 1e-5 of the largest."""
    far = float((expected - found).abs().max()) / max(1.0, float(expected.abs().max()))
    if far > 1e-5:
        raise ValueError(f"{side}: an output differs by {far:.1e} of the largest, at most 1e-5")


def alike(side: str, expected: list[list[int]], found: list[list[int]]) -> None:
    """Completions in float32: the same, token for token."""
    _few_differ(side, expected, found, most=0)


def begin_alike(side: str, expected: list[list[int]], found: list[list[int]]) -> None:
    """Completions in bfloat16, where near ties are many: their first tokens."""
    _few_differ(side, [row[:1] for row in expected], [row[:1] for row in found], most=0.1)


def _few_differ(side: str, expected: list[list[int]], found: list[list[int]], most: float) -> None:
    pairs = list(zip(expected, found, strict=True))
    unlike = sum(ours != theirs for ours, theirs in pairs)
    if unlike > most * len(pairs):
        raise ValueError(f"{side}: {unlike} of {len(pairs)} completions differ, at most {most:.0%}")
