"""Render chat templates, tokenize prompts and find token positions in them."""

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
from transformers.utils import chat_template_utils

log = logging.getLogger(__name__)
UNLIKE = ("Why 7?", "a) Sing!b")
"""Instructions without a common first or last token."""
_SET = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "namespace"}
"""Variables of a template that are set for it."""


_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean: words need no blank between them."""
_BLANKLESS, _LETTER = f"[{_SCRIPTS}]", rf"[^\W{_SCRIPTS}]"


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
    template takes no system turn, the system text and a blank line precede the instruction.

    Args:
        tokenizer: tokenizer, which holds the template.
        instruction: text of the user turn.
        system: text of the system turn; None for no system turn.
        variables: further variables of the template, such as `enable_thinking`.

    Raises:
        ValueError: the template fails, or leaves out the instruction or changes it.
    """
    if system is not None and not takes_system(tokenizer):
        instruction, system = f"{system}\n\n{instruction}", None
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
        ValueError: a variable that the template does not have, or a template that fails.
    """
    _check_variables(tokenizer, variables or {})
    render(tokenizer, UNLIKE[0], variables=variables)
    if tokenizer.chat_template is None:
        log.warning("the tokenizer has no chat template: prompts are the instruction and a newline")
    if system is not None and not takes_system(tokenizer):
        log.warning("the chat template takes no system turn: its text precedes the instruction")


def _check_variables(tokenizer: Any, variables: Mapping[str, Any]) -> None:
    """Fail if the chat template has no such variable: setting it would change nothing."""
    # A tag of transformers, which plain jinja does not know.
    template = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", tokenizer.chat_template or "")
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        names = jinja2.meta.find_undeclared_variables(environment.parse(template)) - _SET
    except jinja2.TemplateError as error:
        raise ValueError(f"the chat template fails: {error}") from error
    for variable in variables:
        if variable not in names:
            raise ValueError(
                f"model.template: the chat template has no variable {variable!r}; it has: "
                f"{', '.join(sorted(names)) or 'none'}"
            )


def encode(tokenizer: Any, prompt: str, *, raw: bool = False) -> list[int]:
    """Tokenize a prompt, with exactly one beginning-of-sequence token if the tokenizer adds one.

    A rendered chat template contains its special tokens already; a `raw` text does not. Tokens that
    the tokenizer adds after the text, such as an end-of-sequence token, are left out: the prompt is
    to be continued.
    """
    return _encoded(tokenizer, prompt, raw)[0]


def with_answer(
    tokenizer: Any, prompt: str, answer: str, *, raw: bool = False
) -> tuple[list[int], tuple[int, ...]]:
    """Tokenize a prompt followed by an answer, and return the positions of the answer's tokens.

    Raises:
        ValueError: the answer is empty.
    """
    if not answer:
        raise ValueError(f"there is no answer to {prompt!r}")
    text = prompt + answer
    return encode(tokenizer, text, raw=raw), _span(tokenizer, text, len(prompt), len(text), raw)


@functools.lru_cache(maxsize=2**16)
def first_token(tokenizer: Any, prompt: str, answer: str, *, raw: bool = False) -> int:
    """Return the first token of an answer after a prompt.

    Raises:
        ValueError: the answer is empty, or appending it changes the tokens of the prompt.
    """
    tokens, answer_positions = with_answer(tokenizer, prompt, answer, raw=raw)
    if tokens[: answer_positions[0]] != encode(tokenizer, prompt, raw=raw):
        raise ValueError(
            f"the tokens of answer {answer!r} do not follow those of its prompt, which ends in "
            f"{prompt[-10:]!r}"
        )
    return tokens[answer_positions[0]]


def subject_positions(
    tokenizer: Any,
    prompt: str,
    subject: str,
    *,
    instruction: str | None = None,
    start: int = -1,
    raw: bool = False,
) -> tuple[int, ...]:
    """Return the positions of a subject's tokens in a rendered prompt.

    Args:
        tokenizer: the tokenizer.
        prompt: the rendered prompt.
        subject: text of the subject.
        instruction: the part of the prompt that is searched, without the template; None: all of it.
        start: index of the subject in the instruction; -1: its last mention as a whole
            word.
        raw: see `encode`.

    Raises:
        ValueError: the subject is empty or not in the instruction.
    """
    text = prompt if instruction is None else instruction.strip()
    after = "" if raw or instruction is None else _after_instruction(tokenizer)
    end = len(prompt) - (len(after) if prompt.endswith(after) else 0)
    begin = prompt.rfind(text, 0, end)
    if begin < 0:  # The template changed the instruction.
        text, begin, start = prompt, 0, -1
    if start >= 0 and instruction is not None:
        start -= len(instruction) - len(instruction.lstrip())
    else:
        start = _last_mention(text, subject)
    if not subject or start < 0:
        raise ValueError(f"subject {subject!r} is not in the prompt {text!r}")
    return _span(tokenizer, prompt, begin + start, begin + start + len(subject), raw)


@functools.lru_cache
def _after_instruction(tokenizer: Any) -> str:
    """Return what the template puts after the instruction; a subject is not looked for there."""
    return render(tokenizer, UNLIKE[0]).rpartition(UNLIKE[0])[2]


def _last_mention(text: str, subject: str) -> int:
    """Find the last mention as a whole word; -1 if there is none.

    A word ends at a character of a script without blanks between words, such as Chinese.
    """
    before = "" if re.match(_BLANKLESS, subject[:1]) else rf"(?<!{_LETTER})"
    after = "" if re.match(_BLANKLESS, subject[-1:]) else rf"(?!{_LETTER})"
    mentions = list(re.finditer(f"{before}{re.escape(subject)}{after}", text))
    return mentions[-1].start() if mentions else -1


def template_length(tokenizer: Any, *, variables: Mapping[str, Any] | None = None) -> int:
    """Count the tokens that the template puts after the instruction; at least 1.

    This is the length of the common token suffix of two instructions that end differently.
    """
    first, second = (
        encode(tokenizer, render(tokenizer, text, variables=variables)) for text in UNLIKE
    )
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return max(shared, 1)


def template_digest(tokenizer: Any) -> str:
    """Hash the chat template; "none" if there is none."""
    if tokenizer.chat_template is None:
        return "none"
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]


def single_tokens(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """Return the token id of each word, without special tokens.

    Raises:
        ValueError: a word is not a single token.
    """
    tokens = []
    for word in words:
        ids = tokenizer.encode(word, add_special_tokens=False)
        if len(ids) != 1:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(f"{word!r} is {len(ids)} tokens to the model, not one: {pieces}")
        tokens.append(ids[0])
    return tokens


def _apply(tokenizer: Any, turns: list[dict[str, str]], variables: Mapping[str, Any]) -> str:
    date = {"date_string": _FixedDate.now().strftime("%d %b %Y")}
    # A template's `strftime_now` can be replaced in no other way: variables are made plain data.
    with patch.object(chat_template_utils, "datetime", _FixedDate):
        try:
            return tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **{**date, **variables}
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template fails: {error}") from error


def _needs_special(tokenizer: Any, prompt: str, raw: bool) -> bool:
    bos = tokenizer.bos_token
    return (raw or tokenizer.chat_template is None) and not (bos and prompt.startswith(bos))


def _encoded(tokenizer: Any, text: str, raw: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a prompt, and the characters from first to last that each is from."""
    special = _needs_special(tokenizer, text, raw)
    encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    tokens, spans = encoding["input_ids"], encoding["offset_mapping"]
    end = len(tokens)
    while special and end > 1 and spans[end - 1][0] == spans[end - 1][1]:
        end -= 1
    return tokens[:end], spans[:end]


def _span(tokenizer: Any, text: str, start: int, end: int, raw: bool) -> tuple[int, ...]:
    """Return the positions of the tokens that overlap the characters from `start` to `end`."""
    _, spans = _encoded(tokenizer, text, raw)
    return tuple(n for n, (first, last) in enumerate(spans) if first < end and start < last)
