"""What a study will take, counted and by a timed sample."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.grid import any_parts
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.positions import collected
from pipeline.sections import Study
from pipeline.sweeping import decoding_of


@dataclass(frozen=True)
class Cost:
    """What a study's sweep and store will take: conditions by part, seconds by a probe.

    `scored` prompts get logit metrics from a forward pass.
    """

    conditions: dict[str, int]
    completions: int
    scored: int
    tokens: int
    seconds: float
    store_bytes: int


def cost(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> Cost:
    """Count conditions and tokens, and time a small part of them to say how long all will take."""
    model = load_model(study.model)
    tokens = dict(zip(dataset["sample"], dataset["tokens"], strict=True))
    sweep = any_parts(study, dataset, layers)
    runs = sum(len(part.conditions) * len(part.samples) for part in sweep)
    prompts = sum(len(p.conditions) * sum(len(tokens[s]) for s in p.samples) for p in sweep)
    decoding = decoding_of(study) if study.sweep.decoding else None
    completions = runs * decoding.repeats if decoding else 0
    scored = runs if study.sweep.logit_metrics else 0
    total = prompts if scored else 0
    if decoding:
        total += prompts * decoding.repeats + completions * decoding.max_new_tokens
    probe = [tokens[sample] for sample in sweep[0].samples]
    short = Decoding(min(4, decoding.max_new_tokens) if decoding else 1)
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
        completions=completions,
        scored=scored,
        tokens=total,
        seconds=seconds * total / run,
        store_bytes=rows * width * model.dtype.itemsize,
    )
