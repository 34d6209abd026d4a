"""Rank-one edits of facts by layer: the fit, and the conditions that apply them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config.declared import ColumnName, OneOf
from pipeline.data.prompts import select_facts
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.methods.interventions import RankOne
from pipeline.methods.provenance import Provenance
from pipeline.methods.relations.fits import expanded_layers
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

EDITS = ("fitted", "random")
"""`fitted`: the fact's own edit. `random`: the same u, and a random direction of delta's norm."""
_TENSORS, _TABLE = "edits.safetensors", "edits.parquet"


@dataclass(frozen=True, eq=False)
class RankOneEdits:
    """An update W + delta uT of a down projection for each fact and layer.

    Attributes:
        u: by layer, a row for each fact.
        delta: by layer, a row for each fact.
        facts: the facts, in the order of the rows.
        table: one row per fact and layer about the fit: `fact`, `layer`, ...
        provenance: the model and data they were fitted on.
    """

    u: Mapping[int, Float[Tensor, "facts mlp_act"]]
    delta: Mapping[int, Float[Tensor, "facts d_model"]]
    facts: Sequence[str]
    table: pd.DataFrame
    provenance: Provenance

    @property
    def layers(self) -> list[int]:
        """The layers that have edits."""
        return sorted(self.u)

    def save(self, folder: Path) -> None:
        """Write the edits in float32, and the table."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"u/{layer}": value for layer, value in self.u.items()}
        tensors |= {f"delta/{layer}": value for layer, value in self.delta.items()}
        # One metadata key: several would be written in random order and change the file's bytes.
        record = {"facts": list(self.facts), "provenance": self.provenance.record}
        save_file(
            {name: value.float().contiguous() for name, value in tensors.items()},
            folder / _TENSORS,
            metadata={"edits": json.dumps(record, sort_keys=True)},
        )
        self.table.to_parquet(folder / _TABLE)

    @classmethod
    def load(cls, folder: Path) -> "RankOneEdits":
        """Read the edits back; call `check` before using them at a site of a model."""
        parts: dict[str, dict[int, Tensor]] = {"u": {}, "delta": {}}
        with safe_open(folder / _TENSORS, framework="pt") as file:
            record = json.loads(file.metadata()["edits"])
            for name in file.keys():  # noqa: SIM118
                part, layer = name.split("/")
                parts[part][int(layer)] = file.get_tensor(name)
        provenance = Provenance.parse(record["provenance"])
        table = pd.read_parquet(folder / _TABLE)
        return cls(parts["u"], parts["delta"], record["facts"], table, provenance)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the edits are of another model, or of another site.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("edits", model=model.weights)
        if site.component != "mlp_down" or site.layer not in self.layers:
            layers = ", ".join(map(str, self.layers))
            raise ValueError(f"no edit at {site}; valid: mlp_down of layers {layers}")

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        layers: Any = "all",
        rows: Any = None,
        fact: str = "fact",
    ) -> "RankOneEdits":
        """Build edits that change nothing, to check the options and the arms that use them.

        Raises:
            ValueError: as `select_facts`, or a layer that the model does not have.
        """
        chosen = expanded_layers(model, layers)
        names = select_facts(prompts, rows, fact)[fact].tolist()
        width = model.width(Site(0, "mlp_act"))
        u, delta = torch.zeros(len(names), width), torch.zeros(len(names), model.d_model)
        provenance = Provenance(model="", sites=tuple(f"blocks.{n}.mlp_down" for n in chosen))
        return cls(
            dict.fromkeys(chosen, u),
            dict.fromkeys(chosen, delta),
            names,
            pd.DataFrame(),
            provenance,
        )


def rank_one_edits(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    edit: Annotated[str, OneOf(*EDITS)] = "fitted",
    fact: ColumnName = "fact",
) -> Iterator[Condition]:
    """Yield a condition for each layer, in which every prompt runs under its own fact's edit.

    out + (u . in) delta at every position, as if the weights were edited; no weight is changed.

    Args:
        model: the model.
        prompts: the prompts of the run, with the column `fact`.
        fits: contains `fit`.
        seed: of the random directions.
        fit: the name of a `RankOneEdits`, such as of `rome`.
        edit: one of `EDITS`; `random` is a control.
        fact: dataset column that names the fact to edit.

    Yields:
        Conditions with the axes `layer` and `edit`.

    Raises:
        ValueError: an unknown edit, fit or column, edits of another model, or a fact without edits.
    """
    if fact not in prompts:
        raise ValueError(f"no column {fact!r} in the dataset; it has: {', '.join(prompts)}")
    yield from conditions_of(model, edits_of(fits, fit), prompts[fact].tolist(), edit, seed)


def edits_of(fits: Mapping[str, Any], fit: str) -> RankOneEdits:
    """Return a fit by name.

    Raises:
        ValueError: no such fit.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    edits: RankOneEdits = fits[fit]
    return edits


def conditions_of(
    model: LanguageModel, edits: RankOneEdits, facts: Sequence[str], edit: str, seed: int
) -> Iterator[Condition]:
    """Yield the conditions of `rank_one_edits` for the facts of a run's prompts, in order.

    Raises:
        ValueError: as `rank_one_edits`.
    """
    if edit not in EDITS:
        raise ValueError(f"edit {edit!r} is unknown; valid: {', '.join(EDITS)}")
    row_of = {name: row for row, name in enumerate(edits.facts)}
    for name in facts:
        if name not in row_of:
            raise ValueError(f"no edit of the fact {name!r}; they are of {len(row_of)} facts")
    rows = torch.tensor([row_of[name] for name in facts])
    generator = torch.Generator().manual_seed(seed)
    for layer in edits.layers:
        site = Site(layer, "mlp_down")
        edits.check(model, site)
        delta = edits.delta[layer]
        if edit == "random":
            drawn = torch.randn(delta.shape, generator=generator)
            delta = drawn * (delta.norm(dim=-1) / drawn.norm(dim=-1))[:, None]
        yield Condition(
            {"layer": layer, "edit": edit},
            (Edit(site, RankOne(PerPrompt(edits.u[layer][rows]), PerPrompt(delta[rows]))),),
            role=CONTROL if edit == "random" else CANDIDATE,
        )
