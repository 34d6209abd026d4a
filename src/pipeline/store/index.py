"""The index of an activation store: its files with their checksums, and its provenance."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.runs.scratch import sha256, whole_file

FORMAT = 1
INDEX = "index.json"
ROWS = "rows.parquet"

T = TypeVar("T")

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
        """Raise a ValueError that lists both values of every field that differs from `expected`.

        Args:
            expected: fingerprint of the activations that are needed.
            holder: the folder of the store.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(expected, f.name)) for f in fields(self)]
        differing = [f"{name} is {a!r} there, {b!r} here" for name, a, b in pairs if a != b]
        if differing:
            raise ValueError(
                f"{holder} holds other activations: {'; '.join(differing)}; delete it and run the "
                "study again"
            )


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
            ValueError: the index is damaged or of another format.
        """
        path = folder / INDEX
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} is not a finished activation store: no {INDEX}; delete it and run the "
                "study again"
            )
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise damaged(path, f"is damaged: it is no JSON ({error})") from error
        try:
            return cls._parse(record)
        except KeyError as error:
            raise damaged(path, f"is damaged: it lacks {error}") from error
        except (TypeError, ValueError, IndexError) as error:
            raise damaged(path, f"is damaged: {error}") from error

    @classmethod
    def _parse(cls, record: Any) -> "Index":
        """Restore an index from its record; raise if a value is missing or contradicts another."""
        if _of_type(dict, record)["format"] != FORMAT:
            raise ValueError(f"it is of format {record['format']}, not {FORMAT}")
        fingerprint = {
            name: _of_type(list if name == "sites" else str, value)
            for name, value in _of_type(dict, record["fingerprint"]).items()
        }
        shards = tuple(
            Shard(
                _of_type(str, shard["file"]),
                _of_type(int, shard["rows"]),
                _of_type(int, shard["bytes"]),
                _of_type(str, shard["sha256"]),
            )
            for shard in record["shards"]
        )
        if not shards:
            raise ValueError("it lists no shards")
        total = sum(shard.rows for shard in shards)
        layout: Layout = {}
        for site in fingerprint["sites"]:
            dtype, (rows, width) = record["sites"][site]["dtype"], record["sites"][site]["shape"]
            if not isinstance(getattr(torch, dtype, None), torch.dtype):
                raise ValueError(f"{site} is of unknown dtype {dtype!r}")
            if rows != total:
                raise ValueError(f"{site} has {rows} rows, the shards together have {total}")
            layout[site] = (dtype, _of_type(int, width))
        return cls(
            fingerprint=Fingerprint.parse(fingerprint),
            plan=_of_type(str, record["plan"]),
            layout=layout,
            shards=shards,
            rows_sha256=_of_type(str, record["rows"]["sha256"]),
        )

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


def damaged(path: Path, what: str) -> ValueError:
    """Build the error for a damaged file of a store, which says how to mend it."""
    return ValueError(f"{path} {what}; delete {path.parent} and run the study again")


def _of_type(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def intact(path: Path, checksum: str) -> bool:
    """Whether the file exists and has this SHA-256."""
    return path.is_file() and sha256(path) == checksum
