"""Estimate the cost of a study: count its conditions and tokens, and time a sample of its work."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from pipeline.config.planning import Planned, any_setting, planned_parts, stand_ins
from pipeline.config.sections import Study
from pipeline.data.prompts import tokenised_texts
from pipeline.engine.arms import logit_metrics
from pipeline.engine.chunks import Chunk, passes
from pipeline.engine.collection import collect
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import Generation
from pipeline.engine.phases import on_texts
from pipeline.engine.sweeps import (
    Part,
    applies_to_texts,
    is_scored_after_prompt,
    logit_jobs,
    part_generation,
    text_jobs,
)
from pipeline.model.loading import LanguageModel, load_model
from pipeline.model.sites import Site
from pipeline.runs.progress import progress

TIMED_ROWS = 32
"""Rows of an arm that are completed to time it."""
TIMED_CONDITIONS = 16
"""Conditions of a part under which logits and texts are scored to time it."""


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a study's sweep and activation store.

    Arms that use another study's fits are left out.

    Attributes:
        conditions: number of conditions by part.
        completions: number of completions.
        scored: number of forward passes for logit metrics, one per prompt and condition.
        tokens: most tokens of all prompts and completions.
        seconds: estimated time to collect activations and to sweep, from a timed sample.
        store_bytes: size of the stored activations.
    """

    conditions: dict[str, int]
    completions: int
    scored: int
    tokens: int
    seconds: float
    store_bytes: int


def cost(study: Study, planned: Planned) -> Cost:
    """Count conditions and tokens, and time a sample of them to estimate the total time."""
    model = load_model(study.model)
    # With weights: the plan without them lacks the arms that compute with the model.
    fits = stand_ins(study, model, planned.prompts)
    parts = tuple(planned_parts(study, model, planned.prompts, fits))
    decoding = study.sweep.decoding if study.sweep else None
    repeats, new = (decoding.repeats, decoding.max_new_tokens) if decoding else (0, 0)
    runs = sum(len(part.conditions) * len(part.prompts) for part in parts)
    scored = [_scored(study, part) for part in parts]
    tokens = runs * repeats * new + sum(
        (len(part.conditions) * repeats + count) * int(part.prompts["tokens"].map(len).sum())
        for part, count in zip(parts, scored, strict=True)
    )
    sites = [Site(n, c) for n in range(model.n_layers) for c in _components(study)]
    sites += map(Site.parse, _sites(study))
    return Cost(
        conditions={part.name: len(part.conditions) for part in parts},
        completions=runs * repeats,
        scored=sum(count * len(part.prompts) for part, count in zip(parts, scored, strict=True)),
        tokens=tokens,
        seconds=_collecting(study, model, planned.prompts, sites)
        + sum(_timed(study, model, parts)),
        store_bytes=planned.collected * sum(map(model.width, sites)) * model.dtype.itemsize,
    )


def _components(study: Study) -> list[str]:
    return study.collect.components if study.collect else []


def _sites(study: Study) -> list[str]:
    return study.collect.sites if study.collect else []


def _scored(study: Study, part: Part) -> int:
    """Count the conditions of a part that get logit metrics."""
    if study.sweep is None or not study.sweep.logit_metrics:
        return 0
    return sum(map(is_scored_after_prompt, part.conditions))


def _collecting(
    study: Study, model: LanguageModel, prompts: pd.DataFrame, sites: Sequence[Site]
) -> float:
    """Estimate the seconds to collect activations from one pass; the first pass is a warm-up."""
    tokens = [list(map(int, row)) for row in prompts["tokens"]]
    blocks = passes(model, list(map(len, tokens)), model.batch_tokens)
    block = [tokens[number] for number in blocks[len(blocks) // 2]]
    for _ in range(2):
        start = time.perf_counter()
        collect(model, block, sites or [Site(model.n_layers - 1, "resid_post")], "last")
        seconds = time.perf_counter() - start
    return seconds * len(blocks) if study.collect else 0.0


def _timed(study: Study, model: LanguageModel, parts: Sequence[Part]) -> Iterator[float]:
    """Estimate the seconds of each part, and of the texts, from evenly spaced rows."""
    if study.sweep is None:
        return
    texts = tokenised_texts(study.text, model.tokenizer)
    metrics = logit_metrics(study.sweep)
    seconds_a_row: dict[str, float] = {}
    for part in progress(parts, "timing", "part"):
        thinned, share = _thinned(part)
        if study.sweep.decoding is not None:
            decoding = Decoding(**asdict(study.sweep.decoding))
            run = part_generation(model, part, decoding=decoding, seed=study.sweep.seed)
            chunks = run.plan(model.batch_tokens)
            arm = part.name.removesuffix("-validation")
            if arm not in seconds_a_row:
                seconds_a_row[arm] = _seconds_a_row(run, chunks[len(chunks) // 2])
            yield seconds_a_row[arm] * sum(len(chunk.rows) for chunk in chunks)
        jobs = logit_jobs(model, [thinned], *metrics)
        answered = int((part.prompts["answer"] != "").sum())
        for kind, prompts in (("logits", len(part.prompts)), ("answers", answered)):
            alike = [job for name, job in jobs.items() if name.startswith(f"{part.name}-{kind}")]
            yield _of_jobs(alike, prompts) / share
        if not part.name.endswith("-validation") and len(texts):
            has_goal = study.sweep.arm(part.name).goal is not None
            setting = any_setting(part.conditions) if has_goal else None
            under = list(filter(applies_to_texts, on_texts(part.conditions, setting)))
            timed = under[:: -(-len(under) // TIMED_CONDITIONS)]
            scored = list(text_jobs(model, texts, timed).values())
            yield _of_jobs(scored, len(texts)) * len(under) / len(timed)


def _thinned(part: Part) -> tuple[Part, float]:
    """Return a part with evenly spaced conditions, and their share of all."""
    step = -(-len(part.conditions) // TIMED_CONDITIONS)
    conditions = part.conditions[::step]
    return replace(part, conditions=conditions), len(conditions) / len(part.conditions)


def _seconds_a_row(run: Generation, chunk: Chunk) -> float:
    """Time the first rows of a chunk.

    They are of few conditions: only such share a clean run and enter together, as in a whole chunk.
    """
    rows = chunk.rows[:TIMED_ROWS]
    start = time.perf_counter()
    run.complete(replace(chunk, rows=rows))
    return (time.perf_counter() - start) / len(rows)


def _of_jobs(jobs: Sequence[Callable[[], pd.DataFrame]], prompts: int) -> float:
    """Estimate the seconds of jobs that score some prompts from the job in the middle."""
    if not jobs:
        return 0.0
    start = time.perf_counter()
    scores = jobs[len(jobs) // 2]()
    return (time.perf_counter() - start) * prompts / scores["sample"].nunique()
