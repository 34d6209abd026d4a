"""The conditions of a study: every arm's layers x strengths x positions, baseline and controls."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd
from torch import Tensor

from pipeline.config.sections import Arm, Study
from pipeline.config.study import target
from pipeline.engine.conditions import Condition, Edit, Positions
from pipeline.measures.choice import Setting
from pipeline.methods.directions import Key
from pipeline.model.sites import Site


@dataclass(frozen=True)
class Part:
    """Conditions and the samples that they all run on; the name is its own in the study."""

    name: str
    arm: str
    conditions: tuple[Condition, ...]
    samples: tuple[int, ...]


def validation_parts(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> list[Part]:
    """What a choice is made from: baseline and all of layers x strengths x rules, on val prompts.

    Raises:
        ValueError: an arm without prompts there.
    """
    return [
        Part(
            f"{name}-validation",
            name,
            (Condition(name), *_fitted(name, arm, layers, arm.strengths, list(arm.rules))),
            _prompts(name, arm, dataset, "val"),
        )
        for name, arm in study.sweep.arms.items()
        if arm.strengths
    ]


def report_parts(
    study: Study,
    dataset: pd.DataFrame,
    layers: Sequence[int],
    settings: Mapping[str, Setting],
) -> list[Part]:
    """What is reported, on test prompts: baseline, fitted directions and controls over layers.

    All strengths run by the chosen position rule, the other rules and the controls at the chosen
    strength.

    Raises:
        ValueError: an arm without prompts there.
    """
    found = []
    for name, arm in study.sweep.arms.items():
        samples = _prompts(name, arm, dataset, "test")
        conditions = [Condition(name)]
        if name in settings:
            rule, strength = settings[name].positions, settings[name].strength
            others = [other for other in arm.rules if other != rule]
            conditions += _fitted(name, arm, layers, arm.strengths, [rule])
            conditions += _fitted(name, arm, layers, [strength], others)
            conditions += [
                Condition(name, intervention_name(arm), source, draw, layer, strength, rule)
                for source, count in asdict(study.vectors.controls).items()
                for draw in range(count)
                for layer in layers
            ]
        found.append(Part(name, name, tuple(conditions), samples))
    return found


def chosen_layers(study: Study, n_layers: int) -> list[int]:
    """The layers that the sweep runs over.

    Raises:
        ValueError: `sweep.layers` is neither `all` nor a list of layers that are there.
    """
    layers = study.sweep.layers
    if layers == "all":
        return list(range(n_layers))
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"sweep.layers: {layers!r} is neither `all` nor a list of layers")
    if len(set(map(str, layers))) < len(layers):
        raise ValueError(f"sweep.layers: {layers} has a layer twice")
    for layer in layers:
        if not isinstance(layer, int) or not 0 <= layer < n_layers:
            raise ValueError(
                f"sweep.layers: {study.model.path} has no layer {layer!r}; "
                f"valid: 0 to {n_layers - 1}"
            )
    return layers


def any_parts(study: Study, dataset: pd.DataFrame, layers: Sequence[int]) -> list[Part]:
    """What will run; whichever setting is chosen, the report has as many conditions."""
    any_setting = {
        name: Setting(layers[0], arm.strengths[0], arm.positions[0], "validation")
        for name, arm in study.sweep.arms.items()
        if arm.strengths
    }
    return [
        *validation_parts(study, dataset, layers),
        *report_parts(study, dataset, layers, any_setting),
    ]


def with_edits(
    condition: Condition,
    arm: Arm,
    directions: Mapping[Key, Tensor],
    n_layers: int,
    rules: Mapping[str, Positions],
) -> Condition:
    """The condition with what it does in a model: its direction at its arm's sites.

    `rules` says for each position rule of the arm what it names in the prompts that are run.
    """
    if condition.layer is None:
        return condition
    assert arm.intervention is not None
    direction = directions[Key(condition.source, condition.draw, condition.layer)]
    intervention = target(arm.intervention)(direction, condition.strength)
    layers = range(n_layers) if arm.everywhere else [condition.layer]
    return replace(
        condition,
        edits=tuple(
            Edit(Site(layer, component), intervention, rules[condition.positions])
            for layer in layers
            for component in arm.components
        ),
    )


def compared(condition: Condition, settings: Mapping[str, Setting]) -> bool:
    """Whether a condition stands in its arm's comparison over layers."""
    return condition.layer is None or settings[condition.arm].holds(
        condition.strength, condition.positions
    )


def intervention_name(arm: Arm) -> str:
    """The intervention as tables call it: `ProjectOut` is project_out."""
    if arm.intervention is None:
        return "none"
    name = arm.intervention["_target_"].rpartition(".")[2]
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _prompts(name: str, arm: Arm, dataset: pd.DataFrame, split: str) -> tuple[int, ...]:
    labelled = dataset[dataset["label"] == arm.prompts]
    if labelled.empty:
        labels = ", ".join(sorted(dataset["label"].unique()))
        raise ValueError(
            f"sweep.arms.{name}.prompts: no prompt has label {arm.prompts!r}; valid: {labels}"
        )
    chosen = labelled.loc[labelled["split"] == split, "sample"]
    if chosen.empty:
        raise ValueError(f"sweep.arms.{name}.prompts: no {arm.prompts} prompt is in {split}")
    return tuple(chosen)


def _fitted(
    name: str,
    arm: Arm,
    layers: Sequence[int],
    strengths: Sequence[float],
    rules: Sequence[str],
) -> list[Condition]:
    kind = intervention_name(arm)
    return [
        Condition(name, kind, "fitted", 0, layer, strength, rule)
        for rule in rules
        for strength in strengths
        for layer in layers
    ]
