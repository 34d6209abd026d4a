"""Summarise a feature or neuron: density, activation histogram, top examples and direct logits.

Activations are streamed in batches of rows; memory use does not depend on the number of rows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

BINS = 64

Ranked = tuple[tuple[int, float], ...]
"""Pairs (token, logit)."""


@dataclass(frozen=True, eq=False)
class Example:
    """A sample in which a feature is active, with the tokens that were collected.

    peak: index of the token with the largest activation. activations: NaN at special tokens, which
    are excluded.
    """

    sample: int
    peak: int
    positions: Int[np.ndarray, " pos"]
    tokens: Int[np.ndarray, " pos"]
    activations: Float[np.ndarray, " pos"]


@dataclass(frozen=True, eq=False)
class FeatureSummary:
    """A feature of an autoencoder of `kind` with `n_features` at `site`, or a neuron of an MLP.

    A neuron (`unit`) is a feature whose decoder is its row of the down projection; if `sign` is -1,
    both its activation and that row are multiplied by -1.

    It is active (above 0) at `active` of `rows` rows, special tokens excluded. counts: histogram
    of activations, bin i is [edges[i], edges[i + 1]). examples: largest activation first, at most
    one per sample. top, bottom: tokens with the largest and the smallest logit, most extreme first.
    """

    feature: int
    site: str
    kind: str
    n_features: int
    rows: int
    active: int
    counts: Int[np.ndarray, " bin"]
    edges: Float[np.ndarray, " edge"]
    examples: tuple[Example, ...]
    top: Ranked
    bottom: Ranked
    unit: str = "feature"
    sign: int = 1

    @property
    def density(self) -> float:
        """Share of rows at which the feature is active; NaN without rows."""
        return self.active / self.rows if self.rows else float("nan")


class Tally:
    """Accumulate the histogram and top activations of one feature over batches of rows.

    The histogram has equal bins from 0 to the smallest power of two above the largest activation;
    when the range grows, adjacent bins are merged. One pass suffices, and the result depends
    neither on row order nor on batch size.
    """

    def __init__(self, examples: int) -> None:
        self.rows = 0
        self._wanted = examples
        self._exponent: int | None = None
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._best = np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)

    def add(
        self,
        activations: Float[np.ndarray, " rows"],
        numbers: Int[np.ndarray, " rows"],
        samples: Shaped[np.ndarray, " rows"],
    ) -> None:
        """Add a batch of activations with their row numbers in the store and their samples."""
        self.rows += len(activations)
        active = activations > 0
        if active.any():
            self._count(activations[active])
            self._keep(activations[active], numbers[active], samples[active])

    @property
    def active(self) -> int:
        """Number of rows with an activation above 0."""
        return int(self._counts.sum())

    def histogram(self) -> tuple[Int[np.ndarray, " bin"], Float[np.ndarray, " edge"]]:
        """Return counts and edges up to the last non-empty bin: 33 to 64 bins, or none."""
        used = int(self._counts.nonzero()[0].max(initial=-1)) + 1
        return self._counts[:used], np.arange(used + 1) * self._width

    @property
    def peaks(self) -> Int[np.ndarray, " example"]:
        """Row numbers of the largest activations, largest first, at most one per sample."""
        return self._best[1]

    @property
    def _width(self) -> float:
        return 2.0 ** (self._exponent or 0) / BINS

    def _count(self, activations: Float[np.ndarray, " active"]) -> None:
        exponent = int(np.frexp(activations.max())[1])
        if self._exponent is None:
            self._exponent = exponent
        # log2(BINS) merges already put everything into the first bin.
        for _ in range(min(exponent - self._exponent, BINS.bit_length())):
            joined = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([joined, np.zeros_like(joined)])
        self._exponent = max(exponent, self._exponent)
        bins = np.floor(activations.astype(np.float64) / self._width).astype(np.int64)
        self._counts += np.bincount(bins, minlength=BINS)

    def _keep(
        self,
        activations: Float[np.ndarray, " active"],
        numbers: Int[np.ndarray, " active"],
        samples: Shaped[np.ndarray, " active"],
    ) -> None:
        parts = zip(self._best, (activations, numbers, samples), strict=True)
        joined = [np.concatenate([held, new]) for held, new in parts]
        # Sort by activation, then row number: ties must not depend on batches.
        joined = [part[np.lexsort((joined[1], -joined[0]))] for part in joined]
        first = np.sort(np.unique(joined[2], return_index=True)[1])[: self._wanted]
        self._best = (joined[0][first], joined[1][first], joined[2][first])


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows that activations are read at: whole samples, so that examples show their context.

    table: `sample`, `position` and `token` of each row. special: rows that are excluded. alike:
    number of each row's group, of which one example is shown.
    """

    table: pd.DataFrame
    special: Bool[np.ndarray, " rows"]
    alike: Int[np.ndarray, " rows"]


