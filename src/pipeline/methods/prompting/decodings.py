"""Arms with decodings of their own."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import product
from typing import Any

from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import single_tokens


def decoding_grid(
    *,
    temperatures: list[float],
    top_k: list[int],
    top_p: list[float],
    decoding: dict[str, Any],
) -> Iterator[Condition]:
    """Yield a condition for every combination of temperature, top-k and top-p.

    Top-k is applied before top-p, both to the probabilities at the temperature
    (`engine.decoding.choose`). Axes: `temperature`, `top_k` (0: all tokens), `top_p`.

    Args:
        temperatures: 0 decodes greedily, which needs `repeats: 1`.
        top_k: numbers of likeliest tokens; 0 for all.
        top_p: total probabilities of the likeliest tokens; 1 for all.
        decoding: all other decoding options; `${sweep.decoding}` for the study's.

    Raises:
        ValueError: an empty list, or an unknown decoding option or one out of range.
    """
    grid: dict[str, list[Any]] = {"temperature": temperatures, "top_k": top_k, "top_p": top_p}
    for name, values in grid.items():
        if not values:
            raise ValueError(f"no value of {name}; valid: one or more")
    for levels in product(*grid.values()):
        setting = dict(zip(grid, levels, strict=True))
        yield Condition(setting, decoding=_decoding(decoding, **setting))


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
    ids = tuple(single_tokens(model.tokenizer, tokens))
    yield Condition(
        {"forbidden": ", ".join(map(repr, tokens))}, decoding=_decoding(decoding, forbidden=ids)
    )


def forced_continuations(
    model: LanguageModel, *, texts: list[str], times: list[int], decoding: dict[str, Any]
) -> Iterator[Condition]:
    """Yield a condition for each text that takes the place of the completion's end, n times.

    Budget forcing: where the model would end, it reads the text instead and goes on; after n times
    it may end. Axes: `forced`, the text; `times`, n. Give `max_new_tokens` room for it.

    Args:
        model: provides the tokenizer.
        texts: such as " Wait,".
        times: numbers of times, 1 or more; the baseline is 0.
        decoding: all other decoding options; `${sweep.decoding}` for the study's.

    Raises:
        ValueError: no text or an empty one, a number below 1, or an unknown decoding option.

    Source: Muennighoff et al. 2025, "s1: Simple test-time scaling".
    """
    if not texts or "" in texts:
        raise ValueError(f"texts = {texts}; valid: one or more, none empty")
    if not times or min(times) < 1:
        raise ValueError(f"times = {times}; valid: one or more, from 1 on")
    for text, number in product(texts, times):
        tokens = tuple(model.tokenizer.encode(text, add_special_tokens=False))
        yield Condition(
            {"forced": repr(text), "times": number},
            decoding=_decoding(decoding, forced=tokens, times=number),
        )


def _decoding(options: Mapping[str, Any], **replaced: Any) -> Decoding:
    of_arms = ("forbidden", "forced", "times")
    valid = [field.name for field in fields(Decoding) if field.name not in of_arms]
    for name in options:
        if name not in valid:
            raise ValueError(f"decoding: {name!r} is unknown; valid: {', '.join(valid)}")
    return Decoding(**{**options, **replaced})
