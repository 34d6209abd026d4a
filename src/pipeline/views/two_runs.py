"""Lay two compared runs out as text."""

from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import pandas as pd

from pipeline.runs.records import Comparison

NUMBERS = (
    "numbers (difference b - a with its 95 % interval; paired by prompt where both runs have the "
    "same, otherwise taken as independent; differ: pairs of rows with other scores; without an "
    "interval if none has, or all differ by the same):"
)


def told(comparison: Comparison, a: str, b: str, *, width: int) -> Iterator[str]:
    """Yield lines of at most `width` characters; nothing is cut.

    Args:
        comparison: the runs' settings and numbers.
        a: name of one run.
        b: of the other.
        width: characters in a line.
    """
    yield from _wrapped(f"a: {a}", width)
    yield from _wrapped(f"b: {b}", width)
    yield ""
    yield from _wrapped("configuration keys that differ:", width)
    yield from (
        _laid_out(comparison.config.map(_shown), width) if len(comparison.config) else ["  none"]
    )
    words = {True: "yes", False: "no"}
    numbers = comparison.summary.assign(
        real=comparison.summary["excludes_zero"].map(words).fillna(""),
        paired=comparison.summary["paired"].map(words),
    ).drop(columns="excludes_zero")
    yield ""
    yield from _wrapped(NUMBERS, width)
    if comparison.note:
        yield from _wrapped(comparison.note, width)
    yield from _laid_out(numbers.map(_number), width)


def _laid_out(table: pd.DataFrame, width: int) -> Iterator[str]:
    """Yield a table whose first column is `key`; the keys on lines of their own if it is wide."""
    lines = _lines(table)
    if max(map(len, lines)) <= width:
        yield from lines
        return
    head, *rows = [f"  {line}" for line in _lines(table.drop(columns="key"))]
    if max(map(len, (head, *rows))) <= width:
        yield head
        for key, row in zip(table["key"], rows, strict=True):
            yield from _wrapped(key, width)
            yield row
        return
    for record in table.to_dict("records"):
        yield from _wrapped(record.pop("key"), width)
        for name, value in record.items():
            yield from _wrapped(f"  {name}: {value}", width, indent=4)


def _lines(table: pd.DataFrame) -> list[str]:
    """Return the head and the rows of a table of text: keys at the left, the others at the right.

    `to_string` of pandas cuts long values.
    """
    columns = [[str(name), *table[name]] for name in table]
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [text.ljust(width) if column[0] == "key" else text.rjust(width) for text in column]
        for column, width in zip(columns, widths, strict=True)
    ]
    return [" ".join(row).rstrip() for row in zip(*padded, strict=True)]


def _wrapped(text: str, width: int, indent: int = 2) -> list[str]:
    return wrap(
        text,
        width,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        drop_whitespace=False,
    )


def _shown(value: Any) -> str:
    """Write a setting; text with line breaks as Python has it."""
    if value is pd.NA:
        return "absent"
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:.3g}"
