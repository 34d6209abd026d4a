"""What holds for every kind of chunk on disk."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd


def assert_alike_alone(
    chunks: list[Path], table: pd.DataFrame, sweep: Callable[[Path], pd.DataFrame], folder: Path
) -> None:
    """Each chunk has the same bytes whoever makes it, and when: the last one first, each alone.

    A machine that has the others' files makes this one only.
    """
    for own in reversed(chunks):
        work = folder / own.stem
        work.mkdir()
        for other in chunks:
            if other != own:
                (work / other.name).symlink_to(other)
        assert sweep(work).equals(table)
        assert (work / own.name).read_bytes() == own.read_bytes()
