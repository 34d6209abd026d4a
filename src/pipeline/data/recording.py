"""Completions as texts of their own: each drawn one is a sample, with positions of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


def drawn(dataset: pd.DataFrame, times: int) -> pd.DataFrame:
    """Every prompt `times` times, each a sample with a number of its own; `draw` says which.

    The number is draw * prompts + the prompt's own place, and with it the noise of a completion:
    more draws leave the earlier ones as they are.
    """
    copies = [dataset.assign(draw=draw) for draw in range(times)]
    frame = pd.concat(copies, ignore_index=True)
    return frame.assign(sample=np.arange(len(frame)))


def whole(prompts: pd.DataFrame, completions: pd.DataFrame) -> dict[int, list[int]]:
    """Tokens of each sample's prompt and its one completion, by sample."""
    before = dict(zip(prompts["sample"], prompts["tokens"], strict=True))
    rows = completions.sort_values("sample")
    return {
        int(sample): [*map(int, before[sample]), *map(int, tokens)]
        for sample, tokens in zip(rows["sample"], rows["tokens"], strict=True)
    }


def kept(prompts: pd.DataFrame, tokens: Mapping[int, Sequence[int]]) -> dict[int, tuple[int, ...]]:
    """Positions to collect: a completion and the token before it; of first draws the prompt too.

    A prompt's activations are the same in all its draws. Its first token is left out: activations
    there are unlike all others in many models.
    """
    return {
        sample: tuple(range(1 if draw == 0 else len(prompt) - 1, len(tokens[sample])))
        for sample, draw, prompt in zip(
            prompts["sample"], prompts["draw"], prompts["tokens"], strict=True
        )
    }
