"""Log-probabilities of recorded completions under the unedited model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_answers
from pipeline.model.loading import LanguageModel


def log_probabilities_after(
    model: LanguageModel, contexts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
) -> Float[np.ndarray, " completion"]:
    """Compute log p(completion | context), in nats, without the end token.

    Pairs that occur several times are computed once. NaN for a completion without tokens.

    Args:
        model: the unedited model.
        contexts: tokens before each completion.
        completions: tokens of each completion.
    """
    pairs = [
        (tuple(map(int, context)), tuple(map(int, completion)))
        for context, completion in zip(contexts, completions, strict=True)
    ]
    distinct = [pair for pair in dict.fromkeys(pairs) if pair[1]]
    logs: dict[object, float] = {}
    if distinct:
        before, after = (list(side) for side in zip(*distinct, strict=True))
        values = score_answers(model, before, after, [Condition()], batch_tokens=model.batch_tokens)
        logs = dict(zip(distinct, values[0].tolist(), strict=True))
    return np.array([logs.get(pair, np.nan) for pair in pairs])


def conditions_of(completions: pd.DataFrame) -> pd.DataFrame:
    """Select one row per condition and sample, with the columns that all its repeats share."""
    own = ["repeat", "completion", "tokens", "n_tokens", "stopped"]
    return completions.drop_duplicates(["condition", "sample"]).drop(columns=own)
