"""Sites: the names of activations in configs, stores and tables."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

COMPONENTS = (
    "resid_pre",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_act",
    "mlp_down",
    "mlp_out",
    "resid_post",
)
"""Hook points of a block, in the order they are computed, with TransformerLens' names.

- `resid_pre`, `resid_mid`, `resid_post`: residual stream before, inside and after the block.
- `attn_out`, `mlp_out`: what attention and MLP add to the stream, after a post-norm if any.
- `z`: concatenated head outputs, the input of the output projection.
- `mlp_act`: neuron activations, the input of the down projection.
- `mlp_down`: input and output of the down projection, concatenated to [mlp_act + d_model], before a
  post-norm; a write changes only the output.

Two more sites are not in this list: `embed`, the input of the first block, and `pattern`, the
attention pattern [batch, head, pos, pos], which is read-only.
"""

STREAM_WIDE = tuple(name for name in COMPONENTS if name not in ("z", "mlp_act", "mlp_down"))
"""Components of width `d_model` in every model."""

_HOOKABLE = ("embed", "resid_pre", "z", "pattern", *COMPONENTS[2:])
_SITE = re.compile(r"blocks\.(\d+)\.([a-z_]+)(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Site:
    """An activation in a model, printed as `blocks.12.resid_post`, `blocks.3.z[5]` or `embed`.

    `unit` is a head of `z` or a neuron of `mlp_act`; None means the whole activation.

    Raises:
        ValueError: an unknown component, `embed` at another layer than 0, or a unit of a component
            that has none.
    """

    layer: int
    component: str
    unit: int | None = None

    def __post_init__(self) -> None:
        if type(self.layer) is not int:
            raise ValueError(f"layer {self.layer!r}; valid: a whole number")
        if self.component not in _HOOKABLE:
            raise ValueError(
                f"unknown component {self.component!r}; "
                f"valid: {', '.join(COMPONENTS)}, embed, pattern"
            )
        if self.component == "embed" and self.layer != 0:
            raise ValueError(f"embed is the input of layer 0; layer {self.layer} has none")
        if self.unit is not None and self.component not in ("z", "mlp_act"):
            raise ValueError(
                f"{self.component}[{self.unit}]: only z has heads and only mlp_act has neurons"
            )

    def __str__(self) -> str:
        if self.component == "embed":
            return "embed"
        unit = "" if self.unit is None else f"[{self.unit}]"
        return f"blocks.{self.layer}.{self.component}{unit}"

    @property
    def depth(self) -> tuple[int, int, int]:
        """Sort key: the order in a forward pass, with a whole activation before its units."""
        order = _HOOKABLE.index(self.component)
        return (self.layer, order, -1 if self.unit is None else self.unit)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Parse the printed form of a site.

        Raises:
            ValueError: the text is not a site, or the component is unknown.
        """
        if text == "embed":
            return cls(0, "embed")
        match = _SITE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is not a site; valid: embed, or blocks.LAYER.COMPONENT with COMPONENT "
                f"in {', '.join(COMPONENTS)}, pattern"
            )
        layer, component, unit = match.groups()
        return cls(int(layer), component, None if unit is None else int(unit))


def check_component(component: str, model: str, *, parallel: bool) -> None:
    """Check that the layers of a model have a component of this name.

    Raises:
        ValueError: names the component and the valid ones.
    """
    Site(0, component)
    if component not in COMPONENTS:
        raise ValueError(
            f"{component!r} is not a component of a layer; valid: {', '.join(COMPONENTS)}"
        )
    check_middle(component, model, parallel)


def check_middle(component: str, model: str, parallel: bool) -> None:
    """Check that a model with parallel attention and MLP is not asked for `resid_mid`.

    Raises:
        ValueError: names the valid components.
    """
    if component == "resid_mid" and parallel:
        raise ValueError(
            f"attention and MLP of {model} run in parallel, so there is no resid_mid; "
            f"valid: {', '.join(c for c in COMPONENTS if c != 'resid_mid')}"
        )


def undivided(sites: Iterable[Site]) -> list[Site]:
    """Return the activations that the sites are or are units of, each once."""
    return list(dict.fromkeys(Site(site.layer, site.component) for site in sites))


def chosen_layers(layers: Any, n_layers: int, model: str) -> list[int]:
    """Resolve an option for layers: `all`, `every N` (0, N, 2 N, ...), or a list.

    Raises:
        ValueError: none of these, a duplicate layer, or a layer that the model does not have.
    """
    listed = _listed_layers(layers, n_layers)
    for layer in listed:
        if type(layer) is not int or not 0 <= layer < n_layers:
            raise ValueError(f"layers: {model} has no layer {layer!r}; valid: 0 to {n_layers - 1}")
    return listed


def collected_layers(component: str, layers: Any, sites: Iterable[Site]) -> list[int]:
    """Resolve an option for layers, as `chosen_layers` does, among the sites that were collected.

    Raises:
        ValueError: no such option, or a component or a layer that was not collected.
    """
    sites = list(sites)
    collected = sorted(site.layer for site in sites if site.component == component)
    if not collected:
        components = ", ".join(sorted({site.component for site in sites})) or "none"
        raise ValueError(f"component {component!r} is not collected; valid: {components}")
    listed = collected if layers == "all" else _listed_layers(layers, collected[-1] + 1)
    for layer in listed:
        if layer not in collected:
            valid = ", ".join(map(str, collected))
            raise ValueError(
                f"layers: {component} of layer {layer} is not collected; valid: {valid}"
            )
    return listed


def _listed_layers(layers: Any, n_layers: int) -> list[Any]:
    if layers == "all":
        return list(range(n_layers))
    step = re.fullmatch(r"every ([1-9]\d*)", layers) if isinstance(layers, str) else None
    if step:
        return list(range(0, n_layers, int(step[1])))
    if not isinstance(layers, list) or not layers:
        raise ValueError(f"layers: {layers!r} is not `all`, `every N` or a list of layers")
    if len(set(map(str, layers))) < len(layers):
        raise ValueError(f"layers: {layers} has a layer twice")
    return layers
