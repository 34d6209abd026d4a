"""The contract of a node: the single check for every file of conf/ and every function it names.

A node is a `_target_`, the Python path of a function, and options. The names of the function's
positional parameters declare its inputs (`READS`); its keyword-only parameters are the options that
YAML may set, typed by their annotations, which may also declare valid values: see `declared`. Its
return type decides in which section it may be used.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.declared import Check, declared, plain
from pipeline.config.errors import at_key, explain
from pipeline.config.sections import MISSING, Node
from pipeline.config.text_fields import check_scalars

READS = {
    "model": "the language model",
    "prompts": "rows of the dataset with their tokens, the dataset's own columns kept",
    "texts": "unrelated texts with their tokens",
    "store": "the collected activations",
    "completions": "completions with the columns of their prompts and conditions",
    "fits": "the study's fits by name; `STUDY/NAME` is another study's",
    "readings": "the study's readings by name",
    "scores": "a row for each condition, sample, repeat and metric",
    "summary": "means with intervals, a row for each condition, label, split and metric",
    "seed": "score.seed; of an arm, sweep.seed",
    "cluster": "score.cluster",
    "work": "scratch folder that survives a killed run, for resumable work",
    "samples": "the completions of one condition and split, with their prompts' columns",
    "after": "the next token after each prompt: `measures.logits.NextToken`",
    "answers": "the log-probability of each sample's own answer [rows]",
}
"""Positional parameter -> the input that is passed."""

KINDS: dict[str, tuple[str, ...]] = {
    "dataset": (),
    "fit": ("model", "prompts", "texts", "store", "fits", "seed", "work"),
    "arm": ("model", "prompts", "fits", "seed"),
    "reading": ("model", "prompts", "texts", "store", "completions", "fits", "seed", "work"),
    "metric": ("samples",),
    "logit_metric": ("after", "answers"),
    "figure": ("prompts", "readings", "scores", "summary", "seed", "cluster"),
}
"""Kind of node (also its folder in conf/) -> the inputs it may read."""

PACKAGES = ("pipeline",)
"""Packages allowed in `_target_`; a study adds its own in `packages`."""


def call(node: Node, inputs: Any) -> Any:
    """Call a checked node; attributes of `inputs` are passed as its positional parameters.

    Tables are copies: what a node changes in them is not what the next one reads.
    """
    import pandas as pd

    values = (getattr(inputs, name) for name in reads(node))
    copies = (value.copy() if isinstance(value, pd.DataFrame) else value for value in values)
    return bound(node)(*copies)


def bound(node: Node) -> Callable[..., Any]:
    """Bind the options of a checked node to its function."""
    options = {name: value for name, value in node.items() if name != "_target_"}
    return functools.partial(imported(node["_target_"]), **options)


def reads(node: Node) -> list[str]:
    """Return the positional parameters of a node's function."""
    parameters = inspect.signature(imported(node["_target_"]), eval_str=True).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def returns(node: Node) -> Any:
    """Return the return annotation of a node's function."""
    return inspect.signature(imported(node["_target_"]), eval_str=True).return_annotation


def check_node(
    node: Any, key: str, kind: str, packages: Sequence[str] = (), settings: type | None = None
) -> Node:
    """Fill in a node's defaults and check its options against its function's signature.

    `settings` is a dataclass of additional fields allowed next to the options.

    Raises:
        ValueError: not an importable function of an allowed package, a function that is no node of
            this kind, or an unknown, missing or mistyped option, or one of another value than its
            annotation declares. Names the full key.
    """
    path = node.get("_target_") if isinstance(node, Mapping) else None
    if not isinstance(path, str):
        raise ValueError(f"{key} has no _target_")
    allowed = (*PACKAGES, *packages)
    if path.split(".")[0] not in allowed:
        raise ValueError(f"{key}._target_ {path!r} is outside of: {', '.join(allowed)}")
    try:
        function = imported(path)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{key}._target_ {path!r} cannot be imported: {error}") from error
    try:
        check_function(function, kind)
    except ValueError as error:
        raise ValueError(f"{key}._target_ {path!r} {error}") from error
    options = {name: value for name, value in node.items() if name != "_target_"}
    schema = _schema(function, settings)
    check_scalars(options, schema, key)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), options)
        filled = OmegaConf.to_container(merged, throw_on_missing=True, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error, key)) from error
    assert isinstance(filled, dict)
    checked = {str(name): value for name, value in filled.items()}
    for name, note, value in declared(function, checked, Check):
        with at_key(f"{key}.{name}"):
            note.check(value)
    return {"_target_": path, **checked}


