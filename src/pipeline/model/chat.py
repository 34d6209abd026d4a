"""Chat templates: instructions to the tokens a model is given."""

import hashlib
import logging
from typing import Any

log = logging.getLogger(__name__)
UNLIKE = ("Why 7?", "a) Sing!b")
"""Instructions that share no token at their ends."""


def render(tokenizer: Any, instruction: str) -> str:
    """The text of one user turn up to where the model's answer begins.

    A base model without a chat template gets the instruction and a line break.
    """
    if tokenizer.chat_template is None:
        return instruction + "\n"
    turns = [{"role": "user", "content": instruction}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a rendered prompt; a chat template has written its special tokens already."""
    return tokenizer.encode(prompt, add_special_tokens=tokenizer.chat_template is None)


def template_length(tokenizer: Any) -> int:
    """How many tokens the template puts after the instruction: at least 1.

    Found from the template itself: the tokens that two unlike instructions end in alike.
    """
    first, second = (encode(tokenizer, render(tokenizer, text)) for text in UNLIKE)
    shared = 0
    while shared < min(len(first), len(second)) and first[-1 - shared] == second[-1 - shared]:
        shared += 1
    return max(shared, 1)


def template_digest(tokenizer: Any) -> str:
    """Hash of the chat template, "none" without one."""
    if tokenizer.chat_template is None:
        log.warning("the tokenizer has no chat template: prompts are the instruction and a newline")
        return "none"
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]
