"""Add the sum of two steering vectors, beside each alone and beside sums with a control."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.config.declared import ZeroOrMore
from pipeline.data.positions import resolve
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.directions import FITTED, Directions, Key
from pipeline.methods.interventions import Add
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

ALONE, SUM = "alone", "sum"
_SHUFFLED = "shuffled"


def add_sum(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    directions: list[str],
    components: list[str],
    strengths: list[float] = [1.0],  # noqa: B006 - never changed
    positions: Any = "last",
    layers: Any = "all",
    draws: ZeroOrMore = 2,
) -> Iterator[Condition]:
    """Add two layers' directions at once: x + strength * (a + b).

    Beside the sum each of both is added alone, and each with a shuffled control of the other, which
    has the other's norm: what an unrelated vector of that size takes away from the first. Axes:
    `vectors` (a, b, a + b, a + shuffled b, shuffled a + b), `source` (`alone`, `sum` or
    `shuffled`), `draw`, `layer`, `strength`, `positions`.

    Args:
        model: the model.
        prompts: the prompts of the arm.
        fits: contains the directions.
        directions: the names of two fits, a and b; `STUDY/NAME` is another study's.
        components: components of the layer to edit, such as `resid_pre`.
        strengths: factors of both.
        positions: a rule of `data.positions.EDITED`, or a list of positions.
        layers: `all` layers at which both have a direction, or a list.
        draws: shuffled controls of either vector.

    Raises:
        ValueError: not two different fits, more draws than a fit has controls, no direction at a
            layer, another model or component, or a rule that names no position in a prompt.
    """
    if len(set(directions)) != 2 or len(directions) != 2:
        raise ValueError(f"directions = {directions}; valid: two fits")
    first, second = (fits[name] for name in directions)
    for name, fit in zip(directions, (first, second), strict=True):
        available = sum(source == _SHUFFLED for source, _ in fit.controls)
        if not 0 <= draws <= available:
            raise ValueError(f"draws: {draws}; valid: 0 to {available}, the controls of {name}")
    at = resolve(prompts, model.tokenizer, positions, variables=model.template)
    for strength, layer in product(strengths, _layers(model, layers, directions, first, second)):
        sites = [Site(layer, component) for component in components]
        for site in sites:
            first.check(model, site)
            second.check(model, site)
        for named, source, draw, vector in _vectors(directions, first, second, layer, draws):
            yield Condition(
                {
                    "intervention": "add",
                    "vectors": named,
                    "source": source,
                    "draw": draw,
                    "layer": layer,
                    "strength": strength,
                    "positions": str(positions),
                },
                tuple(Edit(site, Add(vector, strength), at) for site in sites),
                role=CONTROL if source == _SHUFFLED else CANDIDATE,
            )


def _vectors(
    names: list[str], first: Directions, second: Directions, layer: int, draws: int
) -> Iterator[tuple[str, str, int, Tensor]]:
    """Yield name, source, draw and vector of a, of b, of their sum, and of sums with controls."""
    one, other = (fit.vectors[Key(FITTED, 0, layer)] for fit in (first, second))
    a, b = names
    yield a, ALONE, 0, one
    yield b, ALONE, 0, other
    yield f"{a} + {b}", SUM, 0, one + other
    for draw in range(draws):
        key = Key(_SHUFFLED, draw, layer)
        yield f"{a} + shuffled {b}", _SHUFFLED, draw, one + second.vectors[key]
        yield f"shuffled {a} + {b}", _SHUFFLED, draw, first.vectors[key] + other


def _layers(
    model: LanguageModel, layers: Any, names: list[str], first: Directions, second: Directions
) -> list[int]:
    resolved = chosen_layers(layers, model.n_layers, model.name)
    both = [layer for layer in first.layers if layer in second.layers]
    missing = sorted(set(resolved) - set(both))
    # A rule such as `all` means the layers that have both directions.
    if missing and (isinstance(layers, list) or not set(resolved) & set(both)):
        raise ValueError(
            f"{' and '.join(names)} have no directions at layer {missing[0]}; valid: {both}"
        )
    return [layer for layer in resolved if layer in both]
