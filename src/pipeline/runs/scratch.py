"""Write outputs atomically, and resume the partial work of a killed stage."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from pipeline.runs.progress import progress

SCRATCH = Path(".actsweep/scratch")
LOCK = ".lock"
_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write `path` atomically: yield a temporary path that replaces it when the body ends.

    The file is flushed to disk first. If the body raises, `path` is unchanged and the temporary
    file is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with full_disk_named(path.parent):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Replace the error of a full disk, or quota, while writing to a folder by one line.

    Libraries raise it as errors of their own, some without a number or a path.

    Raises:
        OSError: names the folder.
    """
    try:
        yield
    except Exception as error:
        if not any(text in str(error) for text in _FULL):
            raise
        raise OSError(
            f"no space left on {folder.absolute()}; free some and run the same command again, "
            "which goes on"
        ) from error


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
    with full_disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    output = folder / declared.name
    if not output.exists():
        raise FileNotFoundError(f"the stage left no {declared.name} in {folder}")
    with full_disk_named(declared.parent):
        declared.parent.mkdir(parents=True, exist_ok=True)
        if declared.is_dir() and not declared.is_symlink():
            shutil.rmtree(declared)
        else:
            declared.unlink(missing_ok=True)
        _move(output, declared)
    shutil.rmtree(folder)


@contextmanager
def alone(folder: Path, command: str = "") -> Iterator[None]:
    """Hold the lock of a folder while the body runs; a killed process gives it up.

    Args:
        folder: created if missing.
        command: hash of what is run, written to the lock for `check_idle`.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Opened to append: the text is that of the process that holds the lock.
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(folder) from error
        lock.truncate(0)
        lock.write(command)
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def check_idle(outputs: Path, command: str) -> None:
    """Fail if the same command is running; cheap, so that a second run need not wait to be told.

    Args:
        outputs: the folder whose subfolders are locked.
        command: see `alone`.

    Raises:
        ValueError: names the folder that is being written.
    """
    for path in outputs.glob(f"*/{LOCK}"):
        # Those of another user that cannot be read are no runs of this command.
        with suppress(PermissionError), path.open() as lock:
            if lock.read() == command:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise _busy(path.parent) from error


def _busy(folder: Path) -> ValueError:
    return ValueError(f"{folder} is being written by another run; wait for it")


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
        try:
            shutil.move(source, beside)
        except OSError:
            # Half a copy would take up the space that is missing.
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
            raise
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
