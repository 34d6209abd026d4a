"""Refuse YAML scalars of another type than a field's: `token: no`, `[007]`, `layers: [true]`.

OmegaConf would convert them: `no` to "False", `1e3` to "1000.0", `true` to 1, and "0.5" to 0.5. Of
a list in place of a mapping it names no key.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from pipeline.config.errors import not_number, not_text


def check_scalars(value: Any, annotation: Any, key: str) -> None:
    """Fail if a boolean or a number stands where only text is allowed, or a list for a mapping.

    Args:
        value: plain containers, as YAML gives them.
        annotation: its type: a scalar, a container of other annotations, or a dataclass.
        key: of the value, for the error.

    Raises:
        ValueError: names the full key, the value and its YAML type.
    """
    options = _options(annotation)
    accepted = {type(value), Any} & set(options)
    numeric = {int, float} & set(options)
    if isinstance(value, bool | int | float) and str in options and not accepted:
        if isinstance(value, bool) or not numeric:
            raise ValueError(f"{key}: {not_text(value)}")
    elif isinstance(value, bool | str) and numeric and not accepted:
        raise ValueError(f"{key}: {not_number(value)}")
    containers = {get_origin(option) or option for option in options}
    if isinstance(value, list) and containers & {dict, Mapping} and list not in containers:
        raise ValueError(f"{key}: it must be a mapping, such as {{a: b}}")
    for option in options:
        if isinstance(value, list) and get_origin(option) in (list, tuple):
            for number, item in enumerate(value):
                check_scalars(item, get_args(option)[0], f"{key}[{number}]")
        elif isinstance(value, Mapping) and get_origin(option) in (dict, Mapping):
            names, values = get_args(option)
            for name, item in value.items():
                check_scalars(name, names, f"{key}.{name}" if key else str(name))
                check_scalars(item, values, f"{key}.{name}" if key else str(name))
        elif isinstance(value, Mapping) and dataclasses.is_dataclass(option):
            hints = get_type_hints(option)
            for name, item in value.items():
                if name in hints:
                    check_scalars(item, hints[name], f"{key}.{name}" if key else str(name))


@functools.cache
def without_text_types(kind: type) -> type:
    """Copy a dataclass with Any in place of str, so that OmegaConf converts nothing to text."""
    hints = get_type_hints(kind)
    copies = []
    for each in dataclasses.fields(kind):
        loose = copy.copy(each)
        if dataclasses.is_dataclass(each.default_factory):
            loose.default_factory = without_text_types(each.default_factory)
        copies.append((each.name, _loosened(hints[each.name]), loose))
    return dataclasses.make_dataclass(kind.__name__, copies)


def _loosened(annotation: Any) -> Any:
    options = _options(annotation)
    if str in options:
        return Any
    if get_origin(annotation) is list:
        return list.__class_getitem__(_loosened(get_args(annotation)[0]))
    (only, *_) = options
    if isinstance(only, type) and dataclasses.is_dataclass(only):
        loose = without_text_types(only)
        return loose if options == [annotation] else Optional[loose]  # noqa: UP045 - at run time
    return annotation


def _options(annotation: Any) -> list[Any]:
    """List the types of a union, without None."""
    if get_origin(annotation) in (Union, UnionType):
        return [option for option in get_args(annotation) if option is not NoneType]
    return [annotation]
