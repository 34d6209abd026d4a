"""One-line errors for a study's YAML: the full key, the value and the valid ones."""

import dataclasses
import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf.errors import KeyValidationError, OmegaConfBaseException


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Prefix ValueErrors with the study key that they concern."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def explain(error: OmegaConfBaseException, prefix: str) -> str:
    """Format an OmegaConf error as `key: problem`."""
    key = ".".join(part for part in (prefix, error.full_key or "") if part)
    text = (error.msg or str(error)).splitlines()[0]
    if isinstance(error, KeyValidationError):
        return f"{key}: {not_text(error.key)}"
    if "is not a ListConfig" in text:
        return f"{key}: it must be a list, such as [a] or [1, 2]"
    if "Cannot merge DictConfig with ListConfig" in text:
        return f"{key}: it must be a mapping, such as {{a: b}}"
    valid = _fields(error.object_type)
    if valid and (error.key is not None) and str(error.key) not in valid:
        return f"{key}: unknown key; {_suggest(str(error.key), valid)}"
    return f"{key}: {text}"


def not_text(value: Any) -> str:
    """Describe a YAML boolean or number that stands where text is expected."""
    kind = "boolean" if isinstance(value, bool) else "number"
    shown = str(value).lower() if isinstance(value, bool) else value
    return f"YAML reads this as the {kind} {shown}, but it must be text; quote it in the YAML"


def not_number(value: bool | str) -> str:
    """Describe a YAML boolean or text that stands where a number is expected."""
    if isinstance(value, bool):
        return f"YAML reads this as the boolean {str(value).lower()}, but it must be a number"
    return f"{value!r} is text, but it must be a number; leave the quotes out"


def one_line(error: BaseException) -> str:
    """Format the OmegaConf error behind a Hydra error like `explain`."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OmegaConfBaseException):
            return explain(cause, "")
        # Hydra raises while handling OmegaConf's error but does not set `__cause__`.
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(error).split()).partition(" Config search path")[0]


def _fields(kind: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _suggest(wrong: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(wrong, valid, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}valid: {', '.join(valid)}"
