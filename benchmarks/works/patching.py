"""Causal work: Patchscopes, heads, causal tracing and edits of weights, beside hooked passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arithmetic import forward_need
from benchmarks.peers import doing, loops
from benchmarks.peers.plain import Patch, Update
from benchmarks.shapes import Size, random_model, random_prompts
from benchmarks.work import Work, near
from benchmarks.works.grid import BATCH_TOKENS
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add, RankOne, Replace
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

WORDS = 64
"""Words whose logits are kept and compared."""
_EMBED = Site(0, "embed")


def patchscopes(size: Size, folder: Path) -> Work:
    """Logits after a prompt whose last token has an entity's state, of any layer at any layer."""
    model, layers = random_model(size.model), range(size.model.layers)
    entities = random_prompts(size.causal.entities, size.model.vocab)
    target = [random_prompts(1, size.model.vocab)[0][: 2 * size.causal.tokens]]
    target *= len(entities)
    sites = [Site(layer, "resid_post") for layer in layers]
    pairs = [(source, to) for source in layers for to in layers]

    def states() -> dict[Site, Tensor]:
        return collect(model, entities, sites, "last", batch_tokens=BATCH_TOKENS)[0]

    def conditions() -> list[Condition]:
        of = states()
        return [
            Condition(edits=(Edit(sites[to], Replace(PerPrompt(of[sites[source]])), "last"),))
            for source, to in pairs
        ]

    # The loop is given the states, which cost it as much as us.
    given, last = states(), [-1] * len(entities)
    patches = [[Patch(to, last, given[sites[source]])] for source, to in pairs]
    again = len(target) * sum(size.model.layers - 1 - to for _, to in pairs) / size.model.layers
    once = sum(map(len, entities)) + len(target[0])
    return _of_passes(
        f"{len(pairs)} pairs of layers x {len(entities)} entities, "
        f"a prompt of {len(target[0])} tokens",
        model,
        target,
        lambda: _logits(model, target, conditions()),
        patches,
        size.every,
        once + again,
    )


def heads(size: Size, folder: Path) -> Work:
    """Logits after the last token, each head's output set to its mean there, by itself."""
    width = size.causal.heads * size.model.width // size.model.heads
    shape = replace(size.model, heads=size.causal.heads, width=width)
    model, prompts = random_model(shape), random_prompts(size.causal.contexts, shape.vocab)
    units = [(layer, head) for layer in range(shape.layers) for head in range(shape.heads)]
    sites = [Site(layer, "z") for layer in range(shape.layers)]

    def means() -> list[Tensor]:
        values, _ = collect(model, prompts, sites, "last", batch_tokens=BATCH_TOKENS)
        return [values[site].mean(0).view(shape.heads, -1) for site in sites]

    def conditions() -> list[Condition]:
        of = means()
        return [
            Condition(edits=(Edit(Site(layer, "z", head), Replace(of[layer][head]), "last"),))
            for layer, head in units
        ]

    given, last = means(), [-1] * len(prompts)
    patches = [
        [Patch(layer, last, given[layer][head].expand(len(prompts), -1), head)]
        for layer, head in units
    ]
    clean = sum(map(len, prompts))
    again = len(prompts) * sum(shape.layers - layer for layer, _ in units) / shape.layers
    return _of_passes(
        f"{len(units)} heads x {len(prompts)} prompts, each set to its mean, last",
        model,
        prompts,
        lambda: _logits(model, prompts, conditions()),
        patches,
        size.every,
        clean + again,
        doing("head"),
    )


def tracing(size: Size, folder: Path) -> Work:
    """Logits after noisy prompts, as they are and with a clean state restored at one place."""
    model, causal = random_model(size.model), size.causal
    facts = [p[: causal.tokens] for p in random_prompts(causal.facts, size.model.vocab)]
    prompts = facts * causal.noises
    clean, _ = collect(model, facts, [_EMBED], "all", batch_tokens=BATCH_TOKENS)
    generator = torch.Generator().manual_seed(3)
    noises = (
        3
        * float(clean[_EMBED].std())
        * torch.randn(2, len(prompts), size.model.width, generator=generator)
    )
    subject, shortest = (1, 2), min(map(len, prompts))
    places = [(layer, at) for layer in range(size.model.layers) for at in range(shortest)]
    sites = [Site(layer, "resid_post") for layer in range(size.model.layers)]
    corrupted = tuple(
        Edit(_EMBED, Add(PerPrompt(noise)), [at]) for at, noise in zip(subject, noises, strict=True)
    )

    def states() -> dict[tuple[int, int], Tensor]:
        rule = PromptPositions("beginning", [tuple(range(shortest))] * len(facts))
        values, _ = collect(model, facts, sites, rule, batch_tokens=BATCH_TOKENS)
        each = [values[site].view(len(facts), shortest, -1) for site in sites]
        return {(n, at): each[n][:, at].repeat(causal.noises, 1) for n, at in places}

    def conditions() -> list[Condition]:
        of = states()
        restored = [Edit(sites[n], Replace(PerPrompt(of[n, at])), [at]) for n, at in places]
        return [Condition(edits=(*corrupted, *edits)) for edits in ((), *((e,) for e in restored))]

    given = states()
    noisy = [
        Patch(-1, [at - len(p) for p in prompts], noise, added=True)
        for at, noise in zip(subject, noises, strict=True)
    ]
    patches = [noisy]
    patches += [
        [*noisy, Patch(layer, [at - len(p) for p in prompts], given[layer, at])]
        for layer, at in places
    ]
    # Of a state at a position, the later positions above it.
    after = sum(
        (size.model.layers - layer) * sum(len(p) - at for p in prompts) for layer, at in places
    )
    once = sum(map(len, facts)) + sum(map(len, prompts))
    return _of_passes(
        f"{size.model.layers} layers x {shortest} positions, {len(facts)} prompts x "
        f"{causal.noises} noises",
        model,
        prompts,
        lambda: _logits(model, prompts, conditions()),
        patches,
        size.every,
        once + after / size.model.layers,
    )


