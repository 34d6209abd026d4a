"""Compose a study's YAML files and check them. The only importer of Hydra and OmegaConf."""

import dataclasses
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.sections import MISSING, Model, Study
from pipeline.config.values import check_values

PACKAGES = ("pipeline",)
"""Packages that a `_target_` may come from; a study adds its own in `packages`."""


def compose_study(name: str, overrides: Sequence[str] = (), *, root: Path) -> Study:
    """Compose `conf/study/NAME.yaml` with overrides (`sweep.seed=1`) and check all of it.

    Raises:
        ValueError: no such study, an unknown key, a wrong type or a missing value; one line with
            the full key and the valid ones.
    """
    # Hydra is loaded where a study is composed, and not by every stage that reads it.
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException

    known = sorted(file.stem for file in (root / "conf" / "study").glob("*.yaml"))
    if name not in known:
        raise ValueError(f"study {name!r} is unknown; valid: {', '.join(known)}")
    # Hydra knows the keys that a study leaves at their defaults only through the schema.
    ConfigStore.instance().store(name="schema", node=Study)
    with initialize_config_dir(str((root / "conf").resolve()), version_base="1.3"):
        try:
            config = compose("config", overrides=[f"study={name}", *map(_forced, overrides)])
        except HydraException as error:
            raise ValueError(_one_line(error)) from error
    study = _typed(config)
    with at_key("packages"):
        package_sources(study.packages)
    for key, place, node in _targets(study):
        place[node] = check_target(place[node], key, study.packages)
    check_values(study)
    if study.name != name:
        raise ValueError(f"name: {study.name!r} in conf/study/{name}.yaml; it must be {name!r}")
    return study


def load_study(path: Path) -> Study:
    """Read a composed study back; its targets and values were checked when it was composed."""
    return _typed(OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path)))


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Let a ValueError begin with the key of the study that it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def load_model_section(path: Path) -> Model:
    """A file of conf/model by itself.

    Raises:
        ValueError: an unknown key, a wrong type or a missing value.
    """
    try:
        section = OmegaConf.merge(OmegaConf.structured(Model), OmegaConf.load(path))
        OmegaConf.to_container(section, throw_on_missing=True)
        model = OmegaConf.to_object(section)
    except OmegaConfBaseException as error:
        raise ValueError(f"conf/model/{path.name}: {_explain(error, '')}") from error
    assert isinstance(model, Model)
    return model


def save_study(study: Study, path: Path) -> None:
    """Write a composed study as YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(study.config)))


def target(node: dict[str, Any]) -> Callable[..., Any]:
    """What a checked `_target_` node names, and its keyword arguments bound to it."""
    arguments = {k: v for k, v in node.items() if k != "_target_"}
    return functools.partial(_import(node["_target_"]), **arguments)


def check_target(node: dict[str, Any], key: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """A `_target_` node with defaults filled in, its arguments typed by the target's signature.

    The keyword-only parameters of the target are what YAML may set.

    Raises:
        ValueError: not importable, outside the allowed packages, an unknown or missing argument,
            or a wrong type.
    """
    path = node.get("_target_")
    if not isinstance(path, str):
        raise ValueError(f"{key} has no _target_")
    allowed = (*PACKAGES, *packages)
    if path.split(".")[0] not in allowed:
        raise ValueError(f"{key}._target_ {path!r} is outside of: {', '.join(allowed)}")
    try:
        function = _import(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}._target_ {path!r} cannot be imported: {error}") from error
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_schema(function)), arguments)
        filled = OmegaConf.to_container(merged, throw_on_missing=True, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error, key)) from error
    assert isinstance(filled, dict)
    return {"_target_": path, **{str(k): v for k, v in filled.items()}}


def _typed(config: Any) -> Study:
    try:
        plain = OmegaConf.to_container(config, throw_on_missing=True, resolve=True)
        study = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.create(plain))
        )
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error, "")) from error
    assert isinstance(study, Study)
    return study


def _targets(study: Study) -> Iterator[tuple[str, Any, str]]:
    yield "dataset", study.__dict__, "dataset"
    yield "vectors.method", study.vectors.__dict__, "method"
    for name in study.score.metrics:
        yield f"score.metrics.{name}", study.score.metrics, name
    for name in study.sweep.logit_metrics:
        yield f"sweep.logit_metrics.{name}", study.sweep.logit_metrics, name
    for name in study.figures:
        yield f"figures.{name}", study.figures, name
    for name, arm in study.sweep.arms.items():
        if arm.strengths and arm.intervention is None:
            raise ValueError(f"sweep.arms.{name} has strengths but no intervention")
        if arm.intervention is not None:
            yield f"sweep.arms.{name}.intervention", arm.__dict__, "intervention"


def package_sources(packages: Sequence[str]) -> list[Path]:
    """The Python files of this package and of the ones that a study adds.

    Raises:
        ValueError: one that is not installed, or has no file of its own.
    """
    files: list[Path] = []
    for package in (*PACKAGES, *packages):
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            raise ValueError(f"{package!r} is not an installed Python package with an __init__.py")
        file = Path(spec.origin)
        files += file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
    return files


def _forced(override: str) -> str:
    # `++` lets a key be set that the YAML leaves at its default; the schema still has to know it.
    key, _, _ = override.partition("=")
    return f"++{override}" if "." in key and key[0].isalpha() else override


def _import(path: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _schema(function: Callable[..., Any]) -> type:
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.default is parameter.empty:
            default = field(default=MISSING)
        elif isinstance(parameter.default, list | tuple):
            values = list(parameter.default)
            default = field(default_factory=values.copy)
        else:
            default = field(default=parameter.default)
        fields.append((parameter.name, parameter.annotation, default))
    return dataclasses.make_dataclass(getattr(function, "__name__", "target"), fields)


def _explain(error: OmegaConfBaseException, prefix: str) -> str:
    key = ".".join(part for part in (prefix, error.full_key or "") if part)
    text = (error.msg or str(error)).splitlines()[0]
    valid = _fields(error.object_type)
    if valid and (error.key is not None) and str(error.key) not in valid:
        return f"{key}: unknown key; {_suggest(str(error.key), valid)}"
    return f"{key}: {text}"


def _fields(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _suggest(wrong: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(wrong, valid, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}"


def _one_line(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return _explain(cause, "")
        # Hydra raises its own error while handling OmegaConf's, without naming it as the cause.
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()).partition(" Config search path")[0]
