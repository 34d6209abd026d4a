"""Affine maps from the residual stream at a layer to its final state: the fit behind a lens."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

_FILE = "lens.safetensors"
COMPONENT = "resid_pre"
"""The component that lenses read: layer l is the input of block l, the output of block l - 1."""


@dataclass(frozen=True, eq=False)
class LensMaps:
    """A lens: h -> M_l h + b_l for the residual stream h at the input of block l.

    The result stands for the stream before the final norm. M_l = I and b_l = 0 is the logit lens.

    Attributes:
        matrices: M_l by layer.
        biases: b_l by layer.
        provenance: `unembedding` is the hash of `unembedding_digest`.
        curves: one row per layer and measurement of the fit; empty if there is none.
    """

    matrices: Mapping[int, Float[Tensor, "d_model d_model"]]
    biases: Mapping[int, Float[Tensor, " d_model"]]
    provenance: Provenance
    curves: pd.DataFrame

    @property
    def layers(self) -> list[int]:
        """The layers that the lens maps."""
        return sorted(self.matrices)

    def map(
        self, layer: int, streams: Float[Tensor, "rows d_model"]
    ) -> Float[Tensor, "rows d_model"]:
        """Map residual streams of a layer, in float32; the result has the dtype of the streams."""
        matrix, bias = (part[layer].to(streams.device) for part in (self.matrices, self.biases))
        return (streams.float() @ matrix.T + bias).to(streams.dtype)

    def save(self, folder: Path) -> None:
        """Write the maps in float32, with the provenance, and the fit's curves."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"matrix/{layer}": value for layer, value in self.matrices.items()}
        tensors |= {f"bias/{layer}": value for layer, value in self.biases.items()}
        record = json.dumps(self.provenance.record, sort_keys=True)
        save_file(
            {name: value.float().contiguous() for name, value in tensors.items()},
            folder / _FILE,
            metadata={"provenance": record},
        )
        self.curves.to_parquet(folder / "curves.parquet")

    @classmethod
    def load(cls, folder: Path) -> "LensMaps":
        """Read a lens back; call `check` before using it on a model."""
        with safe_open(folder / _FILE, framework="pt") as file:
            provenance = Provenance.parse(json.loads(file.metadata()["provenance"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        matrices, biases = (
            {
                int(name.split("/")[1]): value
                for name, value in tensors.items()
                if name.startswith(part)
            }
            for part in ("matrix", "bias")
        )
        return cls(matrices, biases, provenance, pd.read_parquet(folder / "curves.parquet"))

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the lens is of another model or unembedding, or does not map the site.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require(
            "lenses", model=model.weights, unembedding=unembedding_digest(model)
        )
        if site.component != COMPONENT or site.layer not in self.matrices:
            raise ValueError(f"no lens at {site}; valid: {COMPONENT} of {self.layers}")

    @classmethod
    def stand_in(
        cls, model: LanguageModel, prompts: pd.DataFrame, *, layers: Any = "all"
    ) -> "LensMaps":
        """Build empty maps of the chosen layers, to check the options.

        Raises:
            ValueError: a layer that the model does not have.
        """
        chosen = chosen_layers(layers, model.n_layers, model.name)
        matrices, biases = (dict.fromkeys(chosen, torch.zeros(shape)) for shape in ((0, 0), (0,)))
        return cls(matrices, biases, Provenance(model=""), pd.DataFrame())


def unembedding_digest(model: LanguageModel) -> str:
    """Hash the final norm and the unembedding, in their dtype."""
    digest = hashlib.sha256()
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    for weight in (*norm.parameters(), model.hf.get_output_embeddings().weight):
        # bfloat16 has no numpy dtype.
        digest.update(weight.detach().contiguous().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()[:16]


def text_parts(texts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split texts for fitting and for reporting: of every five, three train, one val, one test.

    Raises:
        ValueError: fewer than five texts.
    """
    if len(texts) < 5:
        raise ValueError(f"{len(texts)} texts; valid: five or more, from the study's `text`")
    turn = np.arange(len(texts)) % 5
    masks = {"train": turn < 3, "val": turn == 3, "test": turn == 4}
    return {name: texts[mask].reset_index(drop=True) for name, mask in masks.items()}


def tokens_of(texts: pd.DataFrame, longest: int) -> list[list[int]]:
    """List the texts' tokens, each cut after `longest`.

    Raises:
        ValueError: `longest` below 3.
    """
    if longest < 3:
        raise ValueError(f"longest = {longest} tokens of a text; valid: 3 or more")
    return [[int(token) for token in row][:longest] for row in texts["tokens"]]
