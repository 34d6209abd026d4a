"""Which source and data files a stage of a study runs on, as one digest that DVC tracks."""

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.model.hub import model_files
from pipeline.runs.scratch import sha256

UNTRACKED = ("pipeline.config", "pipeline.runs")
"""Packages that write no result: the configuration, itself tracked, and records of runs.

Likewise `stages` itself, which only starts them.
"""


def stage_digest(stage: str, sections: Mapping[str, Any]) -> str:
    """Hash all that a stage's results follow from beside its inputs and the values of its sections.

    That is the source of the stage and of every `_target_` in its sections, and the bytes of every
    file or folder that a value in them names.

    Args:
        stage: the stage's module.
        sections: of the composed study, those that the stage reads.
    """
    values = list(_values(sections))
    targets = [value.rpartition(".")[0] for key, value in values if key == "_target_"]
    digest = hashlib.sha256(code_digest([stage, *targets]).encode())
    for path in sorted({path for key, value in values for path in _files(key, value)}):
        digest.update(f"{path.as_posix()} {_sha256(path, path.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:12]


@functools.cache
def _sha256(path: Path, changed: int) -> str:
    # A model's gigabytes are named by several stages.
    return sha256(path)


def _values(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested sections with the key it stands at."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _values(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _values(value, key)
    elif isinstance(node, str):
        yield key, node


def _files(key: str, value: str) -> list[Path]:
    """The files that a value names; what other stages write is tracked by DVC itself."""
    path = Path(value)
    # Only a name with a separator is meant as a path: a label may be called like a folder.
    if key == "_target_" or "/" not in value or "\n" in value or path.parts[0] == "outputs":
        return []
    try:
        if path.is_dir():
            every = [file for file in path.rglob("*") if file.is_file()]
            return model_files(value) if (path / "config.json").is_file() else every
        return [path] if path.is_file() else []
    except OSError:
        return []


def code_digest(modules: Iterable[str]) -> str:
    """Hash the source of modules and of the project's modules that they import.

    Imports are followed through the modules' own top-level packages and `pipeline`, wherever they
    stand in a file; packages of others are told apart by their versions. `UNTRACKED` packages are
    left out.

    Raises:
        ValueError: a module without a source file.
    """
    digest = hashlib.sha256()
    for name, path in sorted(reached_modules(modules).items()):
        digest.update(f"{name} {sha256(path)}\n".encode())
    return digest.hexdigest()[:12]


def reached_modules(modules: Iterable[str]) -> dict[str, Path]:
    """Source files by module name: the modules and all of the project that they import.

    Raises:
        ValueError: a module without a source file.
    """
    waiting = list(modules)
    packages = {"pipeline", *(name.partition(".")[0] for name in waiting)}
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name in files or name == "stages" or name.startswith(UNTRACKED):
            continue
        path = _source(name)
        if path is None:
            raise ValueError(f"module {name!r} has no source file")
        files[name] = path
        waiting += [
            imported
            for imported in _imports(path)
            if imported.partition(".")[0] in packages and _source(imported) is not None
        ]
    return files


@functools.cache
def _source(module: str) -> Path | None:
    """The file of a module, found without importing it."""
    package, *rest = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin
    base = origin.parent.joinpath(*rest)
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _imports(path: Path) -> tuple[str, ...]:
    """Names that may be modules, in all import statements of a file."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(names)
