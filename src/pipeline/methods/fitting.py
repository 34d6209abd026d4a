"""Fit directions to two classes of stored activations, per position and layer, with controls."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.data.prompts import check_pairs
from pipeline.methods.directions import Key, check_direction
from pipeline.methods.vectors import FitDirection, control_direction, difference_of_means
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore


class Classes:
    """Activations of two classes of prompts, read from a store one position and layer at a time.

    Positions are counted from the prompt's end: -1 is its last token. Only those that every prompt
    has are positions: the few prompts that are long enough for another are a class of their own. If
    subjects or answers were collected, the only position is `subject`, or `answer` (the answer's
    first token).

    With `pairs`, a column of the dataset, row i of both classes is of the same pair.

    Raises:
        ValueError: a class without prompts, or a pair that is not one prompt of each class.
    """

    def __init__(
        self,
        store: ActivationStore,
        dataset: pd.DataFrame,
        *,
        positive: str,
        negative: str,
        component: str,
        pairs: str | None = None,
    ) -> None:
        if pairs is not None:
            check_pairs(dataset, pairs, (positive, negative))
        by_sample = dataset.set_index("sample")
        ends = store.rows["sample"].map(by_sample["tokens"].map(len))
        if store.fingerprint.positions == "subject":
            ends = store.rows["position"].where(ends.notna())
        self._place = store.rows["position"] - ends
        self._label = store.rows["sample"].map(by_sample["label"])
        self._pair = None if pairs is None else store.rows["sample"].map(by_sample[pairs])
        self._store, self._component = store, component
        self._names = (positive, negative)
        for name in self._names:
            if not (self._label == name).any():
                raise ValueError(f"no prompt labelled {name!r} is left to fit directions to")
        rule = store.fingerprint.positions
        self._named = rule if rule in ("subject", "answer") else None
        placed = self._label.isin(self._names) & self._place.notna()
        prompts = store.rows["sample"][placed].nunique()
        counts = self._place[placed].astype(int).value_counts()
        positions = sorted(counts.index[counts == prompts].tolist())
        self.positions: list[int | str] = [self._named] if self._named else positions
        self.layers = sorted({Site.parse(site).layer for site in store.sites})

    def at(self, position: int | str, layer: int) -> tuple[Tensor, Tensor]:
        """Return the positive and the negative activations, each [rows, d_model].

        Raises:
            ValueError: the store has no such position.
        """
        rows = self._store[str(Site(layer, self._component))]
        positive, negative = (rows[self._rows(position, name)] for name in self._names)
        return positive, negative

    def samples(self, position: int | str) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of the rows of `at`, of either class.

        Raises:
            ValueError: the store has no such position.
        """
        samples = self._store.rows["sample"].to_numpy()
        positive, negative = (samples[self._rows(position, name)] for name in self._names)
        return positive, negative

    def _rows(self, position: int | str, name: str) -> np.ndarray:
        if position not in self.positions:
            raise ValueError(
                f"position {position} was not collected of every prompt; valid: {self.positions}"
            )
        from_end = 0 if position == self._named else position
        rows = np.flatnonzero((self._place == from_end) & (self._label == name))
        if self._pair is None:
            return rows
        order = np.argsort(self._pair.iloc[rows].to_numpy(), kind="stable")
        return np.asarray(rows[order])


def with_controls(
    classes: Classes,
    fitted: Mapping[int, Tensor],
    *,
    position: int | str,
    draws: Mapping[str, int],
    seed: int,
    fit: FitDirection = difference_of_means,
) -> dict[Key, Tensor]:
    """Add control directions of the same norm to the fitted direction of every layer.

    Shuffled ones are those of `fit` with permuted labels.

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
                    fit=fit,
                )
    for key, direction in directions.items():
        check_direction(direction, str(key))
    return directions
