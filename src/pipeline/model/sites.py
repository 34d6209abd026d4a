"""Where an activation lives: the key of configurations, stores and tables."""

import re
from dataclasses import dataclass

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
"""What a block offers, in the order it computes them and in TransformerLens' vocabulary.

`embed`, the input of the first block, stands before them all; `pattern`, the attention's
probabilities [batch, head, pos, pos], can only be read.

`resid_pre`, `resid_mid`, `resid_post`: the residual stream before, inside and after the block.
`attn_out`, `mlp_out`: what is added to the stream, after a post-norm where the family has one.
`z`: the heads' concatenated input of the output projection. `mlp_act`: the input of the down
projection (neurons). `mlp_down`: the down projection itself, its input and its output side by side
[mlp_act + d_model], before a post-norm; a write changes the output alone.
"""

STREAM = tuple(name for name in COMPONENTS if name not in ("z", "mlp_act", "mlp_down"))
"""Those that are as wide as the residual stream in every model."""

_VISITED = ("embed", "resid_pre", "z", "pattern", *COMPONENTS[2:])
_SITE = re.compile(r"blocks\.(\d+)\.([a-z_]+)(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Site:
    """One place in a model, printed as `blocks.12.resid_post`, `blocks.3.z[5]` or `embed`.

    `unit` is a head of `z` or a neuron of `mlp_act`; None means the whole activation.
    """

    layer: int
    component: str
    unit: int | None = None

    def __post_init__(self) -> None:
        if self.component not in _VISITED:
            raise ValueError(
                f"unknown component {self.component!r}; "
                f"valid: {', '.join(COMPONENTS)}, embed, pattern"
            )
        if self.component == "embed" and self.layer != 0:
            raise ValueError(f"embed stands before layer 0, there is none at layer {self.layer}")
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
        """Orders sites as one forward pass visits them, a whole activation before its units."""
        order = _VISITED.index(self.component)
        return (self.layer, order, -1 if self.unit is None else self.unit)

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read a site back from its printed form.

        Raises:
            ValueError: the text is no site, or names an unknown component.
        """
        if text == "embed":
            return cls(0, "embed")
        match = _SITE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no site; valid: embed, or blocks.LAYER.COMPONENT with COMPONENT in "
                + ", ".join([*COMPONENTS, "pattern"])
            )
        layer, component, unit = match.groups()
        return cls(int(layer), component, None if unit is None else int(unit))


def check_component(component: str, model: str, *, parallel: bool) -> None:
    """Fail if the layers of a model have no activation of this name.

    Raises:
        ValueError: names it and the valid ones.
    """
    Site(0, component)
    if component not in COMPONENTS:
        raise ValueError(
            f"{component!r} is no activation of a layer; valid: {', '.join(COMPONENTS)}"
        )
    check_middle(component, model, parallel)


def check_middle(component: str, model: str, parallel: bool) -> None:
    """Fail for `resid_mid` where attention and MLP read the same input.

    Raises:
        ValueError: says so, and names the valid ones.
    """
    if component == "resid_mid" and parallel:
        raise ValueError(
            f"attention and MLP of {model} run side by side, so there is no resid_mid; "
            f"valid: {', '.join(c for c in COMPONENTS if c != 'resid_mid')}"
        )
