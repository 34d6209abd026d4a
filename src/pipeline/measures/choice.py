"""Which layer, strength and position rule of an arm is reported: chosen on validation prompts."""

from dataclasses import dataclass

import pandas as pd

from pipeline.config.sections import Arm


@dataclass(frozen=True)
class Setting:
    """What an arm is reported at, and whether selection or the sweep chose the layer."""

    layer: int
    strength: float
    positions: str
    chosen_by: str

    def holds(self, strength: float, positions: str) -> bool:
        """Whether a condition stands in the comparison over layers and with controls."""
        return strength == self.strength and positions == self.positions


def choose_setting(arm: Arm, means: pd.DataFrame, layer: int | None = None) -> Setting:
    """The weakest strength that does as well as any, as far as the validation prompts can tell.

    As well as any: the mean lies within the 95 % interval of the mean that is furthest towards
    the arm's goal. Among these the smallest strength is taken, then the earliest position rule of
    the study, then the mean furthest towards the goal, then the lowest layer: of interventions
    with the same effect the weakest changes least else.

    Args:
        arm: names rules and goal.
        means: a row per fitted condition, with layer, strength, positions, mean, low, high.
        layer: what selection chose; where the sweep has it, only this layer is looked at.

    Raises:
        ValueError: nothing is scored.
    """
    scored = means[means["mean"].notna()]
    if scored.empty:
        raise ValueError(f"no setting can be chosen: {arm.metric} scores nothing on validation")
    selected = scored[scored["layer"] == layer]
    rows = scored if selected.empty else selected
    towards = rows["mean"] * (1 if arm.goal == "raise" else -1)
    best = rows.loc[towards.idxmax()]
    # An interval needs two samples; a mean without one is as good as itself alone.
    within = rows["mean"].between(best["low"], best["high"]) | (rows["mean"] == best["mean"])
    ranked = rows[within].assign(
        size=rows["strength"].abs(),
        rule=rows["positions"].map(list(arm.rules).index),
        towards=-towards,
    )
    first = ranked.sort_values(["size", "rule", "towards", "layer"]).iloc[0]
    return Setting(
        layer=int(first["layer"]),
        strength=float(first["strength"]),
        positions=str(first["positions"]),
        chosen_by="validation" if selected.empty else "selection",
    )
