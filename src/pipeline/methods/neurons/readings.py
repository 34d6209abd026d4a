"""Tables of neurons: their effects, natural activations, and a page for each chosen one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from pipeline.config.declared import OneOrMore
from pipeline.data.positions import resolve
from pipeline.data.prompts import select_prompts
from pipeline.engine.collection import collect
from pipeline.measures.features import Rows, summary_of, tallied
from pipeline.methods.neurons.arms import group_name, names_of, typical_activations
from pipeline.methods.neurons.effects import mean_activations
from pipeline.methods.neurons.fits import NeuronEffects
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import direct_logits
from pipeline.views.dashboard import page_row


def neuron_effects(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Return the effects of all neurons of a `NeuronEffects`: see `effects.neuron_table`."""
    neurons: NeuronEffects = fits[fit]
    return neurons.effects


def neuron_chance(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Return how many neurons pass by chance, a row per draw: see `effects.neuron_table`."""
    neurons: NeuronEffects = fits[fit]
    return neurons.chance


def neuron_activations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    positions: Any = "last",
    split: str = "test",
) -> pd.DataFrame:
    """Tabulate the natural activation of each chosen neuron in each prompt.

    Args:
        model: the model.
        prompts: the dataset.
        fits: contains the fit.
        fit: the name of a `NeuronEffects`.
        positions: the rule of `ablated_neurons`; the mean over a prompt's positions is taken.
        split: of the prompts.

    Returns:
        `sample`, `label`, `topic`, `layer`, `neuron` (its site), `group` (`LABEL neurons`, by the
        neuron's own label), `activation`, and `multiple` (of the mean in the fit's contexts with
        the neuron's own label).
    """
    neurons: NeuronEffects = fits[fit]
    rows = select_prompts(prompts, None, [split])
    rule = resolve(rows, model.tokenizer, positions, variables=model.template)
    tokens = [list(map(int, row)) for row in rows["tokens"]]
    chosen = neurons.chosen.assign(name=names_of(neurons.chosen))
    chosen["typical"] = typical_activations(chosen)
    tables = []
    for layer, of_layer in chosen.groupby("layer", sort=False):
        neurons.check(model, Site(int(layer), "mlp_act"))
        activations = mean_activations(model, tokens, int(layer), rule)
        for row in of_layer.to_dict("records"):
            values = activations[:, row["neuron"]].double().numpy()
            tables.append(
                rows[["sample", "label", "topic"]].assign(
                    layer=layer,
                    neuron=row["name"],
                    group=group_name(row["label"]),
                    activation=values,
                    multiple=values / row["typical"],
                )
            )
    return pd.concat(tables, ignore_index=True)


def neuron_pages(
    model: LanguageModel,
    prompts: pd.DataFrame,
    texts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    examples: OneOrMore = 20,
    tokens: OneOrMore = 10,
) -> pd.DataFrame:
    """Summarise every chosen neuron over all tokens of prompts and texts, and write its page.

    A neuron is a feature whose decoder is its row of the down projection. Activation and row are
    multiplied by the sign of the neuron's mean activation where it matters (its own label), so that
    a page shows what it does there.

    Args:
        model: the model.
        prompts: the dataset, all splits.
        texts: unrelated texts, numbered after the prompts.
        fits: contains the fit.
        fit: the name of a `NeuronEffects`.
        examples: most examples of a neuron.
        tokens: number of top and of bottom tokens of a neuron's logits.

    Returns:
        As `dashboard.page_row`; `feature` is the neuron.
    """
    neurons: NeuronEffects = fits[fit]
    chosen = neurons.chosen
    sites = [Site.parse(name) for name in names_of(chosen)]
    for site in sites:
        neurons.check(model, Site(site.layer, site.component))
    sequences = [list(map(int, row)) for row in (*prompts["tokens"], *texts["tokens"])]
    collected, table = collect(model, sequences, sites, "all", batch_tokens=model.batch_tokens)
    signs = np.sign(typical_activations(chosen).to_numpy())
    active = np.stack([collected[site][:, 0].float().numpy() for site in sites], -1) * signs
    first_text = int(prompts["sample"].max()) + 1
    numbers = [*prompts["sample"], *range(first_text, first_text + len(texts))]
    table = table.assign(sample=np.array(numbers)[table["prompt"]])
    special = table["token"].isin(model.tokenizer.all_special_ids).to_numpy()
    rows = Rows(table, special, table["prompt"].to_numpy())

    def activations(number: int, within: Int[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
        return active[within, number]

    ordinary = np.flatnonzero(~special)
    batches = [(ordinary, active[ordinary])]
    pages = []
    shown = tallied(rows, batches, activations, len(sites), examples)
    for site, sign, (tally, top_examples) in zip(sites, signs.tolist(), shown, strict=True):
        whole = Site(site.layer, site.component)
        row = torch.zeros(model.width(whole))
        row[site.unit] = sign
        summary = summary_of(
            tally,
            top_examples,
            direct_logits(model, whole, row).cpu().numpy(),
            tokens,
            feature=site.unit,
            site=str(whole),
            kind="MLP",
            n_features=len(row),
            unit="neuron",
            sign=int(sign),
        )
        pages.append(page_row(summary, model.piece))
    return pd.DataFrame(pages)
