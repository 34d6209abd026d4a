"""Linear relational embeddings: the relation of subjects to objects as an affine map of states."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float, Float64
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.datasets import dataset_digest
from pipeline.engine.jacobians import Affine, mean_affine
from pipeline.methods.provenance import Provenance
from pipeline.methods.relations.facts import answered, subject_places
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

_FILE = "relations.safetensors"


@dataclass(frozen=True, eq=False)
class LinearRelations:
    """An affine map z = W h + b for each relation and layer.

    Attributes:
        maps: by relation and layer, W [d_model, d_model] and b [d_model].
        samples: by relation, the subjects that it was fitted to.
        provenance: the model and data they were fitted on.
    """

    maps: Mapping[tuple[str, int], Affine]
    samples: Mapping[str, Sequence[str]]
    provenance: Provenance

    @property
    def layers(self) -> list[int]:
        """The layers whose outputs are mapped."""
        return sorted({layer for _, layer in self.maps})

    def predict(
        self, relation: str, layer: int, states: Float[Tensor, "rows d_model"], beta: float
    ) -> Float64[Tensor, "rows d_model"]:
        """Compute beta W h + b for subjects' states at a layer's output."""
        weight, bias = self.maps[relation, layer]
        return beta * states.double() @ weight.double().T + bias.double()

    def save(self, folder: Path) -> None:
        """Write the maps in float32."""
        folder.mkdir(parents=True, exist_ok=True)
        # One metadata key: several would be written in random order and change the file's bytes.
        record = {
            "samples": {name: list(subjects) for name, subjects in self.samples.items()},
            "provenance": self.provenance.record,
        }
        tensors = {
            f"{kind}/{layer}/{relation}": value.float().contiguous()
            for (relation, layer), affine in self.maps.items()
            for kind, value in zip(("weight", "bias"), affine, strict=True)
        }
        metadata = {"relations": json.dumps(record, sort_keys=True)}
        save_file(tensors, folder / _FILE, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "LinearRelations":
        """Read the maps back; call `check` before using them at a site of a model."""
        maps: dict[tuple[str, int], Affine] = {}
        with safe_open(folder / _FILE, framework="pt") as file:
            record = json.loads(file.metadata()["relations"])
            for name in file.keys():  # noqa: SIM118
                kind, layer, relation = name.split("/", 2)
                if kind == "weight":
                    bias = file.get_tensor(f"bias/{layer}/{relation}")
                    maps[relation, int(layer)] = (file.get_tensor(name), bias)
        return cls(maps, record["samples"], Provenance.parse(record["provenance"]))

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the maps are of another model, or of another state than the site's.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("relations", model=model.weights)
        if site.component != "resid_post" or site.layer not in self.layers:
            layers = ", ".join(map(str, self.layers))
            raise ValueError(f"no relation maps {site}; valid: resid_post of layers {layers}")

    @classmethod
    def stand_in(
        cls, model: LanguageModel, prompts: pd.DataFrame, *, layers: Any = "all", samples: int = 8
    ) -> "LinearRelations":
        """Check the options of `linear_relations` before it is fitted.

        Raises:
            ValueError: as `linear_relations`.
        """
        expanded_layers(model, layers)
        train = prompts[prompts["split"] == "train"]
        for relation in prompts["label"].unique():
            _check_samples(relation, int((train["label"] == relation).sum()), samples)
        return cls({}, dict.fromkeys(prompts["label"], ()), Provenance(model=""))


def linear_relations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    layers: Any = "all",
    samples: int = 8,
) -> LinearRelations:
    """Fit z = W h + b for every relation (label) and layer, on train prompts answered correctly.

    W and b are the mean first-order expansion (`engine.jacobians.mean_affine`) of the last block's
    output z at the last token in the output h of a layer at the subject's last token. The paper
    puts the other samples before each prompt as demonstrations; prompts are expanded as they are.

    Args:
        model: the model.
        prompts: facts with `subject` and `answer`.
        layers: `all` but the last, or layers to expand at.
        samples: prompts of a relation, the first that the model continues with the answer.

    Raises:
        ValueError: fewer correct train prompts of a relation, or a layer that is not before the
            last one.

    Source: Hernandez et al. 2024, "Linearity of relation decoding in transformer language models".
    """
    expanded = expanded_layers(model, layers)
    train = prompts[prompts["split"] == "train"].reset_index(drop=True)
    correct = train[answered(model, train) == 1]
    maps: dict[tuple[str, int], Affine] = {}
    subjects = {}
    for relation in prompts["label"].unique():
        rows = correct[correct["label"] == relation].head(samples)
        _check_samples(str(relation), len(rows), samples)
        tokens, places = subject_places(model, rows)
        positions = [place for (place,) in places.of]
        found = mean_affine(model, tokens, positions, expanded, batch_tokens=model.batch_tokens)
        maps |= {(relation, layer): affine for layer, affine in found.items()}
        subjects[relation] = rows["subject"].tolist()
    provenance = Provenance(
        model.weights,
        chat.template_digest(model.tokenizer),
        dataset_digest(train),
        tuple(f"blocks.{layer}.resid_post" for layer in expanded),
        f"mean Jacobian of {samples} prompts a relation",
    )
    return LinearRelations(maps, subjects, provenance)


def expanded_layers(model: LanguageModel, layers: Any) -> list[int]:
    """Resolve an option for layers to expand at; `all` leaves out the last one.

    Raises:
        ValueError: as `sites.chosen_layers`, or the last layer is named.
    """
    chosen = chosen_layers(layers, model.n_layers, model.name)
    if layers == "all":
        return chosen[:-1]
    if model.n_layers - 1 in chosen:
        raise ValueError(
            f"layers: after layer {model.n_layers - 1}, the last token no longer reads the "
            f"subject; valid: 0 to {model.n_layers - 2}"
        )
    return chosen


def relations_of(fits: Mapping[str, Any], fit: str, model: LanguageModel) -> LinearRelations:
    """Return a fit by name, after checking that it belongs to the model.

    Raises:
        ValueError: no such fit, or another model.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    relations: LinearRelations = fits[fit]
    relations.provenance.require("relations", model=model.weights)
    return relations


def _check_samples(relation: str, correct: int, samples: int) -> None:
    """Fail if there are too few train prompts to fit a relation to."""
    if samples < 1:
        raise ValueError(f"samples = {samples}; valid: 1 or more")
    if correct < samples:
        raise ValueError(
            f"relation {relation}: {correct} train prompts that the model answers correctly are "
            f"fewer than samples = {samples}; valid: other relations in dataset.prompts, or fewer "
            "samples"
        )
