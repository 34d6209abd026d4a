"""Chat templates: instructions to the tokens a model is given, and positions found in them."""

import functools
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

log = logging.getLogger(__name__)
UNLIKE = ("Why 7?", "a) Sing!b")
"""Instructions that share no token at their ends."""
DATE = "26 Jul 2024"
"""Given to templates that would write today's date: a prompt is the same on every day."""


def render(
    tokenizer: Any,
    instruction: str,
    *,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text of one user turn up to where the model's answer begins.

    A base model without a chat template gets the instruction and a line break. A system text
    stands in a turn of its own; where the template takes none, it and a blank line precede the
    instruction.

    Args:
        tokenizer: holds the template.
        instruction: what the user says.
        system: what the system turn says; None is no such turn.
        variables: further variables of the template, such as `enable_thinking`.
    """
    if system is not None and not takes_system(tokenizer):
        instruction, system = f"{system}\n\n{instruction}", None
    if tokenizer.chat_template is None:
        return instruction + "\n"
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": instruction})
    return _apply(tokenizer, turns, variables or {})


def takes_system(tokenizer: Any) -> bool:
    """Whether the template writes a system turn.

    Some refuse it, some leave it out silently, and some would take it for the user's.
    """
    if tokenizer.chat_template is None:
        return False
    turns = [{"role": "system", "content": UNLIKE[0]}, {"role": "user", "content": UNLIKE[1]}]
    try:
        rendered = _apply(tokenizer, turns, {})
    except jinja2.TemplateError:
        return False
    return all(text in rendered for text in UNLIKE)


def announce(tokenizer: Any, system: str | None = None) -> None:
    """Say where prompts are not what a chat model's user would expect."""
    if tokenizer.chat_template is None:
        log.warning("the tokenizer has no chat template: prompts are the instruction and a newline")
    if system is not None and not takes_system(tokenizer):
        log.warning("the chat template takes no system turn: its text precedes the instruction")


def encode(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """Tokens of a prompt, with the begin-of-sequence token once if the tokenizer adds one.

    A rendered chat template has written its special tokens already; a `raw` text has not.
    """
    return tokenizer.encode(prompt, add_special_tokens=_needs_special(tokenizer, prompt, raw))


def with_answer(
    tokenizer: Any, prompt: str, answer: str, *, raw: bool = False
) -> tuple[list[int], tuple[int, ...]]:
    """Tokens of a prompt followed by an answer, and the positions of those that hold the answer.

    Raises:
        ValueError: the answer is empty.
    """
    if not answer:
        raise ValueError(f"there is no answer to {prompt!r}")
    text = prompt + answer
    return encode(tokenizer, text, raw=raw), _span(tokenizer, text, len(prompt), len(text), raw)


@functools.lru_cache(maxsize=2**16)
def first_token(tokenizer: Any, prompt: str, answer: str, *, raw: bool = False) -> int:
    """The token that an answer begins with after the tokens of a prompt.

    Raises:
        ValueError: the answer is empty, or the prompt's last token becomes another one before it.
    """
    tokens, places = with_answer(tokenizer, prompt, answer, raw=raw)
    if tokens[: places[0]] != encode(tokenizer, prompt, raw=raw):
        raise ValueError(
            f"the tokens of answer {answer!r} do not follow those of its prompt, which ends in "
            f"{prompt[-10:]!r}"
        )
    return tokens[places[0]]


def subject_position(tokenizer: Any, prompt: str, subject: str, *, raw: bool = False) -> int:
    """Position of the last token of a subject, at its last mention in the prompt.

    Raises:
        ValueError: the subject is empty or not in the prompt.
    """
    start = prompt.rfind(subject)
    if not subject or start < 0:
        raise ValueError(f"subject {subject!r} is not in the prompt {prompt!r}")
    return _span(tokenizer, prompt, start, start + len(subject), raw)[-1]


def template_length(tokenizer: Any, *, variables: Mapping[str, Any] | None = None) -> int:
    """How many tokens the template puts after the instruction: at least 1.

    Found from the template itself: the tokens that two unlike instructions end in alike.
    """
    first, second = (
        encode(tokenizer, render(tokenizer, text, variables=variables)) for text in UNLIKE
    )
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return max(shared, 1)


def template_digest(tokenizer: Any) -> str:
    """Hash of the chat template, "none" without one."""
    if tokenizer.chat_template is None:
        return "none"
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]


def single_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The token of each word, as an answer begins with it.

    Raises:
        ValueError: a word that is not one token.
    """
    found = []
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(f"{word!r} is {len(ids)} tokens to the model, not one: {pieces}")
        found.append(ids[0])
    return found


def _apply(tokenizer: Any, turns: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
    return tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **{"date_string": DATE, **variables}
    )


def _needs_special(tokenizer: Any, prompt: str, raw: bool) -> bool:
    bos = tokenizer.bos_token
    return (raw or tokenizer.chat_template is None) and not (bos and prompt.startswith(bos))


def _span(tokenizer: Any, text: str, start: int, end: int, raw: bool) -> tuple[int, ...]:
    """Positions of the tokens that hold any of the characters from `start` to `end`."""
    spans = tokenizer(
        text,
        add_special_tokens=_needs_special(tokenizer, text, raw),
        return_offsets_mapping=True,
    )["offset_mapping"]
    return tuple(n for n, (first, last) in enumerate(spans) if first < end and start < last)
