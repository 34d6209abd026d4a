"""Check the overrides of a study as they were typed, before Hydra composes them."""

import re
from collections.abc import Callable, Sequence


def check_overrides(
    study: str, overrides: Sequence[str], has_several_values: Callable[[str], bool]
) -> None:
    """Fail at an override that Hydra would refuse in terms of its own command, or would ignore.

    Args:
        study: the study's name.
        overrides: as they were typed.
        has_several_values: whether an override gives a key several values; raises a ValueError if
            it cannot be parsed.

    Raises:
        ValueError: no key or value, several values, another study, or a setting of Hydra; names
            what was typed and what is valid.
    """
    for typed in overrides:
        key, sign, value = re.sub(r"^[~+]+", "", typed).partition("=")
        group = key.partition("@")[0].strip()
        if not group or not (sign or typed.startswith("~")):
            lacks = "value" if group else "key"
            raise ValueError(
                f"override {typed!r} has no {lacks}; valid: KEY=VALUE, such as sweep.seed=1"
            )
        if group == "study":
            raise ValueError(
                f"override {typed!r} names another study than {study}; valid: actsweep run "
                f"{value or 'STUDY'}"
            )
        if re.split(r"[./]", group)[0] == "hydra":
            raise ValueError(
                f"override {typed!r} is a setting of Hydra, which has no effect; outputs are in "
                "outputs/; valid: keys of the study, such as sweep.seed=1"
            )
        if has_several_values(typed):
            raise ValueError(
                f"override {typed!r} has several values, and a run has one; valid: {key}=VALUE; "
                f"for a list {key}=[A,B], for text with a comma '{key}=\"A,B\"'"
            )
