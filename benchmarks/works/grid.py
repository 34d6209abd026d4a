"""The conditions of a sweep: layers x strengths, for us and for the others."""

import torch

from benchmarks.peers.plain import Steered
from benchmarks.shapes import Shape
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site

BATCH_TOKENS = 16384


def layers_by_strengths(
    shape: Shape, strengths: tuple[float, ...], rule: str
) -> tuple[list[Steered], list[Condition]]:
    """The same conditions twice: what is added to which block, and as the engine has it."""
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(shape.layers, shape.width, generator=generator)
    pairs = [(layer, s) for layer in range(shape.layers) for s in strengths]
    conditions = [
        Condition(edits=(Edit(Site(layer, "resid_post"), Add(directions[layer], s), rule),))
        for layer, s in pairs
    ]
    placed = directions.to(device=shape.device, dtype=getattr(torch, shape.dtype))
    return [(layer, s * placed[layer]) for layer, s in pairs], conditions


def blocks_above(steered: list[Steered], layers: int) -> float:
    """Blocks that have to be run again, in whole models: those above each condition's own."""
    return sum(layers - 1 - layer for layer, _ in steered) / layers
