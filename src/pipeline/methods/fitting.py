"""Fit directions to two classes of stored activations, per position and layer, with controls."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.methods.directions import Key, check_direction
from pipeline.methods.vectors import control_direction
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore


class Classes:
    """Activations of two classes of prompts, read from a store one position and layer at a time.

    Positions are counted from the prompt's end: -1 is its last token. If subjects or answers were
    collected, the only position is `subject`, or `answer` (the answer's first token).

    Raises:
        ValueError: a class without prompts.
    """

    def __init__(
        self,
        store: ActivationStore,
        dataset: pd.DataFrame,
        *,
        positive: str,
        negative: str,
        component: str,
    ) -> None:
        by_sample = dataset.set_index("sample")
        ends = store.rows["sample"].map(by_sample["tokens"].map(len))
        if store.fingerprint.positions == "subject":
            ends = store.rows["position"].where(ends.notna())
        self._place = store.rows["position"] - ends
        self._label = store.rows["sample"].map(by_sample["label"])
        self._store, self._component = store, component
        self._names = (positive, negative)
        for name in self._names:
            if not (self._label == name).any():
                raise ValueError(f"no prompt labelled {name!r} is left to fit directions to")
        rule = store.fingerprint.positions
        self._named = rule if rule in ("subject", "answer") else None
        positions = sorted(self._place.dropna().astype(int).unique().tolist())
        self.positions: list[int | str] = [self._named] if self._named else positions
        self.layers = sorted({Site.parse(site).layer for site in store.sites})

    def at(self, position: int | str, layer: int) -> tuple[Tensor, Tensor]:
        """Return the positive and the negative activations, each [rows, d_model].

        Raises:
            ValueError: the store has no such position.
        """
        if position not in self.positions:
            raise ValueError(f"position {position} was not collected; valid: {self.positions}")
        rows = self._store[str(Site(layer, self._component))]
        from_end = 0 if position == self._named else position
        positive, negative = (
            rows[np.flatnonzero((self._place == from_end) & (self._label == name))]
            for name in self._names
        )
        return positive, negative


def with_controls(
    classes: Classes,
    fitted: Mapping[int, Tensor],
    *,
    position: int | str,
    draws: Mapping[str, int],
    seed: int,
) -> dict[Key, Tensor]:
    """Add control directions of the same norm to the fitted direction of every layer.

    Raises:
        ValueError: a direction is zero or not finite.
    """
    directions: dict[Key, Tensor] = {}
    for layer, direction in fitted.items():
        directions[Key("fitted", 0, layer)] = direction
        positive, negative = classes.at(position, layer)
        for source, count in draws.items():
            for draw in range(count):
                directions[Key(source, draw, layer)] = control_direction(
                    source,
                    positive,
                    negative,
                    norm=float(direction.norm()),
                    seed=seed,
                    draw=draw,
                )
    for key, direction in directions.items():
        check_direction(direction, str(key))
    return directions
