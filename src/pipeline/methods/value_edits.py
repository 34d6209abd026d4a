"""Edit the value vectors that write an answer: v - e(old) + e(new), beside other values."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config.declared import ColumnName, OneOf, OneOrMore, Selection
from pipeline.data.datasets import dataset_digest
from pipeline.data.prompts import select_facts
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.methods.interventions import RankOne
from pipeline.methods.key_values import continuation_tokens, contributions
from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

KINDS = ("chosen", "similar", "random", "other")
"""Values to edit. `chosen`: those that add most to the answer's logit. `similar`: of the same
layer, with the activation nearest to the chosen one's. `random`: any other of the same layer.
`other`: those chosen for another fact of the same label, edited towards that fact's target.
"""


@dataclass(frozen=True, eq=False)
class AnswerValues:
    """The value vectors that add most to the answers of facts, and others beside them.

    Attributes:
        values: a row per fact, kind and rank: `fact`, `label`, `kind` (`chosen`, `similar` or
            `random`), `rank`, `layer`, `value`, `activation` on the fact's prompt, and
            `contribution` to the answer's logit in nats.
        provenance: its sites are those of the values.
    """

    values: pd.DataFrame
    provenance: Provenance

    def save(self, folder: Path) -> None:
        """Write the table and the provenance."""
        folder.mkdir(parents=True, exist_ok=True)
        self.values.to_parquet(folder / "values.parquet")
        text = json.dumps(self.provenance.record, indent=1) + "\n"
        (folder / "provenance.json").write_text(text)

    @classmethod
    def load(cls, folder: Path) -> "AnswerValues":
        """Read the table back."""
        record = json.loads((folder / "provenance.json").read_text())
        return cls(pd.read_parquet(folder / "values.parquet"), Provenance.parse(record))

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail for another model, or a site without values.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("values", model=model.weights)
        if str(site) not in self.provenance.sites:
            raise ValueError(f"no values at {site}; valid: {', '.join(self.provenance.sites)}")


def answer_values(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    column: ColumnName = "answer",
    fact: ColumnName = "fact",
    rows: Selection = None,
    top: OneOrMore = 1,
) -> AnswerValues:
    """Choose the values that add most to the answer's logit at the last token, over all layers.

    Contributions as in `key_values.answer_contributions`; a value with a negative activation counts
    too, as its negative is what it writes.

    Args:
        model: the model.
        prompts: a dataset.
        seed: of the random values.
        column: dataset column with the answer.
        fact: dataset column that names the fact, shared by the prompts that the edit is tried on.
        rows: the prompts that the values are chosen on, one of each fact: a label, or column ->
            value or values.
        top: values of a fact.

    Raises:
        ValueError: an unknown column or prompt, two prompts of a fact, or a `top` that leaves no
            other value in a layer.
    """
    chosen = select_facts(prompts, rows, fact)
    neurons = model.width(Site(0, "mlp_act"))
    if not 1 <= top <= neurons // 3:
        raise ValueError(f"top = {top} values; valid: 1 to {neurons // 3}")
    named = continuation_tokens(model, chosen, [column])
    activations = torch.empty(len(chosen), model.n_layers, neurons)
    added = torch.empty_like(activations)
    for number, layer, states, parts in contributions(model, chosen, named):
        activations[number, layer], added[number, layer] = states, parts[0]
    generator = np.random.default_rng(seed)
    records = []
    for number, row in chosen.iterrows():
        picks = _picked(activations[number], added[number], top, generator)
        records += [
            {"fact": row[fact], "label": row["label"], **pick}
            | {
                "activation": float(activations[number, pick["layer"], pick["value"]]),
                "contribution": float(added[number, pick["layer"], pick["value"]]),
            }
            for pick in picks
        ]
    values = pd.DataFrame(records)
    return AnswerValues(
        values,
        Provenance(
            model.weights,
            dataset=dataset_digest(chosen[["sample", "tokens"]]),
            sites=tuple(str(Site(int(n), "mlp_down")) for n in sorted(values["layer"].unique())),
            how=f"{top} values that add most to the logit of {column!r}, on {rows or 'all'}",
        ),
    )


def _picked(
    activations: Tensor, added: Tensor, top: int, generator: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Yield layer, value, kind and rank of the chosen values and of those beside them."""
    layers, neurons = added.shape
    used: list[set[int]] = [set() for _ in range(layers)]
    best = [divmod(flat, neurons) for flat in added.flatten().topk(top).indices.tolist()]
    for layer, value in best:
        used[layer].add(value)
    for rank, (layer, value) in enumerate(best):
        yield {"kind": "chosen", "rank": rank, "layer": layer, "value": value}
        distances = (activations[layer] - activations[layer, value]).abs()
        similar = next(n for n in distances.argsort().tolist() if n not in used[layer])
        used[layer].add(similar)
        yield {"kind": "similar", "rank": rank, "layer": layer, "value": similar}
        free = [n for n in range(neurons) if n not in used[layer]]
        drawn = int(generator.choice(free))
        used[layer].add(drawn)
        yield {"kind": "random", "rank": rank, "layer": layer, "value": drawn}


