"""Directions on disk: safetensors with the provenance that says where they fit."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Key:
    """Names a direction: where it came from, which draw of it, and the layer it was read at."""

    source: str
    draw: int
    layer: int

    def __str__(self) -> str:
        return f"{self.source}/{self.draw}/{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read a key back from its printed form."""
        source, draw, layer = text.split("/")
        return cls(source, int(draw), int(layer))


@dataclass(frozen=True)
class Provenance:
    """What directions were made from: hashes of model, template and dataset, site and position."""

    model: str
    template: str
    dataset: str
    component: str
    position: int


def save_directions(
    path: Path, directions: Mapping[Key, Float[Tensor, " d_model"]], provenance: Provenance
) -> None:
    """Write directions [d_model] in float32 with their provenance."""
    # One metadata key: several are written in random order and would change the bytes.
    metadata = {"provenance": json.dumps(asdict(provenance), sort_keys=True)}
    tensors = {str(key): value.float().contiguous() for key, value in directions.items()}
    save_file(tensors, path, metadata=metadata)


def load_directions(
    path: Path, *, model: str | None = None, template: str | None = None
) -> tuple[dict[Key, Tensor], Provenance]:
    """Read directions back, if they fit.

    Args:
        path: the file.
        model: hash of the weights they are to be used on, unchecked if None.
        template: hash of the chat template, likewise.

    Raises:
        ValueError: made on another model or template; names both.
    """
    with safe_open(path, framework="pt") as file:
        provenance = Provenance(**json.loads(file.metadata()["provenance"]))
        directions = {Key.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for what, wanted in (("model", model), ("template", template)):
        made = getattr(provenance, what)
        if wanted is not None and made != wanted:
            raise ValueError(f"{path}: directions were made on {what} {made}, this is {wanted}")
    return directions, provenance


def check_direction(direction: Float[Tensor, " d_model"], name: str) -> None:
    """Fail if a direction has no direction.

    Raises:
        ValueError: not finite, or zero.
    """
    if not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
        raise ValueError(f"direction {name} is zero or not finite")
