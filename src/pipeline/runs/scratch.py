"""Write outputs atomically, and resume the partial work of a killed stage."""

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
    """Write `path` atomically: yield a temporary path that replaces it when the body ends.

    The file is flushed to disk first. If the body raises, `path` is unchanged and the temporary
    file is deleted.
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
    """Yield a scratch folder that survives if the body is killed or raises, for a later resume.

    When the body ends, the file or folder in it with the name of `declared` replaces `declared`,
    and the rest of the scratch folder is deleted.

    Args:
        declared: path of the output, on the same file system as `root`.
        key: hash of everything that determines the output; each key has a folder of its own.
        root: project folder, which holds `.actsweep/scratch`.

    Raises:
        FileNotFoundError: the body did not write the output.
    """
    folder = root / SCRATCH / f"{declared.parent.name}-{declared.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    output = folder / declared.name
    if not output.exists():
        raise FileNotFoundError(f"the stage left no {declared.name} in {folder}")
    declared.parent.mkdir(parents=True, exist_ok=True)
    if declared.is_dir() and not declared.is_symlink():
        shutil.rmtree(declared)
    else:
        declared.unlink(missing_ok=True)
    output.rename(declared)
    shutil.rmtree(folder)


def run_or_resume(
    what: str, jobs: Mapping[str, Callable[[], pd.DataFrame]], work: Path
) -> list[pd.DataFrame]:
    """Run jobs and return their tables; skip jobs whose table is already in `work`."""
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
