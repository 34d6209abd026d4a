"""Sweeps that generate."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.arithmetic import Need, decoding_need
from benchmarks.peers import doing, loops
from benchmarks.shapes import Ending, Shape, Size, random_model, random_prompts
from benchmarks.work import NotMeasurable, Work, alike, begin_alike
from benchmarks.works.grid import BATCH_TOKENS, blocks_above, layers_by_strengths
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.model.loading import LanguageModel

Completions = list[list[int]]

GPU_BATCH_TOKENS = 2**17
GPU_GIGABYTES = 40
"""The model's 5, keys and values of a batch's 14, and as much again while rows enter and leave."""

SYSTEM_TURN = 24
"""Tokens that all prompts of a chat model begin with."""

ONE_OF = 16
"""One token of this many ends a completion where lengths are mixed."""


def generation_sweep(size: Size, folder: Path, *, rule: str, few: bool = False) -> Work:
    """Greedy completions, layers x strengths x prompts."""
    count = size.few if few else size.completed
    return _sweep(size, size.model, count, size.new_tokens, rule)


def on_chat(size: Size, folder: Path) -> Work:
    """The same with a small chat model's shape, whose prompts begin alike; one strength."""
    one = replace(size, strengths=size.strengths[:1])
    return _sweep(one, size.chat, size.few, size.new_tokens, "generated", shared=SYSTEM_TURN)


def on_gpu(size: Size, folder: Path) -> Work:
    """The same with the shape of Gemma-2-2b in bfloat16, where there is a GPU."""
    shape = size.gpu
    if shape.device == "cuda" and not torch.cuda.is_available():
        raise NotMeasurable(f"needs a CUDA GPU with {GPU_GIGABYTES} GB of free memory: none here")
    return _sweep(size, shape, size.completed, size.longest, "all", begin_alike, GPU_BATCH_TOKENS)


def _sweep(
    size: Size,
    shape: Shape,
    count: int,
    new: int,
    rule: str,
    agree: Callable[[str, Completions, Completions], None] = alike,
    batch_tokens: int = BATCH_TOKENS,
    shared: int = 0,
) -> Work:
    model = random_model(shape)
    prompts = random_prompts(count, shape.vocab, shared)
    steered, conditions = layers_by_strengths(shape, size.strengths, rule)
    clean, rows = sum(map(len, prompts)), len(steered) * count
    again = blocks_above(steered, shape.layers) * clean if rule == "all" else 0

    def need(found: Completions) -> Need:
        return decoding_need(model, clean + again, rows, clean / count, new)

    def same(side: str, expected: Completions, found: Completions) -> None:
        agree(side, _part(expected, count, size.every), found)

    found, missing = doing("tokens", rule)
    part = steered[:: size.every]
    return Work(
        what=f"generation, {rule}: {len(steered)} conditions x {count} prompts x {new} tokens",
        sides={"actsweep": partial(_engine, model, prompts, conditions, new, batch_tokens)}
        | {
            name: partial(loops.completions, model, prompts, part, rule, new, of)
            for name, of in found.items()
        },
        same=same,
        need=need,
        tokens={
            "loop": len(steered) * clean + rows * (new - 1),
            "shared": clean + again + rows * (new - 1),
        },
        done=dict.fromkeys(found, len(part) / len(steered)),
        swept=True,
        missing=missing,
        device=shape.device,
        dtype=shape.dtype,
    )


def mixed_lengths(size: Size, folder: Path) -> Work:
    """Completions of one token to the longest: rows leave as they end and others enter.

    Sampled, since greedy ones of random weights soon go in circles without an end.
    """
    model = random_model(size.model)
    prompts = random_prompts(size.few, size.model.vocab)
    _, conditions = layers_by_strengths(size.model, size.strengths, "generated")
    ends = frozenset(range(0, size.model.vocab, ONE_OF))
    # Rows that run together: about a quarter of all.
    together = len(conditions) * size.few // 4
    run = partial(
        _engine,
        prompts=prompts,
        conditions=conditions,
        new=size.longest,
        batch_tokens=together * (64 + size.longest),
        temperature=1.0,
    )

    def waiting() -> Completions:
        return [_cut(row, ends) for row in run(Ending(model, frozenset()))]

    def need(found: Completions) -> Need:
        # The token that ends a completion is computed and left out.
        mean = 1 + fmean(map(len, found))
        clean = sum(map(len, prompts))
        return decoding_need(model, clean, len(found), clean / len(prompts), mean)

    return Work(
        what=f"completions of 1 to {size.longest} tokens mixed: {len(conditions)} conditions x "
        f"{len(prompts)} prompts, {together} rows at a time",
        sides={
            "actsweep": lambda: run(Ending(model, ends)),
            "actsweep, no row leaves before the longest": waiting,
        },
        same=alike,
        need=need,
        swept=True,
    )


def no_condition(size: Size, folder: Path, *, chat: bool = False) -> Work:
    """What the engine costs where it has nothing to share."""
    shape = size.chat if chat else size.model
    model = random_model(shape)
    prompts = random_prompts(size.completed, shape.vocab, SYSTEM_TURN if chat else 0)
    clean, count, new = sum(map(len, prompts)), len(prompts), size.new_tokens

    def need(found: Completions) -> Need:
        return decoding_need(model, clean, count, clean / count, new)

    return Work(
        what=f"no condition: {count} prompts x {new} tokens",
        sides={
            "actsweep": partial(_engine, model, prompts, [Condition()], new, BATCH_TOKENS),
            "transformers' generate": lambda: loops.unhooked(model, prompts, new),
        },
        same=alike,
        need=need,
        tokens={"any": clean + count * (new - 1)},
    )


def _engine(
    model: LanguageModel,
    prompts: list[list[int]],
    conditions: list[Condition],
    new: int,
    batch_tokens: int,
    temperature: float = 0.0,
) -> Completions:
    decoding = Decoding(new, temperature=temperature)
    done = generate(model, prompts, conditions, decoding, batch_tokens=batch_tokens)
    return [list(completion.tokens) for completion in done]


def _part(rows: Completions, prompts: int, every: int) -> Completions:
    """Rows of one condition of so many."""
    return [row for at, row in enumerate(rows) if at // prompts % every == 0]


def _cut(row: list[int], ends: frozenset[int]) -> list[int]:
    return row[: next((at for at, token in enumerate(row) if token in ends), len(row))]
