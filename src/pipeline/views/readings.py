"""Look up readings and their columns for figures."""

from collections.abc import Mapping

import pandas as pd


def table_of(readings: Mapping[str, pd.DataFrame], name: str) -> pd.DataFrame:
    """Return the table of a reading.

    Raises:
        ValueError: no such reading; names the valid ones.
    """
    if name not in readings:
        raise ValueError(f"no reading {name!r}; valid: {', '.join(readings) or 'none'}")
    return readings[name]


def column_of(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a numeric column.

    Raises:
        ValueError: no such column; names the valid ones.
    """
    numbers = list(table.select_dtypes("number"))
    if name not in numbers:
        raise ValueError(f"no column of numbers {name!r}; valid: {', '.join(numbers)}")
    return table[name]
