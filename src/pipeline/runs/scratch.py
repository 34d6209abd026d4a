"""Write outputs atomically, and resume the partial work of a killed stage."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from pipeline.runs.progress import progress

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
        declared: path of the output; it may be on another disk than `root`.
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
    _move(output, declared)
    shutil.rmtree(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder while the body runs; a killed process gives it up.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is being written by another run; wait for it") from error
        yield


def _move(source: Path, target: Path) -> None:
    """Rename a file or folder; across disks, copy it next to the target first."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        beside = target.with_name(f".{target.name}.partial")
        if beside.is_dir():
            shutil.rmtree(beside)
        shutil.move(source, beside)
        beside.rename(target)


def run_or_resume(
    what: str, jobs: Mapping[str, Callable[[], pd.DataFrame]], work: Path
) -> list[pd.DataFrame]:
    """Run jobs and return their tables; skip jobs whose table is already in `work`."""
    paths = {name: work / f"{name}.parquet" for name in jobs}
    missing = [name for name, path in paths.items() if not path.exists()]
    for name in progress(missing, what, "chunk", kept=len(jobs) - len(missing)):
        table = jobs[name]()
        with whole_file(paths[name]) as temporary:
            table.to_parquet(temporary)
    return [pd.read_parquet(path) for path in paths.values()]


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
