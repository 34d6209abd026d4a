"""What a stage reports of its run: numbers, curves, tables and figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd


class Run:
    """Results that a stage reports; this base class only keeps the summary for the run record."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def summary(self, values: Mapping[str, Any]) -> None:
        """Add summary numbers; an estimate is a dict of mean, low, high, stderr and n."""
        self.values.update(values)

    def curve(self, rows: pd.DataFrame) -> None:
        """Log curves over layers: a column `layer`, and one column per curve.

        Raises:
            ValueError: no column `layer`, or a row without a layer.
        """
        if "layer" not in rows or rows["layer"].isna().any():
            raise ValueError(f"columns {list(rows)}: each row of a curve needs a layer")

    def table(self, name: str, rows: pd.DataFrame) -> None:
        """Log a table."""

    def figure(self, path: Path) -> None:
        """Log a PNG under its name.

        Raises:
            ValueError: another kind of file.
        """
        if path.suffix != ".png":
            raise ValueError(f"figure {path.name}: expected a PNG")

    def reference(self, name: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """Log the path and metadata of a large output, without an upload."""


def plain(value: Any) -> Any:
    """Convert a value to JSON types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
