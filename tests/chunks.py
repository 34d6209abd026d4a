"""What holds for every kind of chunk on disk."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from pipeline.engine.conditions import Condition


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


def count_preparations(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> dict[str, int]:
    """How often a module of the engine checks a run, and how often a condition is hashed."""
    counts = {"checks": 0, "hashes": 0}
    check, of_axes = module.check_context, Condition.id.fget

    def counted_check(*args, **kwargs):
        counts["checks"] += 1
        check(*args, **kwargs)

    def counted_id(condition):
        counts["hashes"] += 1
        return of_axes(condition)

    monkeypatch.setattr(module, "check_context", counted_check)
    monkeypatch.setattr(Condition, "id", property(counted_id))
    return counts
