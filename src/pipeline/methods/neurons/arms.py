"""Arms of chosen neurons: ablated together and alone, beside random ones, and clamped."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from pipeline.config.declared import OneOf, OneOrMore
from pipeline.config.errors import at_key
from pipeline.data.positions import resolve
from pipeline.data.roles import CANDIDATE, CONTROL, Axis
from pipeline.engine.conditions import Condition, Edit, Positions, check_rule
from pipeline.methods.interventions import SetUnits
from pipeline.methods.neurons.effects import ABLATIONS
from pipeline.methods.neurons.fits import POSITIONS, NeuronEffects
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

TOGETHER = "together"
"""The axis `neuron` of a condition that sets all chosen neurons."""
ALIKE = 20
"""A random neuron is drawn among so many of its layer whose mean absolute activation is nearest."""


def ablated_neurons(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    ablation: Annotated[str, OneOf(*ABLATIONS)] = "zero",
    positions: Any = "last",
) -> Iterator[Condition]:
    """Ablate the chosen neurons of a fit together, and each alone.

    Axes: `source` (chosen), `neuron` (its site, or `together`), `unit` (the neuron that is set),
    `group` (`LABEL neurons`, by the chosen neuron's label), `draw` (0), `ablation`, `positions`.

    Args:
        model: the model.
        prompts: the prompts of the run.
        fits: contains the fit.
        fit: the name of a `NeuronEffects`.
        ablation: `zero`, or `mean`: the mean over the fit's contexts.
        positions: `last`, `all`, `after_first` or `subject`.

    Raises:
        ValueError: an unknown ablation or position, or a fit of another model.
    """
    neurons, rule = _checked(model, prompts, fits[fit], ablation, positions)
    values = (
        neurons.chosen["activation"] if ablation == "mean" else 0 * neurons.chosen["activation"]
    )
    axes: dict[str, Axis] = {"source": "chosen", "draw": 0}
    axes |= {"ablation": ablation, "positions": str(positions)}
    yield from _together_and_alone(neurons.chosen, neurons.chosen, values, rule, axes, CANDIDATE)


def random_neurons(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    ablation: Annotated[str, OneOf(*ABLATIONS)] = "zero",
    positions: Any = "last",
    draws: OneOrMore = 10,
) -> Iterator[Condition]:
    """Ablate, in place of each chosen neuron, a random one of its layer and activation: a control.

    Drawn among the `ALIKE` neurons of the layer whose mean absolute activation is nearest, without
    the chosen ones, whether they pass the test or not. Axes and other arguments are those of
    `ablated_neurons`; `source` is random, `neuron` the chosen neuron that it stands for.

    Args:
        model: the model.
        prompts: the prompts of the run.
        fits: contains the fit.
        seed: of the draws.
        fit: the name of a `NeuronEffects`.
        ablation: see `ablated_neurons`.
        positions: see `ablated_neurons`.
        draws: number of random sets.

    Raises:
        ValueError: as `ablated_neurons`; no draw, or too few neurons in a layer.
    """
    neurons, rule = _checked(model, prompts, fits[fit], ablation, positions)
    for draw, drawn in enumerate(_random_sets(neurons, draws, seed)):
        values = drawn["activation"] if ablation == "mean" else 0 * drawn["activation"]
        axes: dict[str, Axis] = {"source": "random", "draw": draw}
        axes |= {"ablation": ablation, "positions": str(positions)}
        yield from _together_and_alone(neurons.chosen, drawn, values, rule, axes, CONTROL)


def clamped_neurons(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    multiples: list[float],
    positions: Any = "last",
    draws: OneOrMore = 3,
) -> Iterator[Condition]:
    """Clamp the chosen neurons at multiples of their mean activation: a dose response.

    The mean is over the fit's contexts with the neuron's own label, where its ablation has the
    largest effect; multiple 0 is zero ablation, 1 the neuron's usual level there. Each neuron is
    clamped alone, and those of a label together. Controls: random neurons in their place, drawn as
    in `random_neurons`, clamped together at multiples of their own means.

    Axes: `source` (chosen or random), `neuron` (its site, or `LABEL neurons`), `draw`, `multiple`,
    `positions`.

    Args:
        model: the model.
        prompts: the prompts of the run.
        fits: contains the fit.
        seed: of the draws.
        fit: the name of a `NeuronEffects`.
        multiples: of the mean activation.
        positions: see `ablated_neurons`.
        draws: number of random sets.

    Raises:
        ValueError: as `random_neurons`; no multiple, or one twice.
    """
    if not multiples or len(set(multiples)) < len(multiples):
        raise ValueError(f"multiples = {multiples}; valid: one or more, each once")
    neurons, rule = _checked(model, prompts, fits[fit], "zero", positions)
    labels = neurons.chosen["label"].to_numpy()
    sets = [("chosen", 0, neurons.chosen)]
    sets += [
        ("random", draw, drawn) for draw, drawn in enumerate(_random_sets(neurons, draws, seed))
    ]
    for source, draw, units in sets:
        typical = typical_activations(units)
        parts = {group_name(label): labels == label for label in dict.fromkeys(labels)}
        if source == "chosen":
            parts |= {name: np.arange(len(units)) == n for n, name in enumerate(names_of(units))}
        for (name, members), multiple in itertools.product(parts.items(), multiples):
            edits = _edits(units[members], multiple * typical[members], rule)
            axes = {"source": source, "draw": draw, "neuron": name, "multiple": multiple}
            role = CANDIDATE if source == "chosen" else CONTROL
            yield Condition({**axes, "positions": str(positions)}, edits, role=role)


def typical_activations(neurons: pd.DataFrame) -> pd.Series:
    """Return each neuron's mean activation over the contexts with its own label."""
    means = [row[f"activation_{row['label']}"] for _, row in neurons.iterrows()]
    return pd.Series(means, neurons.index, dtype=float)


def group_name(label: str) -> str:
    """Return the name of the chosen neurons of a label."""
    return f"{label} neurons"


def names_of(neurons: pd.DataFrame) -> list[str]:
    """Return each neuron's site, such as `blocks.3.mlp_act[17]`."""
    pairs = zip(neurons["layer"], neurons["neuron"], strict=True)
    return [str(Site(int(layer), "mlp_act", int(neuron))) for layer, neuron in pairs]


def _checked(
    model: LanguageModel, prompts: pd.DataFrame, neurons: NeuronEffects, ablation: str, rule: Any
) -> tuple[NeuronEffects, Positions]:
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation: {ablation!r} is unknown; valid: {', '.join(ABLATIONS)}")
    with at_key("positions"):
        check_rule(rule, POSITIONS)
    for layer in neurons.chosen["layer"].unique():
        neurons.check(model, Site(int(layer), "mlp_act"))
    return neurons, resolve(prompts, model.tokenizer, rule, variables=model.template)


def _together_and_alone(
    chosen: pd.DataFrame,
    units: pd.DataFrame,
    values: pd.Series,
    rule: Positions,
    axes: Mapping[str, Axis],
    role: str,
) -> Iterator[Condition]:
    together = {**axes, "neuron": TOGETHER, "unit": TOGETHER}
    yield Condition(together, _edits(units, values, rule), role=role)
    for n, (neuron, unit) in enumerate(zip(names_of(chosen), names_of(units), strict=True)):
        edits = _edits(units.iloc[[n]], values.iloc[[n]], rule)
        group = group_name(chosen["label"].iloc[n])
        yield Condition({**axes, "neuron": neuron, "unit": unit, "group": group}, edits, role=role)


def _edits(neurons: pd.DataFrame, values: pd.Series, rule: Positions) -> tuple[Edit, ...]:
    """One edit per layer that sets its neurons to values."""
    edits = []
    for layer, rows in neurons.groupby("layer"):
        units = torch.tensor(rows["neuron"].tolist())
        levels = torch.tensor(values[rows.index].tolist(), dtype=torch.float32)
        edits.append(Edit(Site(int(layer), "mlp_act"), SetUnits(units, levels), rule))
    return tuple(edits)


def _random_sets(neurons: NeuronEffects, draws: int, seed: int) -> list[pd.DataFrame]:
    """Draw sets of distinct neurons, one for each chosen neuron, in the order of the chosen."""
    if draws < 1:
        raise ValueError(f"draws: {draws} is less than 1")
    rng = np.random.default_rng(seed)
    others = neurons.effects[neurons.effects["rank"] == 0]
    sets = []
    for _ in range(draws):
        drawn: list[int] = []
        for row in neurons.chosen.itertuples():
            left = others[(others["layer"] == row.layer) & ~others.index.isin(drawn)]
            if left.empty:
                raise ValueError(f"layer {row.layer} has no random neuron left beside the chosen")
            distance = (left["size"] - row.size).abs().sort_values(kind="stable")
            drawn.append(int(rng.choice(distance.index[:ALIKE])))
        sets.append(neurons.effects.loc[drawn])
    return sets
