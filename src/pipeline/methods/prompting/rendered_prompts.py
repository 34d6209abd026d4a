"""Conversations as the model gets them: with the special tokens of its chat template."""

import pandas as pd

from pipeline.methods.representations.tokenization import text_tokens
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import encode


def rendered_prompts(model: LanguageModel, *, conversations: dict[str, list[str]]) -> pd.DataFrame:
    """Tabulate the tokens of conversations under the chat template, and of single turns without.

    Args:
        model: the model, whose template and tokenizer are used.
        conversations: name -> turns of user and model in alternation, the user's first and last.

    Returns:
        As `tokenization.token_table`, with the name as `topic` and `label` `chat` or `raw`.

    Raises:
        ValueError: no conversations, turns that do not end with the user's, or no chat template.
    """
    if not conversations:
        raise ValueError("no conversations; valid: {name: [user, model, user, ...], ...}")
    texts = []
    for name, turns in conversations.items():
        if len(turns) == 1:
            texts.append((name, "raw", turns[0]))
        rendered = chat.render_conversation(model.tokenizer, turns, variables=model.template)
        texts.append((name, "chat", rendered))
    columns = {"split": "no", "column": "prompt"}
    return pd.concat(
        [
            text_tokens(
                model.tokenizer,
                text,
                encode(model.tokenizer, text, raw=label == "raw"),
                {"sample": sample, "label": label, "topic": f"{name}, {label}", **columns},
            )
            for sample, (name, label, text) in enumerate(texts)
        ],
        ignore_index=True,
    )
