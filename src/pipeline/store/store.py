"""Activation store: sharded activations on disk, read lazily.

A store is a folder of `shard-00000.safetensors ...` (one tensor [rows, width] per site),
`rows.parquet` (sample, position and token of each row) and `index.json`. The index is written last:
a folder without it is unfinished.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor

from pipeline.runs.scratch import sha256, whole_file

FORMAT = 1
INDEX = "index.json"
ROWS = "rows.parquet"

# For each site: name of the dtype, such as "bfloat16", and width.
Layout = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Fingerprint:
    """Provenance of activations: stores whose fingerprints differ must not be mixed.

    Attributes:
        model: hash of the weights.
        revision: revision of the model.
        tokenizer: hash of the tokenizer.
        template: hash of the chat template.
        dataset: hash of the prompts.
        sites: names of the sites, such as `blocks.12.resid_post`.
        positions: name of the rule that selected the positions.
    """

    model: str
    revision: str
    tokenizer: str
    template: str
    dataset: str
    sites: tuple[str, ...]
    positions: str

    @classmethod
    def parse(cls, record: dict[str, Any]) -> "Fingerprint":
        """Restore a fingerprint from its `asdict` record."""
        return cls(**{**record, "sites": tuple(record["sites"])})

    @property
    def digest(self) -> str:
        """SHA-256 of all fields, in hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def require(self, expected: "Fingerprint", holder: str) -> None:
        """Raise a ValueError that lists both values of every field that differs from `expected`."""
        pairs = [(f.name, getattr(self, f.name), getattr(expected, f.name)) for f in fields(self)]
        differing = [f"{name} is {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
        if differing:
            raise ValueError(f"{holder} holds other activations: {'; '.join(differing)}")


@dataclass(frozen=True)
class Shard:
    """Index entry of a finished shard."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def intact(self, folder: Path) -> bool:
        """Whether the file in `folder` exists and its checksum matches."""
        return intact(folder / self.file, self.sha256)


@dataclass(frozen=True)
class Index:
    """Contents of `index.json`; `plan` is a hash of the assignment of samples to shards."""

    fingerprint: Fingerprint
    plan: str
    layout: Layout
    shards: tuple[Shard, ...]
    rows_sha256: str

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read the index of a store.

        Raises:
            FileNotFoundError: the folder has no index, so the store is not finished.
            ValueError: the index is malformed or of another format.
        """
        path = folder / INDEX
        if not path.is_file():
            raise FileNotFoundError(f"{folder} is not a finished activation store: no {INDEX}")
        try:
            record = json.loads(path.read_text())
            if record["format"] != FORMAT:
                raise ValueError(f"{path} is of format {record['format']}, not {FORMAT}")
            return cls(
                fingerprint=Fingerprint.parse(record["fingerprint"]),
                plan=record["plan"],
                layout={s: (d["dtype"], d["shape"][1]) for s, d in record["sites"].items()},
                shards=tuple(Shard(**shard) for shard in record["shards"]),
                rows_sha256=record["rows"]["sha256"],
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no index of format {FORMAT}: {error!r}") from error

    def write(self, folder: Path) -> None:
        """Write `index.json`, which marks the store as finished."""
        rows = sum(shard.rows for shard in self.shards)
        record = {
            "format": FORMAT,
            "fingerprint": asdict(self.fingerprint),
            "plan": self.plan,
            "sites": {
                site: {"dtype": dtype, "shape": [rows, width]}
                for site, (dtype, width) in self.layout.items()
            },
            "shards": [asdict(shard) for shard in self.shards],
            "rows": {"file": ROWS, "sha256": self.rows_sha256},
        }
        with whole_file(folder / INDEX) as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def intact(path: Path, checksum: str) -> bool:
    """Whether the file exists and has this SHA-256."""
    return path.is_file() and sha256(path) == checksum


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
        with safe_open(self.folder / shard.file, "pt") as file:
            return file.get_tensor(self.site)


def _require_intact(path: Path, checksum: str) -> None:
    if sha256(path) != checksum:
        raise ValueError(
            f"{path} is damaged: its checksum is not that of the index; delete {path.parent} and "
            "run the study again"
        )


class ActivationStore:
    """A finished store: `store[site]` has the activations of a site, `store.rows` their origin.

    Each file's checksum is verified once, when it is first read.
    """

    def __init__(self, folder: Path, expected: Fingerprint | None = None) -> None:
        """Open a store; only its index is read.

        Raises:
            FileNotFoundError: there is no index, so the store is not finished.
            ValueError: the index has another format, a shard is missing or truncated, or the
                fingerprint is not the expected one; lists both values of every differing field.
        """
        index = Index.read(folder)
        if expected is not None:
            index.fingerprint.require(expected, str(folder))
        for shard in index.shards:
            path = folder / shard.file
            if not path.is_file() or path.stat().st_size != shard.bytes:
                raise ValueError(f"{path} is missing or not {shard.bytes} bytes long")
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
        return pd.read_parquet(self.folder / ROWS)

    def verify(self) -> None:
        """Raise a ValueError that names every file with a wrong checksum."""
        wrong = [shard.file for shard in self.index.shards if not shard.intact(self.folder)]
        if not intact(self.folder / ROWS, self.index.rows_sha256):
            wrong.append(ROWS)
        if wrong:
            raise ValueError(f"{self.folder} is damaged: {', '.join(wrong)}")
