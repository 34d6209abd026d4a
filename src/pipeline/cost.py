"""What a study will take, counted and by a timed sample."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.grid import Part, any_parts
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.positions import collected
from pipeline.sections import Study
from pipeline.sweeping import decoding_of


@dataclass(frozen=True)
class Cost:
    """What a study's sweep and store will take: conditions by part, seconds by a probe."""

    conditions: dict[str, int]
    completions: int
    tokens: int
    seconds: float
    store_bytes: int


def cost(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> Cost:
    """Count conditions and tokens, and time a small part of them to say how long all will take."""
    model = load_model(study.model)
    tokens = dict(zip(dataset["sample"], dataset["tokens"], strict=True))
    decoding = decoding_of(study)
    sweep = any_parts(study, dataset, layers)
    total = sum(_tokens(part, tokens, decoding) for part in sweep)
    probe = [tokens[sample] for sample in sweep[0].samples]
    short = Decoding(min(4, decoding.max_new_tokens))
    chunk = plan(1, [len(p) for p in probe], batch_tokens=study.model.batch_tokens, new_tokens=4)[0]
    for _ in range(2):  # The first pass warms up.
        start = time.perf_counter()
        generate_chunk(model, probe, [Condition()], chunk, short, seed=0, samples=range(len(probe)))
        seconds = time.perf_counter() - start
    run = sum(len(probe[row.prompt]) + short.max_new_tokens for row in chunk.rows)
    _, places = collected(study, dataset)
    rows = sum(map(len, places.values()))
    width = sum(
        model.width(Site(layer, component))
        for layer in range(model.n_layers)
        for component in study.collect.components
    )
    return Cost(
        conditions={part.name: len(part.conditions) for part in sweep},
        completions=sum(
            len(part.conditions) * len(part.samples) * decoding.repeats for part in sweep
        ),
        tokens=total,
        seconds=seconds * total / run,
        store_bytes=rows * width * model.dtype.itemsize,
    )


def _tokens(part: Part, tokens: dict[int, list[int]], decoding: Decoding) -> int:
    each = sum(len(tokens[s]) + decoding.max_new_tokens for s in part.samples)
    return len(part.conditions) * each * decoding.repeats
