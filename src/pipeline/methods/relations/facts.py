"""Prompts of facts: where their subjects stand, and whether the model answers them."""

import numpy as np
import pandas as pd

from pipeline.data.positions import locate
from pipeline.engine.conditions import Condition, PromptPositions
from pipeline.engine.scoring import score_last
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import first_token


def subject_places(
    model: LanguageModel, prompts: pd.DataFrame
) -> tuple[list[list[int]], PromptPositions]:
    """Return the prompts' tokens and the positions of their subjects' last tokens."""
    tokens, places = locate(prompts, model.tokenizer, "subject", variables=model.template)
    listed = [[int(token) for token in row] for row in tokens.values()]
    return listed, PromptPositions("subject", list(places.values()))


def top_tokens(model: LanguageModel, prompts: pd.DataFrame) -> np.ndarray:
    """Return the model's likeliest token after each prompt."""
    tokens = [[int(token) for token in row] for row in prompts["tokens"]]
    (top,) = score_last(
        model,
        tokens,
        [Condition()],
        lambda logits: logits.argmax(-1).double(),
        batch_tokens=model.batch_tokens,
    )
    return top.cpu().numpy().astype(int)


def answered(model: LanguageModel, prompts: pd.DataFrame) -> np.ndarray:
    """Return 1 where the model's likeliest token is the first of the answer, else 0."""
    firsts = [
        first_token(model.tokenizer, prompt, answer, raw=bool(raw))
        for prompt, answer, raw in zip(
            prompts["prompt"], prompts["answer"], prompts["raw"], strict=True
        )
    ]
    return (top_tokens(model, prompts) == np.array(firsts)).astype(float)
