"""Which run each condition of a sweep restarts from: the unedited one, or another condition's."""

from collections import Counter
from collections.abc import Sequence

from pipeline.engine.conditions import Condition

_SHARED = 4
"""Conditions that must begin with another's edits before its run is kept for them: that run starts
at the first layer, so a chain of conditions, each one edit longer, is faster from the unedited run.
"""


def restarting_from(conditions: Sequence[Condition]) -> dict[int | None, list[int]]:
    """Group conditions by the condition whose run they restart from; None: the unedited run.

    A condition restarts from the one with the most edits of those with whose edits its own begin:
    the very same `Edit` objects, such as the noise that all restored runs of a draw share. That
    one is computed with its group.
    """
    prefixes: dict[tuple[int, int], int] = {}
    paths = []
    for condition in conditions:
        path = [0]
        for edit in condition.edits:
            path.append(prefixes.setdefault((path[-1], id(edit)), len(prefixes) + 1))
        paths.append(path)
    ends = {path[-1]: number for number, path in enumerate(paths)}
    longest = [
        next((ends[prefix] for prefix in reversed(path[1:-1]) if prefix in ends), None)
        for path in paths
    ]
    bases = {base for base, n in Counter(longest).items() if base is not None and n >= _SHARED}
    groups: dict[int | None, list[int]] = {None: [], **{base: [] for base in sorted(bases)}}
    for number, base in enumerate(longest):
        groups[number if number in bases else base if base in bases else None].append(number)
    return groups
