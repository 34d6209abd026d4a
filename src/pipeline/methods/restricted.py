"""Arms with restricted decoding."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.model.chat import single_tokens
from pipeline.model.loading import LanguageModel


def forbidden_tokens(
    model: LanguageModel, *, tokens: list[str], decoding: dict[str, Any]
) -> Iterator[Condition]:
    """Yield a condition that never samples the given tokens: probability 0 at every step.

    Axis: `forbidden`, the tokens.

    Args:
        model: provides the tokenizer.
        tokens: words of a single token each.
        decoding: all other decoding options; `${sweep.decoding}` for the study's.

    Raises:
        ValueError: a word that is not a single token, or an unknown decoding option.
    """
    valid = [field.name for field in fields(Decoding) if field.name != "forbidden"]
    for name in decoding:
        if name not in valid:
            raise ValueError(f"decoding: {name!r} is unknown; valid: {', '.join(valid)}")
    ids = single_tokens(model.tokenizer, tokens)
    yield Condition(
        {"forbidden": ", ".join(map(repr, tokens))},
        decoding=Decoding(**decoding, forbidden=tuple(ids)),
    )
