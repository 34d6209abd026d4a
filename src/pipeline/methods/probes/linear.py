"""Linear probes by layer: what can be read from a state, on topics that no probe was fitted on."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch

from pipeline.config.declared import ColumnName, OfSplits
from pipeline.measures.statistics import topics_or_samples
from pipeline.methods.directions import FITTED, Key
from pipeline.methods.probes.fitting import LinearFit, fit_classes, fit_values, shuffled
from pipeline.methods.probes.probes import (
    PENALTIES,
    SHUFFLED,
    Probes,
    check_fit,
    fields_of,
    key_of,
    kind_of,
    probe_provenance,
    stored_rows,
)
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore


def linear_probe(
    store: ActivationStore,
    prompts: pd.DataFrame,
    *,
    component: str,
    targets: list[str],
    penalties: list[float] = PENALTIES,
    folds: int = 5,
    draws: int = 3,
    seed: int = 0,
) -> Probes:
    """Fit a probe at every layer to columns of the dataset, with controls of shuffled targets.

    A column of text or truth values: multinomial logistic regression. Columns of numbers: ridge
    regression. States are standardised; the penalty is that of the best score in cross-validation
    on the train split, whose folds share no topic.

    Control: the same procedure on targets that are permuted between topics if each topic has a
    single target, else between rows. It is tested against the true targets, on other topics. The
    control task of Hewitt and Liang instead gives each word type a random label that also holds in
    the test; it needs words that training and test share, which held-out topics rule out.

    Args:
        store: activations of `component`, at one position of each prompt.
        prompts: the dataset.
        component: such as `resid_pre`.
        targets: one column of classes, or columns of numbers.
        penalties: candidates; see `probe_fitting.LinearFit`.
        folds: of the cross-validation.
        draws: number of controls.
        seed: of the controls.

    Raises:
        ValueError: an unknown column, a missing value, several columns of classes, a single class,
            a penalty that is not positive, fewer topics than folds, or several positions of a
            prompt in the store.

    Source: Alain and Bengio 2016; Hewitt and Liang 2019 (control tasks).
    """
    kind = kind_of(prompts, targets)
    rows, samples = stored_rows(store, prompts[prompts["split"] == "train"])
    check_fit(samples, penalties, folds, draws)
    topics = samples["topic"].to_numpy(dtype=str)
    true = samples[targets].to_numpy(float) if kind == "values" else _text(samples[targets[0]])
    every = [true, *(shuffled(true, topics, [seed, draw]) for draw in range(draws))]
    fit = fit_values if kind == "values" else fit_classes
    fits: dict[Key, LinearFit] = {}
    for site in store.sites:
        if Site.parse(site).component == component:
            states = store[site][rows].double().numpy()
            layer = Site.parse(site).layer
            for number, each in enumerate(fit(states, every, topics, penalties, folds)):
                source, draw = (SHUFFLED, number - 1) if number else (FITTED, 0)
                fits[Key(source, draw, layer)] = each
    return Probes(
        {key: torch.from_numpy(each.weight) for key, each in fits.items()},
        {key: torch.from_numpy(each.bias) for key, each in fits.items()},
        component,
        tuple(targets),
        () if kind == "values" else tuple(np.unique(true).tolist()),
        pd.DataFrame(
            [
                {**fields_of(key), "score": each.score, "penalty": each.penalty}
                for key, each in fits.items()
            ]
        ),
        probe_provenance(store, component, f"{kind} of {', '.join(targets)}"),
    )


def probe_by_layer(
    store: Annotated[ActivationStore, OfSplits("train")],
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    split: str = "test",
    reference: ColumnName | None = None,
) -> pd.DataFrame:
    """Tabulate what the probes of every layer read from each prompt of a split.

    Args:
        store: activations of the probes' component.
        prompts: the dataset.
        fits: the probes, among others.
        fit: their name.
        split: of the dataset.
        reference: of probes of numbers, a column of the dataset: what is predicted from it alone is
            the mean over the topics of the train rows with the same value.

    Returns:
        One row per sample, layer, source and draw: `sample`, `label`, `split`, `topic`, `layer`,
        `source` (`fitted` or `shuffled`), `draw`, `fit_score` (in cross-validation). Of classes:
        `target`, `prediction`, `score` (1 if they agree), `reference` (score of the train split's
        most common class). Of numbers, for each column C: `C_target`, `C_prediction` and, with a
        reference, `C_reference`.

    Raises:
        ValueError: no such fit or column, no prompts of the split in the store, probes of another
            model, or several positions of a prompt in the store.
    """
    if fit not in fits:
        raise ValueError(f"no fit {fit!r}; valid: {', '.join(fits) or 'none'}")
    probes: Probes = fits[fit]
    probes.provenance.require(
        "probes", model=store.fingerprint.model, template=store.fingerprint.template
    )
    rows, samples = stored_rows(store, prompts[prompts["split"] == split])
    _, train = stored_rows(store, prompts[prompts["split"] == "train"])
    scores = {key_of(row): row["score"] for row in probes.chosen.to_dict("records")}
    tables = []
    for key in sorted(probes.weights, key=lambda key: (key.layer, key.source, key.draw)):
        states = store[str(Site(key.layer, probes.component))][rows]
        read = probes.read(key, states).numpy()
        table = samples[["sample", "label", "split", "topic"]].assign(**fields_of(key))
        table["fit_score"] = scores[key]
        if probes.classes:
            target = _text(samples[probes.targets[0]])
            table["target"] = target
            table["prediction"] = np.array(probes.classes)[read.argmax(1)]
            table["score"] = (table["prediction"] == target).astype(float)
            common = pd.Series(_text(train[probes.targets[0]])).mode()[0]
            table["reference"] = (target == common).astype(float)
        for number, column in enumerate(() if probes.classes else probes.targets):
            table[f"{column}_target"] = samples[column].astype(float)
            table[f"{column}_prediction"] = read[:, number]
            if reference is not None:
                means = _means(train, reference, column)
                table[f"{column}_reference"] = samples[reference].map(means).fillna(means.mean())
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _text(column: pd.Series) -> np.ndarray:
    return column.astype(str).to_numpy(dtype=str)


def _means(train: pd.DataFrame, reference: str, column: str) -> pd.Series:
    if reference not in train:
        raise ValueError(f"no column {reference!r} in the dataset; it has: {', '.join(train)}")
    of_topics = train.groupby([reference, topics_or_samples(train)])[column].mean()
    return of_topics.groupby(level=0).mean()
