"""Estimate the cost of a study: count its conditions and tokens, and time a small sample."""

import time
from dataclasses import dataclass

from pipeline.config.planning import Planned
from pipeline.config.sections import Study
from pipeline.engine.chunks import plan
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.engine.scoring import score_last
from pipeline.engine.sweeps import Part, is_scored_after_prompt
from pipeline.model.loading import LanguageModel, load_model
from pipeline.model.sites import Site


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a study's sweep and activation store.

    Arms whose conditions depend on the model's weights are left out.

    Attributes:
        conditions: number of conditions by part.
        completions: number of completions.
        scored: number of forward passes for logit metrics, one per prompt and condition.
        tokens: most tokens of all prompts and completions.
        seconds: estimated time of the sweep, from a timed sample.
        store_bytes: size of the stored activations.
    """

    conditions: dict[str, int]
    completions: int
    scored: int
    tokens: int
    seconds: float
    store_bytes: int


def cost(study: Study, planned: Planned) -> Cost:
    """Count conditions and tokens, and time a small sample to estimate the total time."""
    model = load_model(study.model)
    decoding = study.sweep.decoding if study.sweep else None
    repeats, new = (decoding.repeats, decoding.max_new_tokens) if decoding else (0, 0)
    runs = sum(len(part.conditions) * len(part.prompts) for part in planned.parts)
    scored = [_scored(study, part) for part in planned.parts]
    tokens = runs * repeats * new + sum(
        (len(part.conditions) * repeats + count) * int(part.prompts["tokens"].map(len).sum())
        for part, count in zip(planned.parts, scored, strict=True)
    )
    probe = planned.parts[0].prompts if planned.parts else planned.prompts.head(64)
    prompts = [list(map(int, row)) for row in probe["tokens"]]
    for _ in range(2):  # The first pass is a warm-up.
        start = time.perf_counter()
        probed = _probe(model, prompts, min(4, new))
        seconds = time.perf_counter() - start
    sites = [Site(n, c) for n in range(model.n_layers) for c in _components(study)]
    width = sum(map(model.width, [*sites, *map(Site.parse, _sites(study))]))
    return Cost(
        conditions={part.name: len(part.conditions) for part in planned.parts},
        completions=runs * repeats,
        scored=sum(
            count * len(part.prompts) for part, count in zip(planned.parts, scored, strict=True)
        ),
        tokens=tokens,
        seconds=seconds * tokens / probed,
        store_bytes=planned.collected * width * model.dtype.itemsize,
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


def _probe(model: LanguageModel, prompts: list[list[int]], new: int) -> int:
    """Run prompts, with `new` tokens after each if not 0; return the number of tokens."""
    budget = model.batch_tokens
    if not new:
        score_last(model, prompts, [Condition()], lambda x: x[:, 0], batch_tokens=budget)
        return sum(map(len, prompts))
    chunk = plan(1, [len(p) for p in prompts], batch_tokens=budget, new_tokens=new)[0]
    samples = range(len(prompts))
    generate_chunk(model, prompts, [Condition()], chunk, Decoding(new), seed=0, samples=samples)
    return sum(len(prompts[row.prompt]) + new for row in chunk.rows)
