"""Keep a stage's outputs if nothing changed, or take them from another run that made the same."""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.runs.scratch import full_disk_named
from pipeline.runs.tracking import md5

log = logging.getLogger(__name__)


def stamp(folder: Path, outputs: Sequence[str], stamp_file: str, key: str) -> None:
    """Record the key of a finished stage, and size, time and MD5 of each file that it wrote."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns, md5(path)]
        for path in _files(folder, outputs)
    }
    (folder / stamp_file).write_text(json.dumps({"key": key, "files": files}))


def is_kept(folder: Path, outputs: Sequence[str], stamp_file: str, key: str) -> bool:
    """Whether a stage has finished with this key, and its files are as it wrote them.

    The MD5 of a file is computed only if its time has changed. Warns about a file that another
    program has changed.
    """
    try:
        record = json.loads((folder / stamp_file).read_text())
        if record["key"] != key or not all((folder / output).exists() for output in outputs):
            return False
        files = {str(path.relative_to(folder)): path for path in _files(folder, outputs)}
        recorded = record["files"]
        if set(files) != set(recorded):
            return False
        for name, path in files.items():
            if not _is_as_written(path, *recorded[name]):
                log.warning("%s is not as its stage wrote it, and is not used", path)
                return False
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def reused(folder: Path, outputs: Sequence[str], stamp_file: str, key: str) -> str | None:
    """Link a stage's outputs from a run whose stage has the same key; return the run's name.

    Files are hard links, or copies on another disk; no stage changes a file in place.

    Args:
        folder: output folder of the run that needs the outputs.
        outputs: files and folders in it.
        stamp_file: name of the file in each run's folder that `stamp` writes for the stage.
        key: hash of all that the outputs depend on.
    """
    for found in sorted(folder.parent.glob(f"*/{stamp_file}")):
        other = found.parent
        if other == folder or not is_kept(other, outputs, stamp_file, key):
            continue
        for output in outputs:
            _link(other / output, folder / output)
        return other.name
    return None


def _is_as_written(path: Path, size: int, time: int, checksum: str) -> bool:
    now = path.stat()
    return now.st_size == size and (now.st_mtime_ns == time or md5(path) == checksum)


def _files(folder: Path, outputs: Sequence[str]) -> list[Path]:
    found = []
    for output in outputs:
        path = folder / output
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if file.is_file()]
    return found


def _link(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    with full_disk_named(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_file)
        else:
            _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
