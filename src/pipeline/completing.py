"""Completions of every prompt under every condition, chunk by chunk."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.engine.chunks import Chunk, plan_decodings
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.grid import Part
from pipeline.measures.scores import CONDITION
from pipeline.model.loading import LanguageModel
from pipeline.runs.scratch import taken_up

TEXTS = ("split", "label", "topic", "instruction", "demand")
COLUMNS = (*CONDITION, "sample", "repeat", *TEXTS, "completion", "tokens", "n_tokens", "stopped")


def decoding_of(study: Study) -> Decoding:
    """How a study's completions are decoded.

    Raises:
        ValueError: it makes none.
    """
    if study.sweep.decoding is None:
        raise ValueError("sweep.decoding is null: this study makes no completions")
    return Decoding(**asdict(study.sweep.decoding))


def complete(
    model: LanguageModel,
    dataset: pd.DataFrame,
    parts: Sequence[Part],
    work: Path,
    *,
    decoding: Decoding,
    seed: int,
    batch_tokens: int,
) -> pd.DataFrame:
    """A row per condition, sample and repeat; chunks that lie finished in `work` are taken up.

    `decoding` is that of conditions without one of their own.
    """
    by_sample = dataset.set_index("sample")
    jobs = {
        f"{part.name}-chunk-{chunk.number:05d}": partial(
            _chunk, model, by_sample, part, chunk, decoding, seed
        )
        for part in parts
        for chunk in plan_decodings(
            [condition.decoding or decoding for condition in part.conditions],
            [len(by_sample.at[s, "tokens"]) for s in part.samples],
            batch_tokens=batch_tokens,
        )
    }
    return pd.concat(taken_up("completions", jobs, work), ignore_index=True)


def _chunk(
    model: LanguageModel,
    by_sample: pd.DataFrame,
    part: Part,
    chunk: Chunk,
    decoding: Decoding,
    seed: int,
) -> pd.DataFrame:
    completions = generate_chunk(
        model,
        [by_sample.at[s, "tokens"].tolist() for s in part.samples],
        part.conditions,
        chunk,
        decoding,
        seed=seed,
        samples=part.samples,
    )
    columns = [condition.columns for condition in part.conditions]
    rows = []
    for completion in completions:
        sample = part.samples[completion.prompt]
        rows.append(
            {
                **columns[completion.condition],
                "sample": sample,
                "repeat": completion.repeat,
                **{name: by_sample.at[sample, name] for name in TEXTS},
                "completion": completion.text,
                "tokens": completion.tokens,
                "n_tokens": len(completion.tokens),
                "stopped": completion.stopped,
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})
