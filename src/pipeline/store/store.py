"""Activation store: sharded activations on disk, read lazily.

A store is a folder of `shard-00000.safetensors ...` (one tensor [rows, width] per site),
`rows.parquet` (sample, position and token of each row) and `index.json`. The index is written last:
a folder without it is unfinished.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.runs.scratch import sha256
from pipeline.store.index import INDEX, ROWS, Fingerprint, Index, Shard, damaged, intact


@dataclass(frozen=True)
class SiteRows:
    """Rows of one site across all shards, read from disk on access.

    `verified` holds the names of shards whose checksums have been verified.
    """

    site: str
    folder: Path
    shards: tuple[Shard, ...]
    dtype: torch.dtype
    width: int
    verified: set[str] = field(default_factory=set, compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and width."""
        return int(self._starts[-1]), self.width

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[tuple[slice, Shaped[Tensor, "rows width"]]]:
        """Yield row numbers and activations of one shard at a time, memory-mapped."""
        for number, shard in enumerate(self.shards):
            yield slice(*map(int, self._starts[number : number + 2])), self._open(shard)

    def __getitem__(self, rows: np.ndarray | pd.Series) -> Shaped[Tensor, "rows width"]:
        """Return the rows of a boolean mask, or of an array of row numbers in that order.

        Opens only the shards that hold these rows.

        Raises:
            ValueError: the mask has another length, or a row number is outside [0, rows).
        """
        numbers = self._numbers(np.asarray(rows))
        activations = torch.empty(len(numbers), self.width, dtype=self.dtype)
        holders = np.searchsorted(self._starts, numbers, side="right") - 1
        for holder in np.unique(holders):
            in_shard = np.flatnonzero(holders == holder)
            local = torch.from_numpy(numbers[in_shard] - self._starts[holder])
            activations[torch.from_numpy(in_shard)] = self._open(self.shards[holder])[local]
        return activations

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(shard.rows for shard in self.shards)])

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise ValueError(f"mask of shape {rows.shape}: {self.site} has {len(self)} rows")
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(
                f"rows {rows.dtype} {rows.shape}: expected a vector of integers or a boolean mask"
            )
        outside = rows[(rows < 0) | (rows >= len(self))]
        if outside.size:
            raise ValueError(f"row {outside[0]}: {self.site} has rows 0 to {len(self) - 1}")
        return rows.astype(np.int64)

    def _open(self, shard: Shard) -> Tensor:
        """Map a shard into memory; verify its checksum when it is first opened."""
        if shard.file not in self.verified:
            _require_intact(self.folder / shard.file, shard.sha256)
            self.verified.add(shard.file)
        path = self.folder / shard.file
        try:
            with safe_open(path, "pt") as file:
                tensor = file.get_tensor(self.site)
        except SafetensorError as error:
            raise damaged(path, f"is damaged: {error}") from error
        shape, indexed = tuple(tensor.shape), (shard.rows, self.width)
        if (shape, tensor.dtype) != (indexed, self.dtype):
            raise damaged(
                path,
                f"is not as its index says: {self.site} is {shape} {tensor.dtype} there, "
                f"{indexed} {self.dtype} in {INDEX}",
            )
        return tensor


def _require_intact(path: Path, checksum: str) -> None:
    if not path.is_file():
        raise damaged(path, "is missing")
    if sha256(path) != checksum:
        raise damaged(path, "is damaged: its checksum is not that of the index")


class ActivationStore:
    """A finished store: `store[site]` has the activations of a site, `store.rows` their origin.

    Each file's checksum is verified once, when it is first read.
    """

    def __init__(self, folder: Path, expected: Fingerprint | None = None) -> None:
        """Open a store; only its index is read.

        Raises:
            FileNotFoundError: there is no index, so the store is not finished.
            ValueError: the index is damaged, a shard is missing or truncated, or the fingerprint is
                not the expected one; lists both values of every differing field.
        """
        index = Index.read(folder)
        if expected is not None:
            index.fingerprint.require(expected, str(folder))
        for shard in index.shards:
            path = folder / shard.file
            if not path.is_file():
                raise damaged(path, "is missing")
            if path.stat().st_size != shard.bytes:
                raise damaged(
                    path, f"is damaged: it has {path.stat().st_size} bytes, not {shard.bytes}"
                )
        self.folder = folder
        self.index = index
        self._verified: set[str] = set()
        self.fingerprint = index.fingerprint

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites, in the order of the fingerprint."""
        return self.fingerprint.sites

    def __getitem__(self, site: str) -> SiteRows:
        if site not in self.sites:
            raise ValueError(f"site {site!r} is not in {self.folder}: {', '.join(self.sites)}")
        dtype, width = self.index.layout[site]
        return SiteRows(
            site, self.folder, self.index.shards, getattr(torch, dtype), width, self._verified
        )

    def __len__(self) -> int:
        return sum(shard.rows for shard in self.index.shards)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Table with `sample`, `position` and `token` of every row."""
        _require_intact(self.folder / ROWS, self.index.rows_sha256)
        table = pd.read_parquet(self.folder / ROWS)
        if len(table) != len(self):
            raise damaged(
                self.folder / ROWS,
                f"is not as its index says: it has {len(table)} rows, {INDEX} {len(self)}",
            )
        return table

    def verify(self) -> None:
        """Raise a ValueError that names every file with a wrong checksum."""
        wrong = [shard.file for shard in self.index.shards if not shard.intact(self.folder)]
        if not intact(self.folder / ROWS, self.index.rows_sha256):
            wrong.append(ROWS)
        if wrong:
            raise ValueError(
                f"{self.folder} is damaged: {', '.join(wrong)}; delete it and run the study again"
            )