def tallied(
    rows: Rows,
    batches: Iterable[tuple[Int[np.ndarray, " batch"], Float[np.ndarray, "batch feature"]]],
    activations: Callable[
        [int, Int[np.ndarray, " sample_rows"]], Float[np.ndarray, " sample_rows"]
    ],
    n_features: int,
    examples: int,
) -> list[tuple[Tally, tuple[Example, ...]]]:
    """Tally each feature over batches of rows, and show its largest activations in their samples.

    Args:
        rows: all rows.
        batches: row numbers and the activations of all features there, special rows left out.
        activations: of one feature, by its index, at rows of a sample.
        n_features: number of features.
        examples: most examples of a feature.
    """
    tallies = [Tally(examples) for _ in range(n_features)]
    for numbers, active in batches:
        for tally, column in zip(tallies, active.T, strict=True):
            tally.add(column, numbers, rows.alike[numbers])
    return [
        (tally, tuple(_example(rows, peak, n, activations) for peak in tally.peaks.tolist()))
        for n, tally in enumerate(tallies)
    ]


def _example(
    rows: Rows,
    peak: int,
    feature: int,
    activations: Callable[
        [int, Int[np.ndarray, " sample_rows"]], Float[np.ndarray, " sample_rows"]
    ],
) -> Example:
    samples = rows.table["sample"].to_numpy()
    within = np.flatnonzero(samples == samples[peak])
    active = activations(feature, within)
    return Example(
        sample=int(samples[peak]),
        peak=int(np.flatnonzero(within == peak)[0]),
        positions=rows.table["position"].to_numpy()[within],
        tokens=rows.table["token"].to_numpy()[within],
        activations=np.where(rows.special[within], np.float32("nan"), active),
    )


def summary_of(
    tally: Tally,
    examples: tuple[Example, ...],
    logits: Float[np.ndarray, " vocab"],
    tokens: int,
    **about: Any,
) -> FeatureSummary:
    """Summarise a tallied feature with its direct logits.

    Args:
        tally: of its activations.
        examples: its largest activations.
        logits: of its decoder row.
        tokens: number of top and of bottom tokens.
        about: further fields of `FeatureSummary`: feature, site, kind, ...
    """
    counts, edges = tally.histogram()
    top, bottom = extremes(logits, tokens)
    return FeatureSummary(
        rows=tally.rows,
        active=tally.active,
        counts=counts,
        edges=edges,
        examples=examples,
        top=top,
        bottom=bottom,
        **about,
    )


def extremes(logits: Float[np.ndarray, " vocab"], count: int) -> tuple[Ranked, Ranked]:
    """Return the tokens with the largest and the smallest logits, most extreme first."""
    order = np.argsort(logits, kind="stable")
    top, bottom = (
        tuple((int(token), float(logits[token])) for token in chosen[:count])
        for chosen in (order[::-1], order)
    )
    return top, bottom
