"""Completions of every prompt under every condition, chunk by chunk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.sections import Study
from pipeline.engine.chunks import Chunk
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import Generation
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
    tokens = {sample: list(map(int, row)) for sample, row in by_sample["tokens"].items()}
    texts = by_sample[list(TEXTS)].to_dict("index")
    jobs: dict[str, Callable[[], pd.DataFrame]] = {}
    for part in parts:
        prompts = [tokens[sample] for sample in part.samples]
        run = Generation(model, prompts, part.conditions, decoding, seed=seed, samples=part.samples)
        columns = [condition.columns for condition in part.conditions]
        jobs |= {
            f"{part.name}-chunk-{chunk.number:05d}": partial(
                _chunk, run, chunk, part.samples, columns, texts
            )
            for chunk in run.plan(batch_tokens)
        }
    return pd.concat(taken_up("completions", jobs, work), ignore_index=True)


def _chunk(
    run: Generation,
    chunk: Chunk,
    samples: Sequence[int],
    columns: Sequence[Mapping[str, Any]],
    texts: Mapping[int, Mapping[str, Any]],
) -> pd.DataFrame:
    rows = [
        {
            **columns[completion.condition],
            "sample": samples[completion.prompt],
            "repeat": completion.repeat,
            **texts[samples[completion.prompt]],
            "completion": completion.text,
            "tokens": completion.tokens,
            "n_tokens": len(completion.tokens),
            "stopped": completion.stopped,
        }
        for completion in run.complete(chunk)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})
