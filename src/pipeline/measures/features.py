"""What is to be seen of a feature: how often and how strongly it is active, where, and its logits.

Activations come a batch of rows at a time; what is kept of them does not grow with their number.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

BINS = 64

Ranked = tuple[tuple[int, float], ...]
"""Tokens and their logits."""


@dataclass(frozen=True, eq=False)
class Example:
    """A sample in which a feature is active, as far as its tokens were collected.

    peak: index of the token where it is most active. activations: NaN at special tokens, which
    are left out.
    """

    sample: int
    peak: int
    positions: Int[np.ndarray, " pos"]
    tokens: Int[np.ndarray, " pos"]
    activations: Float[np.ndarray, " pos"]


@dataclass(frozen=True, eq=False)
class FeatureSummary:
    """A feature of an autoencoder of `kind` with `n_features` at `site`.

    It is active, above 0, at `active` of `rows` rows, special tokens not counted. counts: rows by
    activation, bin i from edges[i] up to edges[i + 1]. examples: most active first, at most one of
    a sample. top, bottom: tokens with the largest and the smallest logit, extreme first.
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

    @property
    def density(self) -> float:
        """Share of rows at which it is active; NaN for no rows."""
        return self.active / self.rows if self.rows else float("nan")


class Tally:
    """Counts and largest activations of one feature over batches of rows.

    The histogram has equal bins from 0 to the smallest power of two above the largest activation:
    when that rises, bins are joined two by two. So it needs no second look at any row, and depends
    neither on the order nor on the batches of the rows.
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
        """Count activations of rows, given the rows' numbers in the store and their samples."""
        self.rows += len(activations)
        active = activations > 0
        if active.any():
            self._count(activations[active])
            self._keep(activations[active], numbers[active], samples[active])

    @property
    def active(self) -> int:
        """How many rows had an activation above 0."""
        return int(self._counts.sum())

    def histogram(self) -> tuple[Int[np.ndarray, " bin"], Float[np.ndarray, " edge"]]:
        """Counts and edges up to the last bin that is not empty; 33 to 64 bins if any is."""
        used = int(self._counts.nonzero()[0].max(initial=-1)) + 1
        return self._counts[:used], np.arange(used + 1) * self._width

    @property
    def peaks(self) -> Int[np.ndarray, " example"]:
        """Numbers of the rows with the largest activations, largest first, one of a sample."""
        return self._best[1]

    @property
    def _width(self) -> float:
        return 2.0 ** (self._exponent or 0) / BINS

    def _count(self, activations: Float[np.ndarray, " active"]) -> None:
        exponent = int(np.frexp(activations.max())[1])
        if self._exponent is None:
            self._exponent = exponent
        # After as many joins as there are doublings up to BINS all is in the first bin.
        for _ in range(min(exponent - self._exponent, BINS.bit_length())):
            joined = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([joined, np.zeros_like(joined)])
        self._exponent = max(exponent, self._exponent)
        places = np.floor(activations.astype(np.float64) / self._width).astype(np.int64)
        self._counts += np.bincount(places, minlength=BINS)

    def _keep(
        self,
        activations: Float[np.ndarray, " active"],
        numbers: Int[np.ndarray, " active"],
        samples: Shaped[np.ndarray, " active"],
    ) -> None:
        parts = zip(self._best, (activations, numbers, samples), strict=True)
        joined = [np.concatenate([held, new]) for held, new in parts]
        # By activation, then by number: ties do not depend on batches.
        joined = [part[np.lexsort((joined[1], -joined[0]))] for part in joined]
        first = np.sort(np.unique(joined[2], return_index=True)[1])[: self._wanted]
        self._best = (joined[0][first], joined[1][first], joined[2][first])


def extremes(logits: Float[np.ndarray, " vocab"], count: int) -> tuple[Ranked, Ranked]:
    """The tokens with the largest and with the smallest logits, extreme first."""
    order = np.argsort(logits, kind="stable")
    top, bottom = (
        tuple((int(token), float(logits[token])) for token in chosen[:count])
        for chosen in (order[::-1], order)
    )
    return top, bottom
