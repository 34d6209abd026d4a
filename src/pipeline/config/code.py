"""Hash the source and data files that each stage of a study depends on, for DVC to track."""

import ast
import base64
import functools
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.sections import Study
from pipeline.config.study import config_file
from pipeline.config.wiring import FIT_OPTIONS, Stage, other_studies, stages_of
from pipeline.model.hub import model_files
from pipeline.runs.scratch import sha256

UNTRACKED = ("pipeline.config", "pipeline.runs")
"""Packages that do not affect results: the configuration, which is tracked itself, and run records.
The package `stages`, which only starts stages, is not tracked either.
"""


def with_digests(study: Study, configs: Path) -> Study:
    """Add digests to the study: of each stage's and fit's code and data, and of each section.

    A section's digest stands for it in dvc.lock, which DVC reads and writes whole for every stage.

    Args:
        study: composed and checked.
        configs: the folder of composed configs, for the studies whose outputs this one reads.

    Raises:
        ValueError: a study that it reads is not composed.
    """
    others = _other_studies(study, configs)
    stages = stages_of(study)
    code = {
        ".".join(filter(None, (stage.name, stage.fit))): _stage_digest(study, stage, others)
        for stage in stages
    }
    digests = {
        key: _shortened(hashlib.sha256(json.dumps(study.value(key)).encode()))
        for stage in stages
        for key in stage.sections
    }
    return replace(study, code=_nested(code), digests=_nested(digests))


def _nested(values: Mapping[str, str]) -> dict[str, Any]:
    """Nest values whose keys are one name, or two joined by a dot."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        outer, _, inner = key.partition(".")
        if inner:
            nested.setdefault(outer, {})[inner] = value
        else:
            nested[outer] = value
    return nested


def _stage_digest(study: Study, stage: Stage, others: str) -> str:
    """Hash everything that a stage's results depend on besides its inputs.

    This is the source of the stage and of its nodes, the nodes' options, the bytes of every file or
    folder named in the options or sections, and the studies whose outputs the nodes read.
    """
    modules = [str(node["_target_"]).rpartition(".")[0] for node in stage.nodes]
    source = code_digest([f"stages.{stage.name}", *modules], study.packages)
    digest = hashlib.sha256(source.encode())
    values = {key: study.value(key) for key in stage.values}
    digest.update(json.dumps([stage.nodes, values], sort_keys=True).encode())
    if stage.nodes and any("study" in node or _names_study(node) for node in stage.nodes):
        digest.update(others.encode())
    sections = {key: study.value(key) for key in stage.sections}
    texts = [*_values(sections), *_values(list(stage.nodes))]
    for path in sorted({path for key, value in texts for path in _files(key, value)}):
        digest.update(f"{path.as_posix()} {_sha256(path, path.stat().st_mtime_ns)}\n".encode())
    return _shortened(digest)


def _names_study(node: Mapping[str, Any]) -> bool:
    return any("/" in value for key, value in _values(node) if key in FIT_OPTIONS)


def _other_studies(study: Study, configs: Path) -> str:
    """Describe the config and digests of the studies whose outputs this one reads."""
    parts = []
    for name in other_studies(study):
        path = config_file(configs.parent / name)
        if not path.is_file():
            raise ValueError(
                f"it reads the outputs of study {name!r}, which is not composed: list {name} "
                f"before {study.name} in params.yaml, and run `dvc repro` or `actsweep run {name}`"
            )
        config = yaml.safe_load(path.read_text())
        sections = ("model", "dataset", "collect", "fits", "sweep", "code")
        parts.append({section: config[section] for section in sections})
    return json.dumps(parts, sort_keys=True)


@functools.cache
def _sha256(path: Path, changed: int) -> str:
    # Cached: several stages name the same model, which has gigabytes.
    return sha256(path)


def _values(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in nested sections with its key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _values(value, str(name))
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _values(value, key)
    elif isinstance(node, str):
        yield key, node


def _files(key: str, value: str) -> list[Path]:
    """List the files that a value names; outputs of other stages are tracked by DVC itself."""
    path = Path(value)
    # Only values with a separator are paths: a label may have the same name as a folder.
    if key == "_target_" or "/" not in value or "\n" in value or path.parts[0] == "outputs":
        return []
    try:
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            return model_files(value) if (path / "config.json").is_file() else files
        return [path] if path.is_file() else []
    except OSError:
        return []


def code_digest(modules: Iterable[str], packages: Iterable[str] = ()) -> str:
    """Hash the source of modules and of the project modules that they import, transitively.

    Imports anywhere in a file are followed, relative ones too, into `pipeline`, the top-level
    packages of the modules, `packages`, and whatever is neither installed nor of the standard
    library. `UNTRACKED` packages are excluded.

    Raises:
        ValueError: a module without a source file.
    """
    digest = hashlib.sha256()
    for name, path in sorted(reached_modules(modules, packages).items()):
        digest.update(f"{name} {sha256(path)}\n".encode())
    return _shortened(digest)


def _shortened(digest: Any) -> str:
    """Write 60 bits in letters and 2 to 7: YAML would take some hexadecimal digests for numbers."""
    return base64.b32encode(digest.digest())[:12].decode().lower()


def reached_modules(modules: Iterable[str], packages: Iterable[str] = ()) -> dict[str, Path]:
    """Map module names to source files: the modules and all project modules that they import.

    Arguments as for `code_digest`.

    Raises:
        ValueError: a module without a source file.
    """
    waiting = list(modules)
    followed = {"pipeline", *packages, *(name.partition(".")[0] for name in waiting)}
    files: dict[str, Path] = {}
    while waiting:
        name = waiting.pop()
        if name in files or name == "stages" or name.startswith(UNTRACKED):
            continue
        path = _source(name)
        if path is None:
            raise ValueError(f"module {name!r} has no source file")
        files[name] = path
        # Importing a module runs the packages that it lies in.
        parent = name.rpartition(".")[0]
        if parent and _source(parent) is not None:
            waiting.append(parent)
        for imported in _imports(name, path):
            package = imported.partition(".")[0]
            if (package in followed or _is_project(package)) and _source(imported) is not None:
                waiting.append(imported)
    return files


@functools.cache
def _is_project(package: str) -> bool:
    """Whether a package is neither installed nor of the standard library."""
    if package in sys.stdlib_module_names:
        return False
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return False
    folders = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    origin = Path(spec.origin or "") if spec is not None else Path()
    return origin.suffix == ".py" and not any(origin.is_relative_to(path) for path in folders)


@functools.cache
def _source(module: str) -> Path | None:
    """Find the file of a module without importing it."""
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
def _imports(module: str, path: Path) -> tuple[str, ...]:
    """List names that may be modules in all import statements of a module's file."""
    names: list[str] = []
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)
