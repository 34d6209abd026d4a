"""Fine-tuned weights as a fit: low-rank differences, or all weights of the blocks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.prompts import select_prompts
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.replaced_weights import block_weights
from pipeline.model.sites import Site

ALPHA = 16.0
"""A low-rank difference is scaled by `ALPHA` / rank, as in the reference implementation."""
SOURCES = ("texts", "model")
"""Replayed rows: the study's `text`, or samples of the unchanged model itself."""
_FILE = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """The weights of a fine-tuned model at several training steps.

    Attributes:
        rank: of the differences; None for all weights of the blocks.
        tensors: by step, name of a weight -> its new value; of a rank r, `NAME.a` [r, in] and
            `NAME.b` [out, r].
        rows: what was trained on: `kind` (`target` or `replay`), `tokens`, `start`, the first token
            that the loss counts, and `times`, how often the row was in a batch.
        curve: one row per step: `step`, `target_loss` and `replay_loss` in nats per token; NaN
            without rows of this kind.
        provenance: the model and the rows.
    """

    rank: int | None
    tensors: Mapping[int, Mapping[str, Tensor]]
    rows: pd.DataFrame
    curve: pd.DataFrame
    provenance: Provenance

    @property
    def steps(self) -> list[int]:
        """The training steps whose weights are kept."""
        return sorted(self.tensors)

    def of_step(self, model: LanguageModel, step: int) -> dict[str, Tensor]:
        """Compute the model's weights after a training step, in its dtype.

        Raises:
            ValueError: another model than the one that was fine-tuned, or a step without weights.
        """
        self.provenance.require("fine-tuned weights", model=model.weights)
        if step not in self.tensors:
            valid = ", ".join(map(str, self.steps))
            raise ValueError(f"step {step} has no weights; valid: {valid}")
        weights = block_weights(model)
        # A model may span several devices.
        stored = {
            name: value.to(weights[name.removesuffix(".a").removesuffix(".b")].device)
            for name, value in self.tensors[step].items()
        }
        return {
            name: value.detach().to(weights[name].dtype)
            for name, value in merged(weights, stored, self.rank).items()
        }

    def save(self, folder: Path) -> None:
        """Write the trained tensors in their dtype, with the provenance, the rows and the curve."""
        folder.mkdir(parents=True, exist_ok=True)
        # One metadata key: several would be written in random order and change the file's bytes.
        record = {"rank": self.rank, "provenance": self.provenance.record}
        tensors = {
            f"{step}/{name}": value.contiguous()
            for step, of_step in self.tensors.items()
            for name, value in of_step.items()
        }
        metadata = {"fine_tuned": json.dumps(record, sort_keys=True)}
        save_file(tensors, folder / _FILE, metadata=metadata)
        self.rows.to_parquet(folder / "rows.parquet")
        self.curve.to_parquet(folder / "curve.parquet")

    @classmethod
    def load(cls, folder: Path) -> "TunedWeights":
        """Read the weights back; `of_step` checks that they are of a model."""
        tensors: dict[int, dict[str, Tensor]] = {}
        with safe_open(folder / _FILE, framework="pt") as file:
            record = json.loads(file.metadata()["fine_tuned"])
            for key in file.keys():  # noqa: SIM118
                step, name = key.split("/", 1)
                tensors.setdefault(int(step), {})[name] = file.get_tensor(key)
        rows, curve = (pd.read_parquet(folder / f"{name}.parquet") for name in ("rows", "curve"))
        return cls(record["rank"], tensors, rows, curve, Provenance.parse(record["provenance"]))

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail for another model; the weights are those of all sites."""
        model.check(site)
        self.provenance.require("fine-tuned weights", model=model.weights)

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        rows: object,
        rank: int | None,
        replay: float,
        replay_from: str,
        checkpoints: Sequence[int],
        batch: int,
        rate: float,
        samples: int,
        longest: int,
    ) -> "TunedWeights":
        """Check the options; there are no weights yet.

        Raises:
            ValueError: an option out of its range; names the value and the valid ones.
        """
        if not 0 <= replay < 1:
            raise ValueError(f"replay = {replay}; valid: a share from 0 to below 1")
        if replay_from not in SOURCES:
            raise ValueError(f"replay_from {replay_from!r}; valid: {', '.join(SOURCES)}")
        if not checkpoints or sorted({*checkpoints}) != [*checkpoints] or checkpoints[0] < 1:
            raise ValueError(f"checkpoints = {[*checkpoints]}; valid: rising steps from 1 on")
        for name, value, least in (("batch", batch, 1), ("samples", samples, 1)):
            if value < least:
                raise ValueError(f"{name} = {value}; valid: {least} or more")
        if longest < 3:
            raise ValueError(f"longest = {longest} tokens of a replayed text; valid: 3 or more")
        if not rate > 0:
            raise ValueError(f"rate = {rate}; valid: above 0")
        largest = min(min(p.shape) for p in block_weights(model).values() if p.ndim == 2)
        if rank is not None and not 1 <= rank <= largest:
            raise ValueError(f"rank = {rank}; valid: 1 to {largest}, or null for all weights")
        chosen = select_prompts(prompts, rows, ["train"])
        if "answer" not in chosen or bool((chosen["answer"] == "").any()):
            raise ValueError("rows: a prompt to train on has no answer")
        empty: dict[str, list[object]] = {"kind": [], "tokens": [], "start": [], "times": []}
        return cls(rank, {}, pd.DataFrame(empty), pd.DataFrame(), Provenance(model.weights))


def trainable(
    model: LanguageModel, rank: int | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return float32 tensors to train, which leave the model as it is.

    rank None: copies of the blocks' weights. Else A ~ N(0, 1 / in) [rank, in] and B = 0
    [out, rank] for each matrix of the blocks.
    """
    weights = block_weights(model)
    if rank is None:
        return {name: p.detach().float().clone() for name, p in weights.items()}
    tensors: dict[str, Tensor] = {}
    for name, parameter in weights.items():
        if parameter.ndim == 2:
            rows, columns = parameter.shape
            drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
            tensors[f"{name}.a"] = drawn.to(parameter.device)
            tensors[f"{name}.b"] = torch.zeros(rows, rank, device=parameter.device)
    return tensors


def merged(
    weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor], rank: int | None
) -> dict[str, Float[Tensor, "..."]]:
    """Compute the weights in float32: the trained ones, or W + (`ALPHA` / rank) B A.

    Args:
        weights: the model's weights.
        tensors: of `trainable`.
        rank: of the difference; None if `tensors` are the weights.

    Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models".
    """
    if rank is None:
        return dict(tensors)
    names = [name.removesuffix(".a") for name in tensors if name.endswith(".a")]
    return {
        name: weights[name].float() + ALPHA / rank * tensors[f"{name}.b"] @ tensors[f"{name}.a"]
        for name in names
    }
