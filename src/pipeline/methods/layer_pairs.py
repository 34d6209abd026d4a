"""Pairs of layers to patch between: a state is read at one layer and put into another."""

from typing import Any

from pipeline.model.loading import LanguageModel
from pipeline.model.sites import chosen_layers

COMPONENTS = ("resid_pre", "resid_mid", "resid_post")
"""Components whose states may be patched."""
DONORS = ("same", "other")
"""Prompts that states come from: the same row's, or another row's as a control."""


def source_and_target_layers(
    model: LanguageModel,
    source_layers: Any,
    target_layers: Any,
    *,
    component: str,
    donor: str,
) -> tuple[list[int], list[int]]:
    """Resolve the layers that states are read from and patched into, and check what is patched.

    Raises:
        ValueError: an unknown layer, component or donor.
    """
    for option, value, valid in (("component", component, COMPONENTS), ("donor", donor, DONORS)):
        if value not in valid:
            raise ValueError(f"{option} {value!r} is unknown; valid: {', '.join(valid)}")
    sources, targets = (
        chosen_layers(layers, model.n_layers, model.name)
        for layers in (source_layers, target_layers)
    )
    return sources, targets
