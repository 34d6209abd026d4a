"""Choose the setting that each arm reports, on validation prompts and over any axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.data.roles import CANDIDATE, CURVE, Axis

FREE = ("layer", "source", "draw")
"""Axes that may vary within a comparison: layer curves, and controls by source and draw."""


@dataclass(frozen=True)
class Setting:
    """The chosen setting of an arm: its axes and condition.

    Attributes:
        axes: of the chosen condition.
        condition: its id.
        chosen_by: `validation`, or `selection` if a direction selection fixed the layer.
        tied: number of candidates that validation cannot tell from the best, itself included.
        candidates: number of scored candidates.
    """

    axes: Mapping[str, Axis]
    condition: str
    chosen_by: str
    tied: int = 1
    candidates: int = 1

    def differing(self, axes: Mapping[str, Axis]) -> list[str]:
        """List the axes, other than `FREE`, on which a condition differs from the setting."""
        return [
            name
            for name in {**self.axes, **axes}
            if name not in FREE and self.axes.get(name) != axes.get(name)
        ]

    def holds(self, axes: Mapping[str, Axis]) -> bool:
        """Whether a condition belongs to the comparison over layers and with controls."""
        return not self.differing(axes)


def choose_setting(means: pd.DataFrame, axes: Sequence[str], goal: str) -> Setting:
    """Choose the weakest condition that is indistinguishable from the best on validation.

    Indistinguishable: its mean lies within the best condition's 95 % interval. Ties are broken by
    the smallest |strength|, then by the arm's first-listed value on each other axis, then by the
    best mean, then by the lowest layer. Of interventions with the same effect, the weakest has the
    fewest side effects.

    Args:
        means: one row per condition in the arm's order: `condition`, `role`, `mean`, `low`,
            `high` and the axes. Only candidates are considered.
        axes: the columns that are the arm's axes.
        goal: `raise` or `lower`.

    Raises:
        ValueError: no candidate is scored.
    """
    candidates = means[means["role"] == CANDIDATE]
    rows = candidates[candidates["mean"].notna()]
    if rows.empty:
        raise ValueError("no setting can be chosen: nothing is scored on validation prompts")
    towards = rows["mean"] * (1 if goal == "raise" else -1)
    best = rows.loc[towards.idxmax()]
    # A single sample has no interval; the mean then only ties with itself.
    within = rows["mean"].between(best["low"], best["high"]) | (rows["mean"] == best["mean"])
    ranked, order = rows[within].copy(), []
    if "strength" in axes:
        ranked["_strength"] = ranked["strength"].abs()
        order.append("_strength")
    for axis in axes:
        if axis not in ("strength", "layer"):
            # Conditions without this axis have NaN, which is one of its values.
            codes, _ = pd.factorize(candidates[axis], use_na_sentinel=False)
            ranked[f"_{axis}"] = pd.Series(codes, candidates.index)[ranked.index]
            order.append(f"_{axis}")
    ranked["_towards"] = -towards
    order += ["_towards", *(["layer"] if "layer" in axes else [])]
    first = ranked.sort_values(order, kind="stable").iloc[0]
    return Setting(
        axes={axis: _plain(first[axis]) for axis in axes if pd.notna(first[axis])},
        condition=str(first["condition"]),
        chosen_by="selection" if (means["role"] == CURVE).any() else "validation",
        tied=len(ranked),
        candidates=len(rows),
    )


def _plain(value: Any) -> Axis:
    return value.item() if hasattr(value, "item") else value
