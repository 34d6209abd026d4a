"""Greedy pruning: remove what is not needed, the least needed first."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
LEVELS = 4
"""Passes with a share to recover that falls evenly from 1 to the one that is asked for: what costs
nothing goes first, and does not use up the share that may be lost."""


class Step(NamedTuple):
    """A try of pruning: what would be left, what share it recovers, and if it was accepted."""

    n_kept: int
    recovered: float
    accepted: bool


def prune(
    order: Sequence[T], recovered: Callable[[Sequence[Sequence[T]]], Sequence[float]], least: float
) -> tuple[list[T], list[Step]]:
    """Remove items while the rest recovers at least a share, until no single one can be removed.

    A pass tries the items in order, in runs: a run that cannot be removed together is halved, down
    to single items. After each pass the kept items are ordered by what the rest recovers without
    each of them, those that cost least first. Compared with removing the cheapest item again and
    again, about 2 k log2(n / k) + k tries a pass are needed for k of n items, instead of n² / 2.

    Args:
        order: the items, those to be removed first at the beginning.
        recovered: share that each of several sets recovers with all other items removed.
        least: the share to recover.

    Returns:
        The kept items, those that cost least first, and all tries of passes.
    """
    kept, steps = list(order), list[Step]()
    for level in range(1, LEVELS):
        kept = _ordered(_pass(kept, recovered, 1 - (1 - least) * level / LEVELS, steps), recovered)
    while kept:
        kept = _pass(kept, recovered, least, steps)
        kept = _ordered(kept, recovered)
        if kept and recovered([kept[1:]])[0] < least:
            break
    return kept, steps


def _pass(
    kept: list[T],
    recovered: Callable[[Sequence[Sequence[T]]], Sequence[float]],
    least: float,
    steps: list[Step],
) -> list[T]:
    """Try to remove all items in runs; append the tries to `steps`."""
    runs = [kept]
    while runs:
        run = runs.pop(0)
        rest = [item for item in kept if item not in run]
        (share,) = recovered([rest])
        steps.append(Step(len(rest), share, share >= least))
        if share >= least:
            kept = rest
        elif len(run) > 1:
            half = len(run) // 2
            runs[:0] = [run[:half], run[half:]]
    return kept


def _ordered(
    kept: list[T], recovered: Callable[[Sequence[Sequence[T]]], Sequence[float]]
) -> list[T]:
    """Order items by what the others recover, most first."""
    if not kept:
        return kept
    shares = recovered([[other for other in kept if other != item] for item in kept])
    return [kept[n] for n in sorted(range(len(kept)), key=lambda n: -shares[n])]
