"""Insert a task's vector at a prompt's last token, in place of demonstrations of the task."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.declared import OneOf
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.methods.directions import FITTED
from pipeline.methods.function_vectors.task_vectors import FunctionVectors
from pipeline.methods.interventions import Add, Replace
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

VECTORS = ("heads", "states")
OTHER_TASK, OTHER_HEADS, ISOTROPIC = CONTROLS = ("other_task", "other_heads", "isotropic")
DRAWS = {OTHER_TASK: 2, OTHER_HEADS: 3, ISOTROPIC: 3}
"""Default number of draws per control."""


def insert_task_vector(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    vector: Annotated[str, OneOf(*VECTORS)] = "heads",
    layers: Any = "all",
    strengths: list[float] = [1.0],  # noqa: B006 - never changed
    controls: dict[str, int] = DRAWS,
    sums: dict[str, list[str]] = {},  # noqa: B006 - never changed
) -> Iterator[Condition]:
    """Insert the vector of each prompt's task at the end of a block, at the last token.

    `heads`: x + strength * v, v the task's function vector, the same at every layer. `states`:
    x := the mean state of the task's demonstrations at that layer.

    Controls, all with the operation and the layer of the task's vector: `other_task`, the vector of
    another task (a random cycle of the tasks); `other_heads`, the summed outputs of as many heads
    that are not among the top ones, drawn at random; `isotropic`, a random direction for each task,
    with the norm of its vector.

    Args:
        model: the model.
        prompts: the prompts of the arm; their topic is the task.
        fits: the study's fits by name.
        seed: of the controls.
        fit: name of a fit of `function_vectors`.
        vector: one of `VECTORS`.
        layers: `all`, `every N` or a list.
        strengths: factors of the vector; states are not scaled.
        controls: control -> number of draws.
        sums: task -> three tasks a, b, c, whose v_a + v_b - v_c is inserted in place of the task's
            own vector.

    Yields:
        Conditions with the axes `intervention` (`add` or `replace`), `vector`, `source`, `draw`,
        `layer`, `strength` and `positions`.

    Raises:
        ValueError: an unknown vector, control, layer or task, or controls that cannot be drawn.

    Source: Todd et al. 2024; `states`: Hendel et al. 2023.
    """
    fitted: FunctionVectors = fits[fit]
    fitted.check(model, Site(0, "resid_post"))
    _check_options(fitted, prompts, vector, strengths, controls, sums)
    chosen = chosen_layers(layers, model.n_layers, model.name)
    at_layers = _by_layer(fitted, vector, fitted.top, sums)
    of_prompts = [fitted.tasks.index(task) for task in prompts["topic"]]
    drawn = [(name, draw) for name in CONTROLS for draw in range(controls.get(name, 0))]
    for source, draw in [(FITTED, 0), *drawn]:
        values = at_layers
        if source != FITTED:
            values = _control(fitted, at_layers, source, seed, draw)
        for strength, layer in product(strengths, chosen):
            value = PerPrompt(values[of_prompts, layer])
            edit = Add(value, strength) if vector == "heads" else Replace(value)
            yield Condition(
                {
                    "intervention": "add" if vector == "heads" else "replace",
                    "vector": vector,
                    "source": source,
                    "draw": draw,
                    "layer": layer,
                    "strength": strength,
                    "positions": "last",
                },
                (Edit(Site(layer, "resid_post"), edit, "last"),),
                role=CANDIDATE if source == FITTED else CONTROL,
            )


def _by_layer(
    fitted: FunctionVectors,
    vector: str,
    heads: Iterable[tuple[int, int]],
    sums: Mapping[str, list[str]],
) -> Float[Tensor, "task layer d_model"]:
    """Return what is inserted for each task at each layer."""
    values = fitted.states
    if vector == "heads":
        values = fitted.summed(list(heads))[:, None].expand_as(fitted.states)
    values = values.clone()
    parts = {task: [fitted.tasks.index(part) for part in listed] for task, listed in sums.items()}
    summed = {task: values[a] + values[b] - values[c] for task, (a, b, c) in parts.items()}
    for task, value in summed.items():
        values[fitted.tasks.index(task)] = value
    return values


def _control(
    fitted: FunctionVectors,
    values: Float[Tensor, "task layer d_model"],
    source: str,
    seed: int,
    draw: int,
) -> Float[Tensor, "task layer d_model"]:
    """Draw a control of the vectors of all tasks."""
    generator = torch.Generator().manual_seed(1000 * seed + draw)
    random = partial(torch.randperm, generator=generator)
    if source == OTHER_TASK:
        cycle = random(len(values))
        donors = torch.empty_like(cycle)
        donors[cycle] = cycle.roll(1)
        return values[donors]
    if source == OTHER_HEADS:
        layers, heads = fitted.mean_effects.shape
        every = [(layer, head) for layer in range(layers) for head in range(heads)]
        others = [pair for pair in every if pair not in fitted.top]
        chosen = [others[n] for n in random(len(others))[: len(fitted.top)]]
        return _by_layer(fitted, "heads", chosen, {})
    directions = torch.randn(len(values), 1, values.shape[-1], generator=generator)
    norms = values.norm(dim=-1, keepdim=True)
    return directions / directions.norm(dim=-1, keepdim=True) * norms


def _check_options(
    fitted: FunctionVectors,
    prompts: pd.DataFrame,
    vector: str,
    strengths: list[float],
    controls: Mapping[str, int],
    sums: Mapping[str, list[str]],
) -> None:
    if vector not in VECTORS:
        raise ValueError(f"vector: {vector!r} is unknown; valid: {', '.join(VECTORS)}")
    if vector == "states" and strengths != [1.0]:
        raise ValueError(f"strengths: {strengths}; valid for states, which are replaced: [1.0]")
    for name, count in controls.items():
        if name not in CONTROLS:
            raise ValueError(f"controls: {name!r} is unknown; valid: {', '.join(CONTROLS)}")
        if count < 0:
            raise ValueError(f"controls.{name}: {count} is less than 0")
    if controls.get(OTHER_TASK) and len(fitted.tasks) < 2:
        raise ValueError(f"controls.{OTHER_TASK}: the fit has only one task; valid: two or more")
    if controls.get(OTHER_HEADS):
        heads = fitted.mean_effects.numel()
        if vector == "states":
            raise ValueError(f"controls.{OTHER_HEADS}: states have none; valid: 0")
        if 2 * len(fitted.top) > heads:
            raise ValueError(
                f"controls.{OTHER_HEADS}: {len(fitted.top)} of {heads} heads are top heads; valid: "
                "up to half"
            )
    named = [*prompts["topic"], *sums, *(part for parts in sums.values() for part in parts)]
    for task in named:
        if task not in fitted.tasks:
            raise ValueError(f"task {task!r} has no vector; valid: {', '.join(fitted.tasks)}")
    for task, parts in sums.items():
        if len(parts) != 3:
            raise ValueError(f"sums.{task}: {parts}; valid: three tasks a, b, c of a + b - c")
