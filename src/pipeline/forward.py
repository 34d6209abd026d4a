"""What one forward pass tells under every condition, chunk by chunk; nothing is generated."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float64
from torch import Tensor

from pipeline.engine.chunks import CHUNK_TOKENS, blocks
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import Reading, Scorer, mean_loss, of_reading
from pipeline.grid import Part
from pipeline.measures.logits import NextToken
from pipeline.measures.scores import TEXT_METRIC, long_table
from pipeline.model.loading import LanguageModel
from pipeline.runs.scratch import taken_up

GENERATED = ("answer", "generated")
"""Rules that name no token of a prompt: what is read after its last is as without an edit."""
ON_TEXT = ("none", "all", "after_first", "generated")
"""Rules that name tokens of any text; others name those of a prompt."""


def score_logits(
    model: LanguageModel,
    dataset: pd.DataFrame,
    parts: Sequence[Part],
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    work: Path,
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Logit metrics of every prompt of the parts; conditions at `GENERATED` have none.

    Returns:
        The long table of scores.
    """
    by_sample = dataset.set_index("sample")
    tables: list[pd.DataFrame] = []
    for part in parts if metrics else ():
        rows = by_sample.loc[list(part.samples)].reset_index()
        seen = [c for c in part.conditions if c.positions not in GENERATED]
        score = of_reading(partial(_measure, model, metrics, rows))
        scorer = partial(Scorer, model, score=score, clean=True)
        # Part by part: a scorer holds the edits of all its conditions.
        jobs = _jobs(f"{part.name}-logits", rows, seen, scorer, list(metrics), batch_tokens)
        tables += taken_up("logits", jobs, work)
    return long_table(tables)


def read_texts(
    model: LanguageModel,
    texts: pd.DataFrame,
    conditions: Sequence[Condition],
    work: Path,
    *,
    batch_tokens: int,
) -> pd.DataFrame:
    """Cross-entropy of unrelated texts under the conditions at `ON_TEXT`.

    Returns:
        The long table of scores; its split and label are "text".
    """
    here = [condition for condition in conditions if condition.positions in ON_TEXT]
    rows = texts.assign(split="text", label="text", topic=texts["sample"].map(str))
    scorer = partial(Scorer, model, score=mean_loss, ends=[1] * len(rows))
    jobs = _jobs("texts", rows, here, scorer, [TEXT_METRIC], batch_tokens)
    return long_table(taken_up("texts", jobs, work))


def _jobs(
    name: str,
    rows: pd.DataFrame,
    conditions: Sequence[Condition],
    make_scorer: Callable[..., Scorer],
    metrics: Sequence[str],
    batch_tokens: int,
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Chunks of prompts, each under all conditions, which share its clean run.

    Their size is the same on every device: a run may be taken up on another.
    """
    if rows.empty:
        return {}
    tokens = [list(map(int, own)) for own in rows["tokens"]]
    packed = blocks([len(own) for own in tokens], min(batch_tokens, CHUNK_TOKENS))
    scorer = make_scorer(tokens, conditions, batch_tokens=batch_tokens)
    columns = [condition.columns for condition in conditions]
    samples = rows[["sample", "split", "label", "topic"]]

    def make(chunk: list[int]) -> pd.DataFrame:
        scores = scorer(chunk).reshape(len(columns), len(chunk), len(metrics))
        chunk_samples = samples.loc[chunk].to_dict("records")
        return pd.DataFrame(
            [
                {**condition, **sample, "repeat": 0, "metric": metric, "score": value}
                for n, metric in enumerate(metrics)
                for condition, values in zip(columns, scores[..., n].tolist(), strict=True)
                for sample, value in zip(chunk_samples, values, strict=True)
            ]
        ).astype({"layer": "Int64"})

    return {f"{name}-{n:05d}": partial(make, chunk) for n, chunk in enumerate(packed)}


def _measure(
    model: LanguageModel,
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    rows: pd.DataFrame,
    read: Reading,
) -> Float64[Tensor, "rows metrics"]:
    samples = rows.iloc[read.prompts].reset_index(drop=True)
    after = NextToken(read.logits, read.clean, model.tokenizer, samples)
    return torch.stack([metric(after).double() for metric in metrics.values()], -1)
