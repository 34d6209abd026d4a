"""Show how far long work is: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import TypeVar

from tqdm import tqdm

SECONDS = 10.0
"""Time between lines off a terminal."""
_BRIEF = 2.0
"""Seconds after which brief work gets a bar."""
_latest = -SECONDS
"""When the latest line was written: brief work within other work writes no line soon after it."""


T = TypeVar("T")


def progress(
    items: Collection[T], what: str, unit: str, *, kept: int = 0, brief: bool = False
) -> Iterator[T]:
    """Yield items while showing how many are done, the rate and the time left, on stderr.

    Args:
        items: what is left to do.
        what: name of the work.
        unit: name of an item.
        kept: items that an earlier, interrupted run has finished.
        brief: whether the work often takes a moment only, such as an item of other work: its bar
            comes late and goes at the end.
    """
    global _latest
    total = kept + len(items)
    units = f"{unit}es" if unit.endswith("ch") else f"{unit}s"
    if kept:
        tqdm.write(f"{what}: {kept} of {total} {units} kept from before", file=sys.stderr)
    if len(items) and sys.stderr.isatty():
        yield from tqdm(
            items,
            what,
            total,
            leave=not brief,
            delay=_BRIEF * brief,
            unit=unit,
            initial=kept,
            dynamic_ncols=True,
        )
        return
    start = latest = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - (max(latest, _latest) if brief else latest) >= SECONDS:
            latest = _latest = now
            left = timedelta(seconds=round((now - start) / done * (len(items) - done)))
            rate = done / (now - start)
            print(
                f"{what}: {kept + done} of {total} {units}, {rate:.2g} per second, {left} left",
                file=sys.stderr,
                flush=True,
            )
