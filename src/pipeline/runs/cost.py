"""What a study will take, counted and by a timed sample."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.config.sections import Study
from pipeline.data.positions import collected
from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.engine.scoring import score_last
from pipeline.forward import GENERATED
from pipeline.grid import Part, any_parts
from pipeline.model.loading import LanguageModel, load_model
from pipeline.model.sites import Site


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
    repeats, new = 0, 0
    if study.sweep.decoding:
        repeats, new = study.sweep.decoding.repeats, study.sweep.decoding.max_new_tokens
    seen = [_seen(study, part) for part in sweep]
    scored = sum(count * len(part.samples) for part, count in zip(sweep, seen, strict=True))
    total = runs * repeats * new + sum(
        (len(part.conditions) * repeats + count) * sum(len(tokens[s]) for s in part.samples)
        for part, count in zip(sweep, seen, strict=True)
    )
    probe = [tokens[sample] for sample in sweep[0].samples]
    for _ in range(2):  # The first pass warms up.
        start = time.perf_counter()
        run = _probe(model, probe, min(4, new), study.model.batch_tokens)
        seconds = time.perf_counter() - start
    _, places = collected(study, dataset)
    rows = sum(map(len, places.values()))
    width = sum(
        model.width(Site(layer, component))
        for layer in range(model.n_layers)
        for component in study.collect.components
    )
    return Cost(
        conditions={part.name: len(part.conditions) for part in sweep},
        completions=runs * repeats,
        scored=scored,
        tokens=total,
        seconds=seconds * total / run,
        store_bytes=rows * width * model.dtype.itemsize,
    )


def _seen(study: Study, part: Part) -> int:
    """How many conditions of a part have logit metrics."""
    if not study.sweep.logit_metrics:
        return 0
    return sum(condition.positions not in GENERATED for condition in part.conditions)


def _probe(model: LanguageModel, prompts: list[list[int]], new: int, batch_tokens: int) -> int:
    """Run prompts, and some tokens after them if there are to be any; returns all their number."""
    if not new:
        score_last(model, prompts, [Condition()], lambda x: x[:, 0], batch_tokens=batch_tokens)
        return sum(map(len, prompts))
    chunk = plan(1, [len(p) for p in prompts], batch_tokens=batch_tokens, new_tokens=new)[0]
    samples = range(len(prompts))
    generate_chunk(model, prompts, [Condition()], chunk, Decoding(new), seed=0, samples=samples)
    return sum(len(prompts[row.prompt]) + new for row in chunk.rows)
