"""A node of a file that postpones the evaluation of its annotations."""

from __future__ import annotations

import pandas as pd

from pipeline.config.declared import OneOrMore


def reading(model, *, top: OneOrMore = 1, weights: list[float] = [1.0, 1.0]) -> pd.DataFrame:  # noqa: B006
    """Declares options as text."""
    return pd.DataFrame()