def rank_ones(size: Size, folder: Path) -> Work:
    """Logits after four prompts of each fact, under a rank-one edit of each layer for each fact."""
    model, causal = random_model(size.model), size.causal
    prompts = [p[: causal.tokens] for p in random_prompts(4 * causal.facts, size.model.vocab)]
    facts = [prompts[first : first + 4] for first in range(0, len(prompts), 4)]
    generator = torch.Generator().manual_seed(4)
    u = torch.randn(size.model.layers, len(facts), size.model.inner, generator=generator) / 10
    delta = torch.randn(size.model.layers, len(facts), size.model.width, generator=generator) / 10
    conditions = [
        Condition(
            edits=(
                Edit(
                    Site(layer, "mlp_down"),
                    RankOne(
                        PerPrompt(u[layer].repeat_interleave(4, 0)),
                        PerPrompt(delta[layer].repeat_interleave(4, 0)),
                    ),
                ),
            )
        )
        for layer in range(size.model.layers)
    ]
    # By layer and fact, one after the other; every fifth, so that each layer has its turn.
    edits = [(layer, fact) for layer in range(size.model.layers) for fact in range(len(facts))]
    part = edits[:: size.every]

    def loop(of: Callable[..., Tensor]) -> Tensor:
        updates = [(Update(n, u[n, fact], delta[n, fact]), facts[fact]) for n, fact in part]
        return loops.updated(model, updates, of)

    def same(side: str, expected: Tensor, found: Tensor) -> None:
        rows = expected.view(size.model.layers, len(facts), 4, WORDS)
        near(side, torch.stack([rows[at] for at in part]), found[..., :WORDS])

    clean = sum(map(len, prompts))
    again = clean * sum(size.model.layers - n for n in range(size.model.layers)) / size.model.layers
    found, missing = doing("updated")
    return Work(
        what=f"rank-one edits of {size.model.layers} layers x {len(facts)} facts, 4 prompts each",
        sides={"actsweep": lambda: _logits(model, prompts, conditions)}
        | {name: partial(loop, of) for name, of in found.items()},
        same=same,
        need=lambda found: forward_need(model, clean + again, logits=found[..., 0].numel()),
        tokens={"loop": clean * size.model.layers, "shared": clean + again},
        done=dict.fromkeys(found, len(part) / len(edits)),
        swept=True,
        missing=missing,
    )


def _logits(model: LanguageModel, prompts: list[list[int]], conditions: list[Condition]) -> Tensor:
    return score_last(model, prompts, conditions, lambda x: x[:, :WORDS], batch_tokens=BATCH_TOKENS)


def _of_passes(
    what: str,
    model: LanguageModel,
    prompts: list[list[int]],
    ours: Callable[[], Tensor],
    patches: Sequence[Sequence[Patch]],
    every: int,
    tokens: float,
    peers: tuple[dict[str, Callable[..., Tensor]], list[str]] | None = None,
) -> Work:
    """A work whose loops make a hooked pass for each condition, of which they do every so many."""
    found, missing = peers or doing("patched")
    part = patches[::every]

    def same(side: str, expected: Tensor, found: Tensor) -> None:
        near(side, expected[::every], found[..., :WORDS])

    return Work(
        what=what,
        sides={"actsweep": ours}
        | {name: partial(loops.changed, model, prompts, part, of) for name, of in found.items()},
        same=same,
        need=lambda output: forward_need(model, tokens, logits=output[..., 0].numel()),
        tokens={"loop": len(patches) * sum(map(len, prompts)), "shared": tokens},
        done=dict.fromkeys(found, len(part) / len(patches)),
        swept=True,
        missing=missing,
    )