def edited_values(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    values: Annotated[str, OneOf(*KINDS)] = "chosen",
    strengths: list[float],
    old: ColumnName = "answer",
    new: ColumnName = "target",
    fact: ColumnName = "fact",
) -> Iterator[Condition]:
    """Yield a condition for each strength s: v + s sign(a) (e(new) - e(old)) for a fact's values.

    e is the token's row of the unembedding, not normalised, and a the neuron's activation on the
    prompt that the value was chosen on: a value whose neuron is negative writes its negative. The
    edit holds at every position, as one of the weights does; no weight is changed. With s = 1 this
    is v - e(old) + e(new).

    Args:
        model: the model.
        prompts: the prompts of the run, with the columns of a dataset.
        fits: contains `fit`.
        seed: of the assignment of other facts.
        fit: the name of an `answer_values`.
        values: one of `KINDS`; all but `chosen` are controls.
        strengths: factors s.
        old: dataset column with the answer.
        new: dataset column with the target.
        fact: dataset column that names the fact.

    Yields:
        Conditions with the axes `strength` and `values`.

    Raises:
        ValueError: unknown values, no strength, a fact without values, or a label with only one
            fact.

    Source: Dai et al. 2022, "Knowledge neurons in pretrained transformers": v - e(old) + 8 e(new)
    with e of the input, changed 48 % of the outputs, 34 % into the target.
    """
    if values not in KINDS:
        raise ValueError(f"values {values!r} is unknown; valid: {', '.join(KINDS)}")
    if not strengths:
        raise ValueError("strengths is empty; valid: one or more numbers")
    tokens = continuation_tokens(model, prompts, [old, new])
    answers: AnswerValues = fits[fit]
    kind = "chosen" if values == "other" else values
    table = answers.values[answers.values["kind"] == kind]
    facts = prompts.drop_duplicates(fact).set_index(fact)["label"]
    sources = _others(facts, seed) if values == "other" else {name: name for name in facts.index}
    wanted = [sources[name] for name in prompts[fact]]
    for name in wanted:
        if name not in set(table["fact"]):
            raise ValueError(
                f"no values for the fact {name!r}; they are of {table['fact'].nunique()}"
            )
    first = dict(zip(prompts[fact], range(len(prompts)), strict=True))
    pairs = tokens[[first[name] for name in wanted]]
    unembedding = model.hf.get_output_embeddings().weight.detach()
    before, after = (unembedding[part.to(unembedding.device)].float() for part in pairs.T)
    change = (after - before).cpu()
    edits = _edited(model, table, wanted)
    for site in edits:
        answers.check(model, site)
    for strength in strengths:
        yield Condition(
            axes={"strength": float(strength), "values": values},
            edits=tuple(
                Edit(site, RankOne(PerPrompt(u), PerPrompt(float(strength) * change)))
                for site, u in edits.items()
            ),
            role=CANDIDATE if values == "chosen" else CONTROL,
        )


def _edited(model: LanguageModel, table: pd.DataFrame, wanted: list[str]) -> dict[Site, Tensor]:
    """Return u [prompts, neurons] of each layer: the sign of a prompt's values, else 0."""
    rows = dict(iter(table.groupby("fact")))
    edits: dict[Site, Tensor] = {}
    for prompt, name in enumerate(wanted):
        for row in rows[name].itertuples():
            site = Site(int(row.layer), "mlp_down")
            if site not in edits:
                edits[site] = torch.zeros(len(wanted), model.width(Site(site.layer, "mlp_act")))
            edits[site][prompt, int(row.value)] = float(np.sign(row.activation))
    return dict(sorted(edits.items(), key=lambda item: item[0].layer))


def _others(facts: pd.Series, seed: int) -> dict[str, str]:
    """Assign each fact another of its label, each used once: a random cycle.

    Raises:
        ValueError: a label with only one fact.
    """
    generator = np.random.default_rng(seed)
    others: dict[str, str] = {}
    for label, names in facts.groupby(facts):
        if len(names) < 2:
            raise ValueError(f"{len(names)} fact labelled {label!r} has no other; valid: 2 or more")
        cycle = generator.permutation(names.index.to_numpy())
        others |= dict(zip(cycle, np.roll(cycle, 1), strict=True))
    return others
