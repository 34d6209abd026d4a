"""Greedy pruning: remove what is not needed, the least needed first."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Step(NamedTuple):
    """A try of pruning: what would be left, what share it recovers, and if it was accepted."""

    n_kept: int
    recovered: float
    accepted: bool


def prune(
    order: Sequence[T], recovered: Callable[[Sequence[T]], float], least: float
) -> tuple[list[T], list[Step]]:
    """Remove items in order while the rest recovers at least a share; keep those it falls without.

    Items are tried in runs: a run that cannot be removed together is halved, down to single items.
    Passes over the kept items are repeated until no single one of them can be removed. If k of n
    items are kept, about 2 k log2(n / k) tries are needed instead of n.

    Args:
        order: the items, those to be removed first at the beginning.
        recovered: share that is recovered with these items kept and all others removed.
        least: the share to recover.

    Returns:
        The kept items, in order, and all tries.
    """
    kept, steps = list(order), list[Step]()
    while True:
        before = len(kept)
        runs = [kept]
        while runs:
            run = runs.pop(0)
            rest = [item for item in kept if item not in run]
            share = recovered(rest)
            steps.append(Step(len(rest), share, share >= least))
            if share >= least:
                kept = rest
            elif len(run) > 1:
                half = len(run) // 2
                runs[:0] = [run[:half], run[half:]]
        if len(kept) in (0, before):
            return kept, steps
