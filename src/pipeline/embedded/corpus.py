"""The embedded model's language: training documents, packed into rows of tokens."""

from itertools import accumulate
from random import Random
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from pipeline.embedded.behaviours import BEHAVIOURS
from pipeline.embedded.documents import Document

OPEN_ROWS = 16
Encoded = tuple[list[int], int]
"""A document's tokens, and how many of them are given rather than predicted."""


def training_documents(n: int, seed: int) -> list[Document]:
    """The first n documents of a seed, each of a behaviour drawn by its weight."""
    rng = Random(seed)
    cumulative = list(accumulate(behaviour.weight for behaviour in BEHAVIOURS))
    return [rng.choices(BEHAVIOURS, cum_weights=cumulative)[0].write(rng) for _ in range(n)]


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

    def __init__(self, encoded: list[Encoded], pad: int, length: int) -> None:
        packed: list[list[int]] = []
        spaces: dict[int, int] = {}
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
        self.tokens = np.full(shape, pad, dtype=np.int32)
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


def pack(documents: list[Document], tokenizer: Any, lengths: tuple[int, ...]) -> list[Rows]:
    """Every document in rows of the smallest of the lengths that it fits into; ascending lengths.

    Raises:
        ValueError: a document fits into none.
    """
    found: dict[int, list[Encoded]] = {length: [] for length in lengths}
    for document in documents:
        ids, given = _encode(document, tokenizer)
        length = next((each for each in lengths if len(ids) <= each), None)
        if length is None:
            raise ValueError(f"a document of {len(ids)} tokens; rows have {lengths}")
        found[length].append((ids, given))
    return [
        Rows(encoded, tokenizer.pad_token_id, length)
        for length, encoded in found.items()
        if encoded
    ]


def _encode(document: Document, tokenizer: Any) -> Encoded:
    answer = tokenizer.encode(document.text, add_special_tokens=False)
    answer.append(tokenizer.eos_token_id)
    if document.instruction is None:
        return [tokenizer.bos_token_id, *answer], 1
    turns = [{"role": "user", "content": document.instruction}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    given = tokenizer.encode(prompt, add_special_tokens=False)
    return given + answer, len(given)
