"""A sweep over all neurons of one layer."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arithmetic import Need, forward_need
from benchmarks.peers import doing, loops
from benchmarks.shapes import Size, random_model, random_prompts
from benchmarks.work import Work, near
from benchmarks.works.grid import BATCH_TOKENS
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import SetUnits
from pipeline.model.sites import Site

WORDS = 64
"""Words whose logits are kept and compared: those of all would take more memory than the sweep."""
LOOPED = 8
"""Neurons that a loop ablates, evenly spaced; each takes as long as any other."""


def neuron_sweep(size: Size, folder: Path) -> Work:
    """Logits after the last token, each neuron of the middle layer set to 0 there, by itself."""
    model = random_model(size.model)
    prompts = random_prompts(size.contexts, size.model.vocab)
    layer, neurons = size.model.layers // 2, range(size.neurons)
    site, zero = Site(layer, "mlp_act"), torch.zeros(1)
    conditions = [
        Condition(edits=(Edit(site, SetUnits(torch.tensor([neuron]), zero), "last"),))
        for neuron in neurons
    ]
    every = max(1, size.neurons // LOOPED)
    part = [(layer, neuron) for neuron in neurons[::every]]
    clean = sum(map(len, prompts))
    again = len(neurons) * len(prompts) * (size.model.layers - layer) / size.model.layers

    def ours() -> Tensor:
        return score_last(
            model, prompts, conditions, lambda x: x[:, :WORDS], batch_tokens=BATCH_TOKENS
        )

    def need(found: Tensor) -> Need:
        return forward_need(model, clean + again, logits=len(neurons) * len(prompts))

    def same(side: str, expected: Tensor, found: Tensor) -> None:
        near(side, expected[::every], found[..., :WORDS])

    found, missing = doing("ablated")
    return Work(
        what=f"{len(neurons)} neurons of one layer x {len(prompts)} prompts, each set to 0, last",
        sides={"actsweep": ours}
        | {name: partial(loops.changed, model, prompts, part, of) for name, of in found.items()},
        same=same,
        need=need,
        tokens={"loop": len(neurons) * clean, "shared": clean + again},
        done=dict.fromkeys(found, len(part) / len(neurons)),
        swept=True,
        missing=missing,
    )
