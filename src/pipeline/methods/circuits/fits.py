"""A circuit: the heads and MLPs that suffice for a behaviour, found by greedy pruning."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.errors import at_key
from pipeline.data.datasets import dataset_digest
from pipeline.data.prompts import select_prompts
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.circuits.components import (
    ablations,
    answer_ids,
    axes_of,
    check_options,
    components,
    logit_differences,
)
from pipeline.methods.circuits.gradients import component_attributions
from pipeline.methods.circuits.pruning import Step, prune
from pipeline.methods.provenance import Provenance
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

RANKINGS = ("ablation", "attribution")
"""Order of components for pruning: by the effect of ablating each, or by an estimate of it."""
_RECORD = "circuit.json"


@dataclass(frozen=True, eq=False)
class Circuit:
    """Heads and MLPs that recover a behaviour while all others are ablated.

    Attributes:
        table: a row per component: `site`, `layer`, `component`, `effect` (mean change of the logit
            difference, by which they were ranked, in nats), `is_kept`.
        steps: a row per try of pruning: `n_kept`, `recovered`, `accepted`.
        ablation: what removed components were replaced by, of `components.ABLATIONS`.
        positions: at which tokens, of `components.POSITIONS`.
        provenance: its sites are the components.
    """

    table: pd.DataFrame
    steps: pd.DataFrame
    ablation: str
    positions: str
    provenance: Provenance

    @property
    def sites(self) -> list[Site]:
        """All components, in the order they run."""
        return [Site.parse(text) for text in self.table["site"]]

    @property
    def kept(self) -> list[Site]:
        """The components of the circuit, in the order they run."""
        return [Site.parse(text) for text in self.table.loc[self.table["is_kept"], "site"]]

    @property
    def ranked(self) -> list[Site]:
        """All components, the largest effect first."""
        order = self.table["effect"].abs().sort_values(ascending=False, kind="stable").index
        return [Site.parse(text) for text in self.table.loc[order, "site"]]

    def save(self, folder: Path) -> None:
        """Write both tables and the options."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(folder / "components.parquet")
        self.steps.to_parquet(folder / "steps.parquet")
        options = {"ablation": self.ablation, "positions": self.positions}
        record = {**options, "provenance": self.provenance.record}
        (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Circuit":
        """Read the circuit back; call `check` before using it with a model."""
        record = json.loads((folder / _RECORD).read_text())
        table, steps = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("components", "steps")
        )
        provenance = Provenance.parse(record["provenance"])
        return cls(table, steps, record["ablation"], record["positions"], provenance)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail for another model, or a site that is no component.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("a circuit's components", model=model.weights)
        if str(site) not in self.provenance.sites:
            raise ValueError(f"{site} is no component of the circuit's model; valid: heads, MLPs")

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        ablation: str,
        positions: str,
        split: str,
        select: Any,
        rank_by: str,
        recover: float,
    ) -> "Circuit":
        """Check the options of `pruned_circuit`, and keep a fifth of the components.

        Raises:
            ValueError: an option out of its range; names the value and the valid ones.
        """
        rows = _rows(prompts, split, select)
        check_options(rows, ablation, positions)
        if rank_by not in RANKINGS:
            raise ValueError(f"rank_by: {rank_by!r} is unknown; valid: {', '.join(RANKINGS)}")
        if rank_by == "attribution" and ablation != "patched":
            raise ValueError(
                f"rank_by: attribution estimates the effect of patching, not of {ablation!r}; "
                "valid: ablation"
            )
        if not 0 < recover <= 1:
            raise ValueError(f"recover: {recover}; valid: above 0, up to 1")
        answer_ids(model, rows)
        sites = components(model)
        table = _table(sites, [0.0] * len(sites), sites[::5])
        steps = pd.DataFrame(columns=list(Step._fields))
        return cls(table, steps, ablation, positions, _provenance(model, rows, sites, "stand-in"))


