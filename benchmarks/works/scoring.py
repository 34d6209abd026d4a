"""Sweeps that generate nothing."""

from functools import partial
from pathlib import Path

from torch import Tensor

from benchmarks.arithmetic import Need, forward_need
from benchmarks.peers import doing, loops
from benchmarks.shapes import Size, random_model, random_prompts
from benchmarks.work import Work, near
from benchmarks.works.grid import BATCH_TOKENS, blocks_above, layers_by_strengths
from pipeline.engine.scoring import score_last


def forward_sweep(size: Size, folder: Path, *, rule: str) -> Work:
    """Logits after the last token, layers x strengths x prompts."""
    model = random_model(size.model)
    prompts = random_prompts(size.scored, size.model.vocab)
    steered, conditions = layers_by_strengths(size.model, size.strengths, rule)
    clean = sum(map(len, prompts))
    each = len(prompts) if rule == "last" else clean
    shared = clean + blocks_above(steered, size.model.layers) * each

    def ours() -> Tensor:
        return score_last(model, prompts, conditions, lambda x: x, batch_tokens=BATCH_TOKENS)

    def need(found: Tensor) -> Need:
        return forward_need(model, shared, logits=len(steered) * len(prompts))

    def same(side: str, expected: Tensor, found: Tensor) -> None:
        near(side, expected[:: size.every], found)

    found, missing = doing("logits", rule)
    part = steered[:: size.every]
    return Work(
        what=f"forward sweep, {rule}: {len(steered)} conditions x {len(prompts)} prompts",
        sides={"actsweep": ours}
        | {
            name: partial(loops.scores, model, prompts, part, rule, of)
            for name, of in found.items()
        },
        same=same,
        need=need,
        tokens={"loop": len(steered) * clean, "shared": shared},
        done=dict.fromkeys(found, len(part) / len(steered)),
        swept=True,
        missing=missing,
    )
