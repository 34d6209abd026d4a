"""Tokenize rendered prompts and find token positions in them."""

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.model.chat import UNLIKE, render

_SCRIPTS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean: words need no blank between them."""
_BLANKLESS, _LETTER = re.compile(f"[{_SCRIPTS}]"), re.compile(rf"[^\W{_SCRIPTS}]")


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
        ValueError: the answer is empty, or appending it changes the tokens of the prompt.
    """
    if not answer:
        raise ValueError(f"there is no answer to {prompt!r}")
    text = prompt + answer
    tokens = encode(tokenizer, text, raw=raw)
    positions = _span(tokenizer, text, len(prompt), len(text), raw)
    if tokens[: positions[0]] != encode(tokenizer, prompt, raw=raw):
        raise ValueError(
            f"answer {answer!r} begins inside of the last token of its prompt, which ends in "
            f"{prompt[-10:]!r}; valid: a text with a first token of its own, mostly after a blank"
        )
    return tokens, positions


@functools.lru_cache(maxsize=2**16)
def first_token(tokenizer: Any, prompt: str, answer: str, *, raw: bool = False) -> int:
    """Return the first token of an answer after a prompt; errors as of `with_answer`."""
    tokens, answer_positions = with_answer(tokenizer, prompt, answer, raw=raw)
    return tokens[answer_positions[0]]


def subject_positions(
    tokenizer: Any,
    prompt: str,
    subject: str,
    *,
    instruction: str | None = None,
    start: int = -1,
    tail: str = "",
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
        tail: `template_tail`, where the instruction is not looked for.
        raw: see `encode`.

    Raises:
        ValueError: the subject is empty or not in the instruction.
    """
    text = prompt if instruction is None else instruction.strip()
    searched = not raw and instruction is not None and prompt.endswith(tail)
    end = len(prompt) - (len(tail) if searched else 0)
    begin = prompt.rfind(text, 0, end)
    if begin < 0:  # The template changed the instruction.
        text, begin, start = prompt, 0, -1
    if start >= 0 and instruction is not None:
        start -= len(instruction) - len(instruction.lstrip())
    else:
        start = last_mention(text, subject)
    if not subject or start < 0:
        raise ValueError(f"subject {subject!r} is not in the prompt {text!r}")
    positions = _span(tokenizer, prompt, begin + start, begin + start + len(subject), raw)
    if not positions:
        raise ValueError(f"subject_start {start} is past the end of {text!r}")
    return positions


def template_tail(tokenizer: Any, *, variables: Mapping[str, Any] | None = None) -> str:
    """Return what the template puts after the instruction."""
    return render(tokenizer, UNLIKE[0], variables=variables).rpartition(UNLIKE[0])[2]


def last_mention(text: str, subject: str) -> int:
    """Find the last mention as a whole word; -1 if there is none.

    A word ends at a character of a script without blanks between words, such as Chinese, but never
    before a combining mark, such as the accent of a decomposed é.
    """
    start = text.rfind(subject) if subject else -1
    while start > 0 and not _is_whole(text, start, start + len(subject)):
        start = text.rfind(subject, 0, start + len(subject) - 1)
    is_whole_word = start >= 0 and _is_whole(text, start, start + len(subject))
    return start if is_whole_word else -1


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] begins and ends where a word does."""
    before, after = text[start - 1 : start], text[end : end + 1]
    begins = not (is_of_word(text[start]) and is_of_word(before))
    ends = not (is_of_word(text[end - 1]) and is_of_word(after))
    return begins and ends and not _is_mark(after)


def is_of_word(character: str) -> bool:
    """Whether it is a letter, digit or mark of a script with blanks between words."""
    return bool(_LETTER.match(character)) or (
        _is_mark(character) and not _BLANKLESS.match(character)
    )


def _is_mark(character: str) -> bool:
    return character != "" and unicodedata.category(character).startswith("M")


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


def _needs_special(tokenizer: Any, prompt: str, raw: bool) -> bool:
    bos = tokenizer.bos_token
    return (raw or tokenizer.chat_template is None) and not (bos and prompt.startswith(bos))


def _encoded(tokenizer: Any, text: str, raw: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the tokens of a prompt, and the characters from first to last that each is from."""
    special = _needs_special(tokenizer, text, raw)
    try:
        encoding = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    # The tokenizers library raises nothing narrower, such as for a vocabulary without [UNK].
    except Exception as error:
        raise ValueError(f"the tokenizer has no tokens for {text!r}: {error}") from error
    tokens, spans = encoding["input_ids"], encoding["offset_mapping"]
    end = len(tokens)
    while special and end > 1 and spans[end - 1][0] == spans[end - 1][1]:
        end -= 1
    return tokens[:end], spans[:end]


def _span(tokenizer: Any, text: str, start: int, end: int, raw: bool) -> tuple[int, ...]:
    """Return the positions of the tokens that overlap the characters from `start` to `end`."""
    _, spans = _encoded(tokenizer, text, raw)
    return tuple(n for n, (first, last) in enumerate(spans) if first < end and start < last)
