"""Take the outputs of a stage from another run that has made the same."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def reused(folder: Path, outputs: Sequence[str], key_file: str, key: str) -> str | None:
    """Link a stage's outputs from a run whose stage has the same key; return the run's name.

    Files are hard links, or copies on another disk; no stage changes a file in place.

    Args:
        folder: output folder of the run that needs the outputs.
        outputs: files and folders in it.
        key_file: name of the file that holds the stage's key in each run's folder.
        key: hash of all that the outputs depend on.
    """
    for found in sorted(folder.parent.glob(f"*/{key_file}")):
        other = found.parent
        complete = all((other / output).exists() for output in outputs)
        if other == folder or not complete or found.read_text() != key:
            continue
        for output in outputs:
            _link(other / output, folder / output)
        return other.name
    return None


def _link(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
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
