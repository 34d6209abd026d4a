"""The effects of ablating every neuron, and the chosen ones, as a fit."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.errors import at_key
from pipeline.data.datasets import dataset_digest
from pipeline.data.positions import resolve
from pipeline.data.prompts import select_prompts
from pipeline.engine.conditions import check_rule
from pipeline.measures.logits import token_groups
from pipeline.measures.statistics import topics_or_samples
from pipeline.methods.neurons.effects import ABLATIONS, layer_effects, neuron_table
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers
from pipeline.runs.scratch import run_or_resume

POSITIONS = ("last", "all", "after_first", "subject")
_PROVENANCE = "provenance.json"


@dataclass(frozen=True, eq=False)
class NeuronEffects:
    """Effects of ablating every neuron that was looked at, and those chosen by them.

    Attributes:
        effects: a row per neuron, as `effects.neuron_table`.
        chance: how many neurons pass with the signs of topics flipped, a row per draw.
        provenance: its sites are `mlp_act` of the layers that were looked at.
    """

    effects: pd.DataFrame
    chance: pd.DataFrame
    provenance: Provenance

    @property
    def chosen(self) -> pd.DataFrame:
        """The rows of the chosen neurons, strongest first."""
        return self.effects[self.effects["rank"] > 0].sort_values("rank")

    def save(self, folder: Path) -> None:
        """Write both tables and the provenance."""
        folder.mkdir(parents=True, exist_ok=True)
        self.effects.to_parquet(folder / "effects.parquet")
        self.chance.to_parquet(folder / "chance.parquet")
        (folder / _PROVENANCE).write_text(json.dumps(self.provenance.record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "NeuronEffects":
        """Read the tables back."""
        provenance = Provenance.parse(json.loads((folder / _PROVENANCE).read_text()))
        effects, chance = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("effects", "chance")
        )
        return cls(effects, chance, provenance)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail for another model, or a site whose neurons were not looked at.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("neurons", model=model.weights)
        if str(site) not in self.provenance.sites:
            raise ValueError(
                f"no neuron was looked at at {site}; valid: {', '.join(self.provenance.sites)}"
            )

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        groups: dict[str, list[str]],
        layers: Any,
        split: str,
        select: Any,
        topics: int | None,
        ablation: str,
        positions: Any,
        top: int,
        alpha: float,
        draws: int,
    ) -> "NeuronEffects":
        """Build placeholder effects: the first neurons are chosen.

        Raises:
            ValueError: an option out of its range; names the value and the valid ones.
        """
        if ablation not in ABLATIONS:
            raise ValueError(f"ablation: {ablation!r} is unknown; valid: {', '.join(ABLATIONS)}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha: {alpha} is not between 0 and 1")
        for name, value in (("top", top), ("draws", draws)):
            if value < 1:
                raise ValueError(f"{name}: {value} is less than 1")
        with at_key("positions"):
            check_rule(positions, POSITIONS)
        numbers = chosen_layers(layers, model.n_layers, model.name)
        rows = _contexts(prompts, split, select, topics)
        with at_key("groups"):
            token_groups(model.tokenizer, groups)
            for label in rows["label"].unique():
                if label not in groups:
                    raise ValueError(f"no words of label {label!r}; there are: {', '.join(groups)}")
        resolve(rows, model.tokenizer, positions, variables=model.template)
        sites = [Site(layer, "mlp_act") for layer in numbers]
        table = pd.DataFrame(
            [(site.layer, neuron) for site in sites for neuron in range(model.width(site))],
            columns=["layer", "neuron"],
        )
        if top >= len(table):
            raise ValueError(f"top: {top} of {len(table)} neurons; valid: less")
        labels = [str(label) for label in groups]
        table = table.assign(
            rank=[n + 1 if n < top else 0 for n in range(len(table))],
            label=labels[0],
            activation=1.0,
            size=1.0,
            **{f"activation_{label}": 1.0 for label in labels},
        )
        return cls(table, pd.DataFrame(), Provenance(model.weights, sites=tuple(map(str, sites))))


def neurons_by_effect(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    work: Path,
    *,
    groups: dict[str, list[str]],
    layers: Any = "all",
    split: str = "train",
    select: Any = None,
    topics: int | None = None,
    ablation: str = "zero",
    positions: Any = "last",
    top: int = 10,
    alpha: float = 0.01,
    draws: int = 100,
) -> NeuronEffects:
    """Ablate every neuron by itself, and choose those that a label's words depend on most.

    Effect of a neuron: mean change of log p(own) - log p(others) after the prompt, in nats; own are
    the words of the prompt's label, others those of all other labels. It is negative if the label's
    words depend on the neuron. See `effects.neuron_table` for the test.

    Args:
        model: the model.
        prompts: the dataset.
        seed: of the chance counts.
        work: scratch folder; a killed run resumes at the first missing layer.
        groups: label -> words of a single token each, leading blank included.
        layers: `all`, or a list.
        split: of the contexts; report on another one.
        select: selection of contexts, as an arm's `prompts`.
        topics: use the contexts of only so many topics, the first ones; None for all.
        ablation: `zero` or `mean`.
        positions: `last`, `all`, `after_first` or `subject`.
        top: neurons to choose.
        alpha: a neuron passes if its p, corrected over all neurons, is below.
        draws: random flips of topics' signs, for the number that passes by chance.

    Raises:
        ValueError: as `NeuronEffects.stand_in`.
    """
    options = {"split": split, "select": select, "topics": topics, "ablation": ablation}
    options |= {"positions": positions, "top": top, "alpha": alpha, "draws": draws}
    NeuronEffects.stand_in(model, prompts, groups=groups, layers=layers, **options)
    rows = _contexts(prompts, split, select, topics)
    numbers = chosen_layers(layers, model.n_layers, model.name)
    jobs = {
        f"layer-{layer}": partial(
            layer_effects,
            model,
            rows,
            layer,
            groups=groups,
            ablation=ablation,
            positions=positions,
        )
        for layer in numbers
    }
    changes = run_or_resume("neurons", jobs, work)
    effects, chance = neuron_table(changes, top=top, alpha=alpha, draws=draws, seed=seed)
    provenance = Provenance(
        model.weights,
        dataset=dataset_digest(rows),
        sites=tuple(str(Site(layer, "mlp_act")) for layer in numbers),
        how=f"{ablation} ablation at positions {positions} of {len(rows)} contexts",
    )
    return NeuronEffects(effects, chance, provenance)


def _contexts(prompts: pd.DataFrame, split: str, select: Any, topics: int | None) -> pd.DataFrame:
    with at_key("select"):
        rows = select_prompts(prompts, select, [split])
    independent = topics_or_samples(rows)
    names = independent.unique()
    if topics is not None:
        if not 2 <= topics <= len(names):
            raise ValueError(f"topics: {topics}; valid: 2 to {len(names)}")
        rows = rows[independent.isin(names[:topics])]
    elif len(names) < 2:
        raise ValueError(f"{split} has {len(names)} topic; a test over topics needs 2 or more")
    return rows