def pruned_circuit(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    ablation: str = "patched",
    positions: str = "all",
    split: str = "train",
    select: Any = None,
    rank_by: str = "ablation",
    recover: float = 0.9,
) -> Circuit:
    """Find a small set of heads and MLPs that recovers the logit difference.

    recovered(C) = (d(C) - d(none)) / (d(all) - d(none)), with d(C) the mean of logit(answer) -
    logit(foil) over the prompts while all components outside of C are ablated. Components are
    removed as long as `recover` is recovered, at first those of the least |effect|, the change of d
    when one is ablated, later those that add least to the rest (`pruning.prune`).

    Args:
        model: the model.
        prompts: the dataset, with `answer`, `foil` and `corrupted`.
        ablation: what removed components are replaced by; see `components.ABLATIONS`.
        positions: `all`, or `after_first`.
        split: of the prompts it is found on; report on another one.
        select: selection of prompts, as an arm's `prompts`.
        rank_by: `ablation`, or `attribution`, which estimates effects of patching by a gradient
            (`gradients.component_attributions`, with the inputs' path in 5 steps).
        recover: the share to recover.

    Raises:
        ValueError: as `Circuit.stand_in` and `components.ablations`, or prompts on which ablating
            all components does not lower the logit difference.

    Source: Wang et al. 2023, "Interpretability in the wild"; pruning: Conmy et al. 2023, "Towards
    automated circuit discovery" (of edges, there).
    """
    options = {"ablation": ablation, "positions": positions, "split": split, "select": select}
    Circuit.stand_in(model, prompts, rank_by=rank_by, recover=recover, **options)
    rows = _rows(prompts, split, select)
    sites = components(model)
    edits = ablations(model, rows, sites, ablation=ablation, positions=positions)
    means = _means(model, rows, edits, [[], sites])
    intact, without = means
    if intact <= without:
        raise ValueError(
            f"the mean logit difference is {intact:.3g}, and {without:.3g} with all components "
            "ablated; valid: higher, so that there is something to recover"
        )
    if rank_by == "attribution":
        estimates = component_attributions(model, rows, steps=5).integrated
        effects = [float(estimates[site].sum(1).mean()) for site in sites]
    else:
        alone = _means(model, rows, edits, [[site] for site in sites])
        effects = [mean - intact for mean in alone]

    def recovered(sets: Sequence[Sequence[Site]]) -> list[float]:
        removed = [[site for site in sites if site not in kept] for kept in sets]
        return [(d - without) / (intact - without) for d in _means(model, rows, edits, removed)]

    order = sorted(range(len(sites)), key=lambda n: abs(effects[n]))
    kept, steps = prune([sites[n] for n in order], recovered, recover)
    how = f"{recover:g} of the logit difference recovered on {len(rows)} prompts, {ablation}"
    return Circuit(
        _table(sites, effects, kept),
        pd.DataFrame(steps),
        ablation,
        positions,
        _provenance(model, rows, sites, how),
    )


def circuit_components(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Tabulate the components of a circuit's model, and whether the circuit keeps them.

    Args:
        fits: contains the circuit.
        fit: its name.

    Returns:
        The `table` of the `Circuit`.

    Raises:
        ValueError: no such fit.
    """
    return circuit_of(fits, fit).table


def circuit_of(fits: Mapping[str, Any], fit: str) -> Circuit:
    """Return a circuit by name.

    Raises:
        ValueError: no such fit.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    circuit: Circuit = fits[fit]
    return circuit


def _rows(prompts: pd.DataFrame, split: str, select: Any) -> pd.DataFrame:
    with at_key("select"):
        return select_prompts(prompts, select, [split])


def _means(
    model: LanguageModel,
    rows: pd.DataFrame,
    edits: Mapping[Site, Edit],
    removed: Sequence[Sequence[Site]],
) -> list[float]:
    """Compute the mean logit difference with each set of components ablated."""
    conditions = [Condition(edits=tuple(edits[site] for site in sites)) for sites in removed]
    means: list[float] = logit_differences(model, rows, conditions).mean(1).tolist()
    return means


def _table(sites: Sequence[Site], effects: Sequence[float], kept: Sequence[Site]) -> pd.DataFrame:
    rows = [
        {"site": str(site), **axes_of(site), "effect": effect, "is_kept": site in kept}
        for site, effect in zip(sites, effects, strict=True)
    ]
    return pd.DataFrame(rows)


def _provenance(
    model: LanguageModel, rows: pd.DataFrame, sites: Sequence[Site], how: str
) -> Provenance:
    return Provenance(
        model.weights,
        chat.template_digest(model.tokenizer),
        dataset_digest(rows),
        tuple(map(str, sites)),
        how,
    )
