"""What one forward pass tells under every condition, chunk by chunk; nothing is generated."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from pipeline.engine.chunks import CHUNK_TOKENS, blocks
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import Reading, cross_entropy, score_change
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
    jobs: dict[str, Callable[[], pd.DataFrame]] = {}
    for part in parts if metrics else ():
        rows = by_sample.loc[list(part.samples)].reset_index()
        seen = [c for c in part.conditions if c.positions not in GENERATED]
        jobs |= _jobs(
            model, f"{part.name}-logits", rows, seen, partial(_logits, metrics, rows), batch_tokens
        )
    return long_table(taken_up("logits", jobs, work))


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
    jobs = _jobs(model, "texts", rows, here, _losses, batch_tokens)
    return long_table(taken_up("texts", jobs, work))


_Scores = Callable[..., dict[str, Tensor]]


def _jobs(
    model: LanguageModel,
    name: str,
    rows: pd.DataFrame,
    conditions: Sequence[Condition],
    score: _Scores,
    batch_tokens: int,
) -> dict[str, Callable[[], pd.DataFrame]]:
    """Chunks of prompts, each under all conditions, which share its clean run.

    Their size is the same on every device: a run may be taken up on another.
    """
    tokens = [list(map(int, own)) for own in rows["tokens"]]
    packed = blocks([len(own) for own in tokens], min(batch_tokens, CHUNK_TOKENS))

    def make(chunk: list[int]) -> pd.DataFrame:
        found = score(model, tokens, conditions, only=chunk, batch_tokens=batch_tokens)
        who = rows.loc[chunk, ["sample", "split", "label", "topic"]].to_dict("records")
        return pd.DataFrame(
            [
                {**condition.columns, **sample, "repeat": 0, "metric": metric, "score": value}
                for metric, values in found.items()
                for condition, scores in zip(conditions, values.tolist(), strict=True)
                for sample, value in zip(who, scores, strict=True)
            ]
        ).astype({"layer": "Int64"})

    return {f"{name}-{n:05d}": partial(make, chunk) for n, chunk in enumerate(packed)}


def _logits(
    metrics: Mapping[str, Callable[[NextToken], Tensor]],
    rows: pd.DataFrame,
    model: LanguageModel,
    prompts: list[list[int]],
    conditions: Sequence[Condition],
    *,
    only: list[int],
    batch_tokens: int,
) -> dict[str, Tensor]:
    def measure(read: Reading) -> Tensor:
        samples = rows.iloc[read.prompts].reset_index(drop=True)
        after = NextToken(read.logits, read.clean, model.tokenizer, samples)
        return torch.stack([metric(after).double() for metric in metrics.values()], -1)

    scores = score_change(model, prompts, conditions, measure, only=only, batch_tokens=batch_tokens)
    return {name: scores[..., n] for n, name in enumerate(metrics)}


def _losses(
    model: LanguageModel,
    texts: list[list[int]],
    conditions: Sequence[Condition],
    *,
    only: list[int],
    batch_tokens: int,
) -> dict[str, Tensor]:
    losses = cross_entropy(model, texts, conditions, only=only, batch_tokens=batch_tokens)
    return {TEXT_METRIC: losses}
