"""The conditions of a study: every arm's layers x strengths x positions, baseline and controls."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd
from torch import Tensor

from pipeline.engine.conditions import Condition, Edit, Positions
from pipeline.methods.directions import Key
from pipeline.model.sites import Site
from pipeline.sections import Arm, Study
from pipeline.study import target


@dataclass(frozen=True)
class Part:
    """Conditions and the samples that they all run on."""

    arm: str
    conditions: tuple[Condition, ...]
    samples: tuple[int, ...]


def parts(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> list[Part]:
    """What a sweep runs: for each arm baseline and fitted directions, then its controls.

    Choices are made on the validation split and reported on the test split, so that controls,
    which nothing is chosen by, need the test split alone.

    Raises:
        ValueError: an arm or split without prompts.
    """
    found = []
    for name, arm in study.sweep.arms.items():
        prompts = dataset[dataset["label"] == arm.prompts]
        if prompts.empty:
            labels = ", ".join(sorted(dataset["label"].unique()))
            raise ValueError(
                f"sweep.arms.{name}.prompts: no prompt has label {arm.prompts!r}; valid: {labels}"
            )
        chosen = prompts[prompts["split"].isin(study.sweep.splits)]
        if chosen.empty:
            raise ValueError(f"sweep.arms.{name}: no {arm.prompts} prompts in {study.sweep.splits}")
        found.append(Part(name, tuple(_fitted(name, arm, layers)), tuple(chosen["sample"])))
        controls = tuple(_controls(name, arm, layers, asdict(study.vectors.controls)))
        tested = tuple(chosen.loc[chosen["split"] == "test", "sample"])
        if controls and tested:
            found.append(Part(name, controls, tested))
    return found


def with_edits(
    condition: Condition,
    arm: Arm,
    directions: Mapping[Key, Tensor],
    n_layers: int,
    template_length: int,
) -> Condition:
    """The condition with what it does in a model: its direction at its arm's sites.

    The rule `template` names the `template_length` last tokens of a prompt.
    """
    if condition.layer is None:
        return condition
    assert arm.intervention is not None
    direction = directions[Key(condition.source, condition.draw, condition.layer)]
    intervention = target(arm.intervention)(direction, condition.strength)
    rule: Positions = condition.positions
    if rule == "template":
        rule = tuple(range(-template_length, 0))
    layers = range(n_layers) if arm.everywhere else [condition.layer]
    return replace(
        condition,
        edits=tuple(
            Edit(Site(layer, component), intervention, rule)
            for layer in layers
            for component in arm.components
        ),
    )


def compared(study: Study, condition: Condition) -> bool:
    """Whether a condition stands in the comparison over layers: reference strength, first rule."""
    arm = study.sweep.arms[condition.arm]
    return condition.layer is None or (
        condition.strength == arm.reference and condition.positions == arm.positions[0]
    )


def intervention_name(arm: Arm) -> str:
    """The intervention as tables call it: `ProjectOut` is project_out."""
    if arm.intervention is None:
        return "none"
    name = arm.intervention["_target_"].rpartition(".")[2]
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _fitted(name: str, arm: Arm, layers: Sequence[int]) -> list[Condition]:
    kind = intervention_name(arm)
    grid = [
        Condition(name, kind, "fitted", 0, layer, strength, positions)
        for positions in arm.positions
        # Strengths are swept by the first rule; the others are compared at the reference.
        for strength in (arm.strengths if positions == arm.positions[0] else [arm.reference])
        for layer in layers
        if strength is not None
    ]
    return [Condition(name), *grid]


def _controls(
    name: str, arm: Arm, layers: Sequence[int], draws: Mapping[str, int]
) -> list[Condition]:
    if arm.reference is None:
        return []
    kind = intervention_name(arm)
    return [
        Condition(name, kind, source, draw, layer, arm.reference, arm.positions[0])
        for source, count in draws.items()
        for draw in range(count)
        for layer in layers
    ]
