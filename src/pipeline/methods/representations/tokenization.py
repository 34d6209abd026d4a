"""How a tokenizer splits texts: a row for every token."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.data.prompts import check_columns
from pipeline.measures.text import texts_of
from pipeline.model.loading import LanguageModel


def token_table(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    columns: list[str] = ["instruction"],  # noqa: B006 - never changed
) -> pd.DataFrame:
    """Tabulate the tokens of texts, with the bytes that each stands for.

    Texts are split as they stand in the dataset, without a chat template and without special tokens
    around them. A word is a run of characters other than blanks, so that scripts without blanks
    between words have few; bytes per token compares those too.

    Args:
        model: the model, whose tokenizer splits.
        prompts: a dataset.
        columns: of the dataset, with the texts; empty ones are skipped.

    Returns:
        One row per token: `sample`, `label`, `split`, `topic`, `column`, `text`, `index` (from 0),
        `token`, `piece` (its text; a token that is part of a character has none of its own),
        `bytes` (hexadecimal), and of the text `tokens`, `words`, `characters`, `text_bytes`.

    Raises:
        ValueError: an unknown column, a number in place of a text, or no text in any of them.
    """
    check_columns(prompts, columns)
    tables = []
    for column in columns:
        for text, row in zip(texts_of(prompts, column), prompts.to_dict("records"), strict=True):
            if not text:
                continue
            shared = {name: row[name] for name in ("sample", "label", "split", "topic")}
            tokens = model.tokenizer.encode(text, add_special_tokens=False)
            shared["column"] = column
            tables.append(text_tokens(model.tokenizer, text, tokens, shared))
    if not tables:
        raise ValueError(f"no text in columns {', '.join(columns) or 'none'}; valid: one or more")
    return pd.concat(tables, ignore_index=True)


def text_tokens(
    tokenizer: Any, text: str, tokens: Sequence[int], shared: Mapping[str, Any]
) -> pd.DataFrame:
    """Tabulate the tokens of one text as `token_table`, with columns that all rows share."""
    contents = [token_bytes(tokenizer, token) for token in tokens]
    return pd.DataFrame(
        {
            **shared,
            "text": text,
            "index": range(len(tokens)),
            "token": tokens,
            "piece": [content.decode(errors="replace") for content in contents],
            "bytes": [content.hex(" ") for content in contents],
            "tokens": len(tokens),
            "words": len(text.split()),
            "characters": len(text),
            "text_bytes": len(text.encode()),
        }
    )


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """Return the bytes that a token stands for, as inside of a text.

    Byte-level tokenizers (GPT-2, Llama 3) write each byte as a printable character, SentencePiece
    (Llama 2, Gemma) a blank as ▁ and a byte without a token of its own as <0xE4>.
    """
    name = tokenizer.convert_ids_to_tokens(token)
    if name in tokenizer.all_special_tokens or token in tokenizer.added_tokens_decoder:
        return name.encode()
    kind = str(tokenizer.backend_tokenizer.decoder)
    if "ByteLevel" in kind:
        return bytes(_BYTES[character] for character in name)
    if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", name):
        return bytes.fromhex(byte[1])
    return name.replace("▁", " ").encode()


def _byte_characters() -> dict[str, int]:
    """Map the characters of byte-level vocabularies to bytes.

    Printable bytes of Latin-1 stand for themselves, the others, in order, for U+0100 onwards.
    """
    printable = [n for n in range(256) if 33 <= n <= 126 or (161 <= n <= 255 and n != 173)]
    others = (n for n in range(256) if n not in printable)
    return {chr(n): n for n in printable} | {chr(256 + k): n for k, n in enumerate(others)}


_BYTES = _byte_characters()
