"""Render prompts by chat templates."""

import functools
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from unittest.mock import patch

import jinja2
import jinja2.meta
import jinja2.nodes
from transformers.utils import chat_template_utils

log = logging.getLogger(__name__)
UNLIKE = ("Why 7?", "a) Sing!b")
"""Instructions without a common first or last token."""
_SET = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "namespace"}
"""Variables of a template that are set for it."""


class _FixedDate(datetime):
    """The date of templates that insert today's, so that a prompt is the same every day."""

    @classmethod
    def now(cls, tz: Any = None) -> "_FixedDate":
        return cls(2024, 7, 26, tzinfo=tz)


def render(
    tokenizer: Any,
    instruction: str,
    *,
    system: str | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Render one user turn up to where the model's answer begins.

    Without a chat template, as for base models, this is the instruction and a line break. If the
    template takes no system turn, the system text and a blank line precede the instruction, and an
    empty text is none.

    Args:
        tokenizer: tokenizer, which holds the template.
        instruction: text of the user turn.
        system: text of the system turn; None for no system turn, where some templates write one of
            their own.
        variables: further variables of the template, such as `enable_thinking`.

    Raises:
        ValueError: the template fails, or leaves out the instruction or changes it.
    """
    if system is not None and not takes_system(tokenizer):
        instruction, system = f"{system}\n\n{instruction}" if system else instruction, None
    if tokenizer.chat_template is None:
        return instruction + "\n"
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns.append({"role": "user", "content": instruction})
    prompt = _apply(tokenizer, turns, variables or {})
    if instruction.strip() not in prompt:
        raise ValueError(
            f"the chat template does not contain the instruction as it is: {instruction!r} becomes "
            f"{prompt!r}"
        )
    return prompt


def render_conversation(
    tokenizer: Any, turns: Sequence[str], *, variables: Mapping[str, Any] | None = None
) -> str:
    """Render turns of user and model, the user's first, up to where the model's answer begins.

    Raises:
        ValueError: turns that do not end with the user's, no chat template, or one that fails.
    """
    if len(turns) % 2 == 0:
        raise ValueError(f"{len(turns)} turns; valid: an odd number, the user's first and last")
    if tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template: it renders no conversation")
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return _apply(tokenizer, messages, variables or {})


def listed(instructions: Iterable[str]) -> list[str]:
    """List instructions; a single text would be taken for a list of its characters.

    Raises:
        ValueError: one text in place of a list, or an item that is no text.
    """
    if isinstance(instructions, str):
        raise ValueError(f"instructions is one text, {instructions!r}; valid: a list of texts")
    # Their iterators give the names of columns and keys.
    if isinstance(instructions, Mapping) or hasattr(instructions, "columns"):
        what = type(instructions).__name__
        raise ValueError(f"instructions is a {what}; valid: a list of texts, such as a column")
    if not isinstance(instructions, Iterable):
        raise ValueError(f"instructions is {instructions!r}; valid: a list of texts")
    texts = list(instructions)
    for number, instruction in enumerate(texts):
        if not isinstance(instruction, str):
            raise ValueError(f"instruction {number} is {instruction!r}; valid: a text")
    return texts


def takes_system(tokenizer: Any) -> bool:
    """Whether the template renders a system turn.

    Some templates raise an error, some drop it silently, and some take it for the user turn.
    """
    if tokenizer.chat_template is None:
        return False
    turns = [{"role": "system", "content": UNLIKE[0]}, {"role": "user", "content": UNLIKE[1]}]
    try:
        rendered = _apply(tokenizer, turns, {})
    except ValueError:
        return False
    return all(text in rendered for text in UNLIKE)


def announce(
    tokenizer: Any, system: str | None = None, variables: Mapping[str, Any] | None = None
) -> None:
    """Warn if there is no chat template, or if it takes no system turn.

    Raises:
        ValueError: a variable that the template does not have, or a template that fails or draws at
            random.
    """
    _check_variables(tokenizer, variables or {})
    render(tokenizer, UNLIKE[0], variables=variables)
    if tokenizer.chat_template is None:
        log.warning("the tokenizer has no chat template: prompts are the instruction and a newline")
    if system and not takes_system(tokenizer):
        log.warning("the chat template takes no system turn: its text precedes the instruction")


def _check_variables(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """Fail if the chat template has no such variable: setting it would change nothing."""
    names = _variables_of(tokenizer.chat_template or "")
    for variable in variables:
        if variable not in names:
            raise ValueError(
                f"model.template: the chat template has no variable {variable!r}; it has: "
                f"{', '.join(sorted(names)) or 'none'}"
            )


@functools.cache
def _variables_of(template: str) -> set[str]:
    """Return the variables of a template that a study may set.

    Raises:
        ValueError: a template that fails, or that draws at random: a prompt would not be the same
            twice.
    """
    # A tag of transformers, which plain jinja does not know.
    known = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        parsed = environment.parse(known)
        names = jinja2.meta.find_undeclared_variables(parsed) - _SET
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template fails: {error}") from error
    if any(item.name == "random" for item in parsed.find_all(jinja2.nodes.Filter)):
        raise ValueError("the chat template draws at random: a prompt would not be the same twice")
    return names


def template_digest(tokenizer: Any) -> str:
    """Hash the chat template; "none" if there is none."""
    if tokenizer.chat_template is None:
        return "none"
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]


def _apply(tokenizer: Any, turns: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
    _variables_of(tokenizer.chat_template)
    date = {"date_string": _FixedDate.now().strftime("%d %b %Y")}
    # A template's `strftime_now` can be replaced in no other way: variables are made plain data.
    with patch.object(chat_template_utils, "datetime", _FixedDate):
        try:
            return tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **{**date, **variables}
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template fails: {error}") from error
