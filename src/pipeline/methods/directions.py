"""Directions by source, draw and layer, saved with their provenance."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.prompts import check_pairs, select_prompts
from pipeline.methods.provenance import Provenance
from pipeline.methods.vectors import CONTROLS
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import STREAM_WIDE, Site
from pipeline.model.tokenization import single_tokens

FITTED = "fitted"
"""Source of fitted directions; all other sources are controls."""
OTHER_FEATURES = "other_features"
"""Control of a feature's direction: features that are active about as often."""
SOURCES = (*CONTROLS, OTHER_FEATURES)
"""Sources of controls, in the order of conditions."""
_FILE, _SELECTED, _CANDIDATES = "directions.safetensors", "selected.json", "candidates.json"


@dataclass(frozen=True)
class Key:
    """The key of a direction: its source, the draw of that source, and the layer."""

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


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions [d_model] at a component of every layer, with controls of the same norm.

    Attributes:
        vectors: the directions by key.
        component: the component they were fitted at, such as `resid_pre`.
        position: the token position, from the prompt's end if negative, or `subject` or `answer`.
        provenance: the model and data they were fitted on.
        selected: position, layer and scores of the selected direction, if there was a selection.
        candidates: the scores of all candidates of the selection.
    """

    vectors: Mapping[Key, Float[Tensor, " d_model"]]
    component: str
    position: int | str
    provenance: Provenance
    selected: dict[str, Any] | None = None
    candidates: pd.DataFrame | None = None

    @property
    def layers(self) -> list[int]:
        """The layers that have a fitted direction."""
        return sorted(key.layer for key in self.vectors if key.source == FITTED)

    @property
    def controls(self) -> list[tuple[str, int]]:
        """Source and draw of every control."""
        pairs = {(key.source, key.draw) for key in self.vectors if key.source != FITTED}
        # Conditions are packed in the order of `SOURCES`, not of the file.
        return sorted(pairs, key=lambda pair: (SOURCES.index(pair[0]), pair[1]))

    def save(self, folder: Path) -> None:
        """Write the directions in float32, and the selection as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        # One metadata key: several would be written in random order and change the file's bytes.
        record = {
            "component": self.component,
            "position": self.position,
            "provenance": self.provenance.record,
        }
        tensors = {str(key): value.float().contiguous() for key, value in self.vectors.items()}
        metadata = {"directions": json.dumps(record, sort_keys=True)}
        save_file(tensors, folder / _FILE, metadata=metadata)
        if self.selected is not None:
            (folder / _SELECTED).write_text(json.dumps(self.selected, indent=1) + "\n")
        if self.candidates is not None:
            self.candidates.to_json(folder / _CANDIDATES, orient="records", indent=1)

    @classmethod
    def load(cls, folder: Path) -> "Directions":
        """Read directions back; call `check` before using them at a site of a model."""
        with safe_open(folder / _FILE, framework="pt") as file:
            record = json.loads(file.metadata()["directions"])
            vectors = {Key.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        selected, candidates = folder / _SELECTED, folder / _CANDIDATES
        return cls(
            vectors,
            record["component"],
            record["position"],
            Provenance.parse(record["provenance"]),
            json.loads(selected.read_text()) if selected.is_file() else None,
            pd.read_json(candidates) if candidates.is_file() else None,
        )

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the directions are from another model or template, or do not fit the site.

        Directions of the residual stream fit every component of width d_model.

        Raises:
            ValueError: names the actual and the expected value.
        """
        template = chat.template_digest(model.tokenizer)
        self.provenance.require("directions", model=model.weights, template=template)
        if site.component != self.component and not {site.component, self.component} <= set(
            STREAM_WIDE
        ):
            valid = ", ".join(STREAM_WIDE if self.component in STREAM_WIDE else [self.component])
            raise ValueError(
                f"a direction of {self.component} does not fit {site.component}; valid: {valid}"
            )

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        component: str,
        positive: Any,
        negative: Any,
        controls: Mapping[str, int],
        refusal_tokens: Sequence[str] | None = None,
        layer_share: float = 1.0,
        autoencoders: str | None = None,
        pairs: str | None = None,
        penalty: float = 1.0,
    ) -> "Directions":
        """Build slight directions in place of ones not fitted yet, to check the arms that use them.

        Raises:
            ValueError: a label without prompts to fit or select on, the same label twice, an
                unknown control, prompts that are no pairs, or options that a fit cannot use.
        """
        if not 0 < layer_share <= 1:
            raise ValueError(f"layer_share: {layer_share} is not above 0 and at most 1")
        if not penalty > 0:
            raise ValueError(f"penalty: {penalty:g} is not above 0")
        if refusal_tokens is not None and not refusal_tokens:
            raise ValueError("refusal_tokens: there is none; valid: words that are one token each")
        single_tokens(model.tokenizer, refusal_tokens or ())
        if positive == negative:
            raise ValueError(f"negative: {negative!r} is positive too")
        for role, label in (("positive", positive), ("negative", negative)):
            for split in ("train", "val") if refusal_tokens else ("train",):
                if select_prompts(prompts, label)["split"].eq(split).sum() == 0:
                    raise ValueError(f"{role}: no prompt of {label!r} is in {split}")
        valid = CONTROLS if autoencoders is None else (OTHER_FEATURES, "isotropic")
        if pairs is not None:
            check_pairs(prompts[prompts["split"] == "train"], pairs, (positive, negative))
        for name, count in controls.items():
            if name not in valid:
                raise ValueError(f"controls: {name!r} is unknown; valid: {', '.join(valid)}")
            if count < 0:
                raise ValueError(f"controls.{name}: {count} is less than 0")
        sources = [(FITTED, 0), *((s, draw) for s, n in controls.items() for draw in range(n))]
        # Next to nothing, so that a dry run's completions are about as long as the baseline's.
        slight = torch.zeros(model.width(Site(0, component)))
        slight[0] = 1e-6
        vectors = {
            Key(source, draw, layer): slight
            for source, draw in sources
            for layer in range(model.n_layers)
        }
        return cls(vectors, component, 0, Provenance(model=""))


def check_direction(direction: Float[Tensor, " d_model"], name: str) -> None:
    """Fail if a direction is zero or not finite.

    Raises:
        ValueError: names the direction.
    """
    if not bool(torch.isfinite(direction).all()) or not bool(direction.any()):
        raise ValueError(f"direction {name} is zero or not finite")
