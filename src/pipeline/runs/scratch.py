"""Outputs that appear whole or not at all, and what a killed stage left of them."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from tqdm import tqdm

SCRATCH = Path(".actsweep/scratch")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, when the body ends.

    When the body raises, `path` keeps what it held and the temporary file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch(declared: Path, key: str, *, root: Path = Path()) -> Iterator[Path]:
    """A folder to work in, kept when the body is killed or raises, and found again by its key.

    What the body leaves in it under the name of `declared`, a file or a folder, is moved to
    `declared`, replacing what stood there; everything else in it is then deleted.

    Args:
        declared: the output, on the same file system as `root`.
        key: hash of all that determines the output; other keys use other folders.
        root: the project, which holds `.actsweep/scratch`.

    Raises:
        FileNotFoundError: the body ended without leaving the output.
    """
    folder = root / SCRATCH / f"{declared.parent.name}-{declared.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    made = folder / declared.name
    if not made.exists():
        raise FileNotFoundError(f"the stage left no {declared.name} in {folder}")
    declared.parent.mkdir(parents=True, exist_ok=True)
    if declared.is_dir() and not declared.is_symlink():
        shutil.rmtree(declared)
    else:
        declared.unlink(missing_ok=True)
    made.rename(declared)
    shutil.rmtree(folder)


def taken_up(
    what: str, jobs: Mapping[str, Callable[[], pd.DataFrame]], work: Path
) -> list[pd.DataFrame]:
    """The tables of jobs; one that lies finished in `work` under its job's name is not made."""
    tables = []
    for name, make in tqdm(jobs.items(), what, unit="chunk", disable=None):
        path = work / f"{name}.parquet"
        if not path.exists():
            table = make()
            with whole_file(path) as temporary:
                table.to_parquet(temporary)
        tables.append(pd.read_parquet(path))
    return tables


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
