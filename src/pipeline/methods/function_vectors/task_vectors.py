"""Function vectors by task, saved with what they were made of."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.prompts import select_prompts
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

_FILE = "function_vectors.safetensors"
_TENSORS = ("states", "outputs", "effects")


@dataclass(frozen=True, eq=False)
class FunctionVectors:
    """What the last token of few-shot prompts holds and what its heads write, by task.

    Attributes:
        tasks: the tasks.
        states: mean `resid_post` by task and layer.
        outputs: mean output of each head, as it is added to the residual stream.
        effects: indirect effect of each head on each corrupted prompt.
        effect_tasks: the task of each of these prompts.
        corrupted: their label.
        top: layer and head of the heads with the largest mean effect, strongest first.
        provenance: the model and data they were fitted on.
    """

    tasks: tuple[str, ...]
    states: Float[Tensor, "task layer d_model"]
    outputs: Float[Tensor, "task layer head d_model"]
    effects: Float[Tensor, "prompt layer head"]
    effect_tasks: tuple[str, ...]
    corrupted: str
    top: tuple[tuple[int, int], ...]
    provenance: Provenance

    @property
    def mean_effects(self) -> Float[Tensor, "layer head"]:
        """Mean over prompts of each task, then over tasks."""
        return by_task(self.effects, self.effect_tasks, self.tasks).mean(0)

    def summed(self, heads: list[tuple[int, int]]) -> Float[Tensor, "task d_model"]:
        """Sum the mean outputs of heads: of the `top` heads, the function vectors of the tasks."""
        layers, numbers = zip(*heads, strict=True)
        return self.outputs[:, list(layers), list(numbers)].sum(1)

    def save(self, folder: Path) -> None:
        """Write the tensors in float32, with everything else as one metadata key."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "tasks": self.tasks,
            "effect_tasks": self.effect_tasks,
            "corrupted": self.corrupted,
            "top": self.top,
            "provenance": self.provenance.record,
        }
        tensors = {name: getattr(self, name).float().contiguous() for name in _TENSORS}
        metadata = {"function_vectors": json.dumps(record, sort_keys=True)}
        save_file(tensors, folder / _FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "FunctionVectors":
        """Read function vectors back; call `check` before using them at a site of a model."""
        with safe_open(folder / _FILE, framework="pt") as file:
            record = json.loads(file.metadata()["function_vectors"])
            states, outputs, effects = (file.get_tensor(name) for name in _TENSORS)
        return cls(
            tuple(record["tasks"]),
            states,
            outputs,
            effects,
            tuple(record["effect_tasks"]),
            record["corrupted"],
            tuple((layer, head) for layer, head in record["top"]),
            Provenance.parse(record["provenance"]),
        )

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if they are from another model, or the site is not at a block's end.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("function vectors", model=model.weights)
        if site.component != "resid_post":
            raise ValueError(f"function vectors do not fit {site}; valid: resid_post")

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        shown: str = "shown",
        corrupted: str = "shuffled",
        top: int = 10,
    ) -> "FunctionVectors":
        """Build small function vectors in place of ones not fitted yet.

        Raises:
            ValueError: as `function_vectors`.
        """
        demonstrated, _ = train_prompts(prompts, shown, corrupted)
        layers, heads = model.n_layers, model.n_heads
        check_top(top, layers * heads)
        tasks = tuple(demonstrated["topic"].unique())
        small = torch.full((len(tasks), layers, heads, model.d_model), 1e-6)
        return cls(
            tasks,
            small[:, :, 0],
            small,
            torch.zeros(1, layers, heads),
            tasks[:1],
            corrupted,
            tuple((n // heads, n % heads) for n in range(top)),
            Provenance(model=""),
        )


def train_prompts(
    prompts: pd.DataFrame, shown: str, corrupted: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Select the train prompts with true shots and the corrupted ones.

    Raises:
        ValueError: no such prompts, or a task with only one of both.
    """
    demonstrated, spoilt = (
        select_prompts(prompts, label, ["train"]) for label in (shown, corrupted)
    )
    alone = sorted(set(demonstrated["topic"]) ^ set(spoilt["topic"]))
    if alone:
        raise ValueError(f"topic {alone[0]!r} has not both {shown} and {corrupted} in train")
    return demonstrated, spoilt


def check_top(top: int, heads: int) -> None:
    """Fail if a model with so many heads has no such number of top heads."""
    if not 1 <= top <= heads:
        raise ValueError(f"top: {top} heads; valid: 1 to {heads}")


def by_task(
    values: Float[Tensor, "prompt *axes"], of: tuple[str, ...], tasks: tuple[str, ...]
) -> Float[Tensor, "task *axes"]:
    """Average the rows of each task."""
    rows = np.array(of)
    return torch.stack([values[torch.from_numpy(rows == task)].mean(0) for task in tasks])