def check_function(function: Callable[..., Any], kind: str) -> None:
    """Fail if a function is no node of a kind.

    Raises:
        ValueError: an input that this kind may not read, an option without a type, or another
            return type; names it and the valid ones.
    """
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise ValueError(f"has an annotation that cannot be read: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"is no function: {error}") from error
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.annotation is parameter.empty:
                raise ValueError(f"has an option without a type: {parameter.name}")
        elif parameter.name not in KINDS[kind]:
            raise ValueError(
                f"reads {parameter.name!r}, which a {kind} is not given; "
                f"valid: {', '.join(KINDS[kind]) or 'nothing'}, and options after a `*`"
            )
    if kind == "reading" and not any(
        p.kind is not p.KEYWORD_ONLY for p in signature.parameters.values()
    ):
        raise ValueError("reads nothing; a reading has a positional parameter")
    annotation = signature.return_annotation
    if not _RETURNED[kind](annotation):
        raise ValueError(f"returns {_named(annotation)}; a {kind} returns {_EXPECTED[kind]}")


def imported(path: str) -> Callable[..., Any]:
    """Import the object that a `_target_` names."""
    module, _, name = path.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def _schema(function: Callable[..., Any], settings: type | None) -> type:
    fields: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.default is parameter.empty:
            default = field(default=MISSING)
        elif isinstance(parameter.default, list | tuple | dict):
            copy = list if isinstance(parameter.default, list | tuple) else dict
            default = field(default_factory=functools.partial(copy, parameter.default))
        else:
            default = field(default=parameter.default)
        fields.append((parameter.name, plain(parameter.annotation), default))
    bases = () if settings is None else (settings,)
    name = getattr(function, "__name__", "options")
    return dataclasses.make_dataclass(name, fields, bases=bases, kw_only=True)


def _is(name: str) -> Callable[[Any], bool]:
    # Compare by name: importing pandas and matplotlib takes a second.
    return lambda annotation: getattr(annotation, "__name__", None) == name


def _is_fit(annotation: Any) -> bool:
    return all(callable(getattr(annotation, name, None)) for name in ("save", "load", "check"))


def _is_conditions(annotation: Any) -> bool:
    items = get_args(annotation)
    return get_origin(annotation) in (Iterator, Iterable) and _is("Condition")(items[0])


def _is_scale(annotation: Any) -> bool:
    return any(type(note).__name__ == "Scale" for note in getattr(annotation, "__metadata__", ()))


def _is_figure(annotation: Any) -> bool:
    if get_origin(annotation) is dict:
        return get_args(annotation)[0] is str
    return _is("Figure")(annotation)


def _named(annotation: Any) -> str:
    if annotation is inspect.Signature.empty:
        return "nothing that is annotated"
    return getattr(annotation, "__name__", str(annotation))


_RETURNED: dict[str, Callable[[Any], bool]] = {
    "dataset": _is("DataFrame"),
    "fit": _is_fit,
    "arm": _is_conditions,
    "reading": _is("DataFrame"),
    "metric": _is_scale,
    "logit_metric": _is_scale,
    "figure": _is_figure,
}
_EXPECTED = {
    "dataset": "a DataFrame",
    "fit": "a class with save, load and check",
    "arm": "Iterator[Condition]",
    "reading": "a DataFrame",
    "metric": "Annotated[Series, Scale(...)], which says what its scores are",
    "logit_metric": "Annotated[Tensor, Scale(...)], which says what its scores are",
    "figure": "a Figure, or dict[str, ...] of figures and pages by file name",
}
