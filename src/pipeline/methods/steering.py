"""Arms that add, subtract or project out fitted steering vectors."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import pandas as pd
from torch import Tensor

from pipeline.data.positions import resolve
from pipeline.data.roles import CANDIDATE, CONTROL, CURVE
from pipeline.engine.conditions import Condition, Edit, Intervention
from pipeline.methods.directions import FITTED, Directions, Key
from pipeline.methods.interventions import Add, ProjectOut, Subtract
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

Steer = Callable[[Tensor, float], Intervention]


def add(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    components: list[str],
    strengths: list[float],
    positions: list[Any] = ["all"],  # noqa: B006 - never changed
    layers: Any = "all",
) -> Iterator[Condition]:
    """Add each layer's direction at the layer it was fitted at: x + strength * direction.

    Axes: `intervention`, `source` and `draw` of the direction, `layer`, `strength`, `positions`.
    Reference: Turner et al. 2023.

    Args:
        model: the model.
        prompts: the prompts of the arm.
        fits: the study's fits by name.
        fit: name of the fit with the directions, one per layer.
        components: components of the layer to edit, such as `resid_pre`.
        strengths: factors of the direction; 1 adds it as it was fitted.
        positions: rules of `data.positions.EDITED`, or lists of positions.
        layers: `all` layers that have a direction, or a list.

    Raises:
        ValueError: no direction at a layer, another model or component, or a rule that names no
            position in a prompt.
    """
    grid = _Grid(model, prompts, fits[fit], strengths, positions, layers)
    return grid.conditions("add", Add, components)


def subtract(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    components: list[str],
    strengths: list[float],
    positions: list[Any] = ["all"],  # noqa: B006 - never changed
    layers: Any = "all",
) -> Iterator[Condition]:
    """Subtract each layer's direction at the layer it was fitted at: x - strength * direction.

    Axes, arguments and errors are those of `add`.
    """
    grid = _Grid(model, prompts, fits[fit], strengths, positions, layers)
    return grid.conditions("subtract", Subtract, components)


def project_out(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    components: list[str],
    strengths: list[float] = [1.0],  # noqa: B006 - never changed
    positions: list[Any] = ["all"],  # noqa: B006 - never changed
    layers: Any = "all",
    everywhere: bool = False,
) -> Iterator[Condition]:
    """Project each layer's direction out: x - strength * (x . r) r, r the unit direction.

    With `everywhere`, project it out at the components of every layer. Axes, other arguments and
    errors are those of `add`. Reference: Arditi et al. 2024.
    """
    grid = _Grid(model, prompts, fits[fit], strengths, positions, layers)
    return grid.conditions("project_out", ProjectOut, components, everywhere=everywhere)


class _Grid:
    """The grid of layers x strengths x position rules of an arm, rules resolved on its prompts."""

    def __init__(
        self,
        model: LanguageModel,
        prompts: pd.DataFrame,
        directions: Directions,
        strengths: list[float],
        positions: list[Any],
        layers: Any,
    ) -> None:
        self._model, self._directions, self._strengths = model, directions, strengths
        self._rules = {
            str(rule): resolve(prompts, model.tokenizer, rule, variables=model.template)
            for rule in positions
        }
        resolved = chosen_layers(layers, model.n_layers, model.name)
        self._layers = [layer for layer in resolved if layer in directions.layers]
        # A rule such as `all` means the layers that have a direction.
        missing = set(resolved) - set(self._layers)
        if missing and (isinstance(layers, list) or not self._layers):
            raise ValueError(f"no direction at layer {min(missing)}; valid: {directions.layers}")

    def conditions(
        self, intervention: str, steer: Steer, components: list[str], *, everywhere: bool = False
    ) -> Iterator[Condition]:
        """Yield the fitted directions over rules, strengths and layers, then the controls."""
        sites = {
            layer: [
                Site(edited, component)
                for edited in (range(self._model.n_layers) if everywhere else [layer])
                for component in components
            ]
            for layer in self._layers
        }
        for site in {site for listed in sites.values() for site in listed}:
            self._directions.check(self._model, site)
        for source, draw in [(FITTED, 0), *self._directions.controls]:
            for rule, strength, layer in product(self._rules, self._strengths, self._layers):
                edit = steer(self._directions.vectors[Key(source, draw, layer)], strength)
                yield Condition(
                    {
                        "intervention": intervention,
                        "source": source,
                        "draw": draw,
                        "layer": layer,
                        "strength": strength,
                        "positions": rule,
                    },
                    tuple(Edit(site, edit, self._rules[rule]) for site in sites[layer]),
                    role=self._role(source, layer),
                )

    def _role(self, source: str, layer: int) -> str:
        """Return the role; if a selection fixed the layer, other layers are no candidates."""
        if source != FITTED:
            return CONTROL
        selected = self._directions.selected
        if selected is None or selected["layer"] not in self._layers:
            return CANDIDATE
        return CANDIDATE if layer == selected["layer"] else CURVE
