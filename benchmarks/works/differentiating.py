"""Jacobians of a relation, beside one backward pass for each of their rows."""

from functools import partial
from pathlib import Path

from torch import Tensor

from benchmarks.arithmetic import Need, forward_need
from benchmarks.peers import doing
from benchmarks.shapes import Size, random_model, random_prompts
from benchmarks.work import Work, near
from benchmarks.works.grid import BATCH_TOKENS
from pipeline.engine.jacobians import mean_affine


def jacobians(size: Size, folder: Path) -> Work:
    """The mean over prompts of d(last state) / d(state at the first third, middle layer)."""
    model, layer = random_model(size.model), size.model.layers // 2
    prompts = [
        p[: size.causal.tokens] for p in random_prompts(size.causal.samples, size.model.vocab)
    ]
    at = [len(prompt) // 3 for prompt in prompts]
    dimensions = range(0, size.model.width, size.every)

    def ours() -> Tensor:
        weight, _ = mean_affine(model, prompts, at, [layer], batch_tokens=BATCH_TOKENS)[layer]
        return weight.float()

    def need(found: Tensor) -> Need:
        # A backward pass to the activations costs as much as the forward pass of the same blocks,
        # over the tokens from the state on: those before depend on no state.
        above = (size.model.layers - 1 - layer) / size.model.layers
        after = sum(len(prompt) - place for prompt, place in zip(prompts, at, strict=True))
        return forward_need(model, sum(map(len, prompts)) + above * size.model.width * after, 0)

    def same(side: str, expected: Tensor, found: Tensor) -> None:
        near(side, expected[list(dimensions)], found)

    found, missing = doing("jacobian")
    return Work(
        what=f"a mean Jacobian [{size.model.width}, {size.model.width}] of {len(prompts)} prompts",
        sides={"actsweep": ours}
        | {name: partial(of, model, prompts, at, layer, dimensions) for name, of in found.items()},
        same=same,
        need=need,
        done=dict.fromkeys(found, len(dimensions) / size.model.width),
        missing=missing,
    )
