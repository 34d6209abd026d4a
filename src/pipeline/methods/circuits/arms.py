"""Arms of a circuit: all but it ablated, sets of other sizes, and parts of it taken away."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd

from pipeline.config.declared import OneOf, OneOrMore
from pipeline.data.roles import CANDIDATE, CONTROL, Axis
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.circuits.components import ablations, name_of
from pipeline.methods.circuits.fits import Circuit, circuit_of
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

SETS = ("circuit", "ranked", "random")


def kept_components(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    sets: Annotated[str, OneOf(*SETS)],
    sizes: list[int] | None = None,
    draws: OneOrMore = 10,
) -> Iterator[Condition]:
    """Keep a set of components and ablate all others, as in the circuit's fit.

    `circuit`: none, and the circuit. `ranked`: those of the largest effect, by size. `random`:
    random sets with as many heads and as many MLPs, a control; of the circuit's size, as many as in
    the circuit. The circuit's size is one of the sizes.

    Args:
        model: the model.
        prompts: the prompts of the run.
        fits: contains the circuit.
        seed: of the random sets.
        fit: name of the `Circuit`.
        sets: one of `SETS`.
        sizes: of the sets, besides the circuit's; sizes above the number of components are left
            out.
        draws: random sets of each size.

    Yields:
        Conditions with the axes `source` (of `SETS`), `n_kept`, `draw`, `n_components` (all).

    Raises:
        ValueError: an unknown kind of sets, a size below 0, no draw, or a circuit of another model.
    """
    if sets not in SETS:
        raise ValueError(f"sets: {sets!r} is unknown; valid: {', '.join(SETS)}")
    for size in sizes or []:
        if size < 0:
            raise ValueError(f"sizes: {size} is less than 0")
    if draws < 1:
        raise ValueError(f"draws: {draws} is less than 1")
    circuit = circuit_of(fits, fit)
    sites, edits = _edits(model, prompts, circuit)
    size = len(circuit.kept)
    listed = sorted({size, *(n for n in sizes or [] if n <= len(sites))})
    if sets == "circuit":
        for kept in ([], circuit.kept):
            yield _keeping(kept, edits, _axes(sets, len(kept), 0, sites))
        return
    rng = np.random.default_rng(seed)
    for n in listed:
        ranked = circuit.ranked[:n]
        if sets == "ranked":
            yield _keeping(ranked, edits, _axes(sets, n, 0, sites))
            continue
        for draw in range(draws):
            kept = _random_set(sites, circuit.kept if n == size else ranked, rng)
            yield _keeping(kept, edits, _axes(sets, n, draw, sites), CONTROL)


def without_components(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    draws: OneOrMore = 20,
) -> Iterator[Condition]:
    """Ablate parts K of a circuit C, in the circuit and in the whole model.

    Minimality: the circuit without any one of its components recovers less. Completeness: d(C \\ K)
    and d(model \\ K) are alike for every K; K is each component alone, and random subsets, in which
    each component is by chance 1/2.

    Args:
        model: the model.
        prompts: the prompts of the run.
        fits: contains the circuit.
        seed: of the random subsets.
        fit: name of the `Circuit`.
        draws: random subsets.

    Yields:
        Conditions with the axes `base` (`circuit` or `model`), `removed` (a component's name, or
        `subset 3`), `n_removed`.

    Raises:
        ValueError: no draw, or a circuit of another model.

    Source: Wang et al. 2023 (completeness and minimality criteria).
    """
    if draws < 1:
        raise ValueError(f"draws: {draws} is less than 1")
    circuit = circuit_of(fits, fit)
    sites, edits = _edits(model, prompts, circuit)
    kept = circuit.kept
    rng = np.random.default_rng(seed)
    parts = {name_of(site): [site] for site in kept}
    for draw in range(draws):
        chosen = rng.random(len(kept)) < 0.5
        parts[f"subset {draw + 1}"] = [
            site for site, is_in in zip(kept, chosen, strict=True) if is_in
        ]
    for removed, part in parts.items():
        for base, components in (("circuit", kept), ("model", sites)):
            axes: dict[str, Axis] = {"base": base, "removed": removed, "n_removed": len(part)}
            yield _keeping([site for site in components if site not in part], edits, axes)


def _edits(
    model: LanguageModel, prompts: pd.DataFrame, circuit: Circuit
) -> tuple[list[Site], dict[Site, Edit]]:
    sites = circuit.sites
    for site in sites:
        circuit.check(model, site)
    options = {"ablation": circuit.ablation, "positions": circuit.positions}
    return sites, ablations(model, prompts, sites, **options)


def _random_set(
    sites: Sequence[Site], like: Sequence[Site], rng: np.random.Generator
) -> list[Site]:
    """Draw as many heads and as many MLPs as another set has."""
    drawn = []
    for component in ("z", "mlp_out"):
        of_kind = [site for site in sites if site.component == component]
        count = sum(site.component == component for site in like)
        drawn += [of_kind[i] for i in rng.permutation(len(of_kind))[:count]]
    return drawn


def _axes(sets: str, n_kept: int, draw: int, sites: Collection[Site]) -> dict[str, Axis]:
    return {"source": sets, "n_kept": n_kept, "draw": draw, "n_components": len(sites)}


def _keeping(
    kept: Collection[Site],
    edits: Mapping[Site, Edit],
    axes: Mapping[str, Axis],
    role: str = CANDIDATE,
) -> Condition:
    removed = tuple(edit for site, edit in edits.items() if site not in kept)
    return Condition(axes, removed, role=role)
