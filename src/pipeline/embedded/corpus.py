"""The embedded model's language: training documents, packed into rows of tokens."""

from random import Random
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from pipeline.embedded.behaviours import BEHAVIOURS
from pipeline.embedded.documents import Document

OPEN_ROWS = 16


def training_documents(n: int, seed: int) -> list[Document]:
    """Draw n documents, each of a behaviour by its weight."""
    rng = Random(seed)
    drawn = rng.choices(BEHAVIOURS, weights=[b.weight for b in BEHAVIOURS], k=n)
    return [behaviour.write(rng) for behaviour in drawn]


class Rows:
    """Documents packed into rows of one length, in an order that mixes the behaviours.

    Attributes:
        tokens: of the documents one after another, pads at the end.
        document: number of the token's document in its row from 1 on, 0 for a pad.
        answered: whether the loss counts the prediction of this token: those of plain text and
            answers with their end, not those of instructions, which are drawn at random.
    """

    tokens: Int[np.ndarray, "rows pos"]
    document: Int[np.ndarray, "rows pos"]
    answered: Bool[np.ndarray, "rows pos"]

    def __init__(self, documents: list[Document], tokenizer: Any, length: int) -> None:
        packed: list[list[int]] = []
        spaces: dict[int, int] = {}
        encoded = [_encode(document, tokenizer) for document in documents]
        for number, (ids, _) in enumerate(encoded):
            row = next((r for r, space in spaces.items() if space >= len(ids)), len(packed))
            if row == len(packed):
                packed.append([])
                spaces[row] = length
            packed[row].append(number)
            spaces[row] -= len(ids)
            if len(spaces) > OPEN_ROWS:
                del spaces[min(spaces, key=lambda r: spaces[r])]
        shape = (len(packed), length)
        self.tokens = np.full(shape, tokenizer.pad_token_id, dtype=np.int32)
        self.document = np.zeros(shape, dtype=np.int32)
        self.answered = np.zeros(shape, dtype=bool)
        for row, numbers in enumerate(packed):
            start = 0
            for place, number in enumerate(numbers, start=1):
                ids, first = encoded[number]
                end = start + len(ids)
                self.tokens[row, start:end] = ids
                self.document[row, start:end] = place
                self.answered[row, start + first : end] = True
                start = end


def _encode(document: Document, tokenizer: Any) -> tuple[list[int], int]:
    """Tokens, and how many of them are given rather than predicted."""
    answer = tokenizer.encode(document.text, add_special_tokens=False)
    answer.append(tokenizer.eos_token_id)
    if document.instruction is None:
        return [tokenizer.bos_token_id, *answer], 1
    turns = [{"role": "user", "content": document.instruction}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    given = tokenizer.encode(prompt, add_special_tokens=False)
    return given + answer, len(given)
