"""Attribute a metric to autoencoder features, choose the strongest, and check by ablation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from pipeline.config.errors import at_key
from pipeline.data.datasets import dataset_digest
from pipeline.data.prompts import select_prompts
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.attribution import attribute, check_by_ablation, rank_correlation
from pipeline.methods.sae.feature_sets import strongest
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.tokenization import single_tokens

_PROVENANCE = "provenance.json"


@dataclass(frozen=True, eq=False)
class AttributedFeatures:
    """Attributions of a metric at each sample's end to autoencoder features, and the strongest.

    Attributes:
        features: as `attribution.Attribution.features`, by `sample` and with `from_end`, the
            position counted from the sample's end. Likewise `errors` and `totals`.
        errors: attributions of the reconstruction errors.
        totals: one row per sample and site.
        checked: the largest attributions of each site, with the `effect` of ablating the feature.
        chosen: the (position, feature) pairs that raise the metric most: see
            `feature_sets.strongest`.
        ends: `sample` and `end`, the absolute position after which the metric is measured.
        provenance: its sites are those of the autoencoders.
    """

    features: pd.DataFrame
    errors: pd.DataFrame
    totals: pd.DataFrame
    checked: pd.DataFrame
    chosen: pd.DataFrame
    ends: pd.DataFrame
    provenance: Provenance

    def ends_of(self, samples: Sequence[int]) -> list[int]:
        """Return the end position of each sample.

        Raises:
            ValueError: a sample without attributions.
        """
        by_sample = dict(zip(self.ends["sample"], self.ends["end"], strict=True))
        for sample in samples:
            if sample not in by_sample:
                raise ValueError(
                    f"features were not attributed in sample {sample}, one of {len(samples)}; "
                    "select the same prompts"
                )
        return [int(by_sample[sample]) for sample in samples]

    def save(self, folder: Path) -> None:
        """Write each table and the provenance."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            getattr(self, name).to_parquet(folder / f"{name}.parquet")
        (folder / _PROVENANCE).write_text(json.dumps(self.provenance.record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "AttributedFeatures":
        """Read the tables back."""
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _TABLES}
        provenance = Provenance.parse(json.loads((folder / _PROVENANCE).read_text()))
        return cls(**tables, provenance=provenance)

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail for another model, or a site without attributions.

        Raises:
            ValueError: names the actual and the expected value.
        """
        self.provenance.require("attributions", model=model.weights)
        if str(site) not in self.provenance.sites:
            raise ValueError(
                f"no attribution at {site}; there are: {', '.join(self.provenance.sites)}"
            )

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        fits: Mapping[str, Any],
        fit: str,
        token: str,
        foil: str,
        select: Any,
        top: int,
        checked: int,
        stored: int,
    ) -> "AttributedFeatures":
        """Build placeholder attributions: the final number of chosen pairs per site, at the end.

        Raises:
            ValueError: no such prompts, a word that is not a single token, or a number out of
                range.
        """
        for name, value, least in (("top", top, 1), ("checked", checked, 2), ("stored", stored, 1)):
            if value < least:
                raise ValueError(f"{name}: {value} is less than {least}")
        single_tokens(model.tokenizer, [token, foil])
        with at_key("select"):
            rows = select_prompts(prompts, select)
        saes: SparseAutoencoders = fits[fit]
        features = pd.DataFrame(
            [
                {"site": site, "from_end": 0, "feature": feature}
                for site, sae in saes.at_sites.items()
                for feature in range(min(2 * top, sae.n_features))
            ]
        )
        chosen = features[features["feature"] < top]
        ends = pd.DataFrame({"sample": rows["sample"], "end": rows["tokens"].map(len) - 1})
        empty = pd.DataFrame()
        provenance = Provenance(model.weights, sites=tuple(saes.at_sites))
        return cls(features, empty, empty, empty, chosen, ends, provenance)


_TABLES = [field.name for field in fields(AttributedFeatures) if field.name != "provenance"]


def attributed_features(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    token: str,
    foil: str,
    select: Any = None,
    top: int = 5,
    checked: int = 50,
    stored: int = 200,
) -> AttributedFeatures:
    """Attribute logit(token) - logit(foil) after each prompt to (position, feature) pairs.

    Args:
        model: the model.
        prompts: the dataset.
        fits: contains the autoencoders.
        fit: the name of the autoencoders.
        token: a single token.
        foil: another single token.
        select: selection of prompts, as an arm's `prompts`.
        top: number of (position, feature) pairs to choose per site.
        checked: number of largest attributions per site to check by ablation.
        stored: number of largest attributions to store per sample and site.

    Raises:
        ValueError: as `AttributedFeatures.stand_in`; an autoencoder of another model.
    """
    rows = select_prompts(prompts, select)
    tokens = {
        int(sample): list(map(int, prompt))
        for sample, prompt in zip(rows["sample"], rows["tokens"], strict=True)
    }
    return attribute_at_ends(
        model, tokens, fits[fit], token, foil, top=top, checked=checked, stored=stored
    )


def attribute_at_ends(
    model: LanguageModel,
    tokens: Mapping[int, list[int]],
    autoencoders: SparseAutoencoders,
    token: str,
    foil: str,
    *,
    top: int,
    checked: int,
    stored: int,
) -> AttributedFeatures:
    """Attribute logit(token) - logit(foil) after the last token of each sample.

    Args:
        model: the model.
        tokens: of each sample, up to its end.
        autoencoders: only those at sites are used, not further sizes.
        token: see `attributed_features`, as for all below.
        foil: another single token.
        top: pairs to choose per site.
        checked: ablations per site.
        stored: attributions to store per sample and site.

    Raises:
        ValueError: as `attributed_features`.
    """
    first, second = single_tokens(model.tokenizer, [token, foil])

    def measure(logits: Tensor) -> Float[Tensor, " rows"]:
        return logits[:, first] - logits[:, second]

    samples, sequences = np.array(list(tokens)), list(tokens.values())
    ends = np.array([len(sequence) - 1 for sequence in sequences])
    saes, budget = list(autoencoders.at_sites.values()), model.batch_tokens
    attribution = attribute(model, sequences, saes, measure, top=stored, batch_tokens=budget)
    features = attribution.features.assign(
        from_end=attribution.features["position"] - ends[attribution.features["prompt"]]
    )
    check = partial(check_by_ablation, model, sequences, top=checked, batch_tokens=budget)
    checks = [check(sae, attribution=features, measure=measure).table for sae in saes]

    def by_sample(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(prompt=samples[table["prompt"]]).rename(columns={"prompt": "sample"})

    dataset = dataset_digest(pd.DataFrame({"sample": samples, "tokens": sequences}))
    return AttributedFeatures(
        features=by_sample(features),
        errors=by_sample(attribution.errors),
        totals=by_sample(attribution.totals),
        checked=by_sample(pd.concat(checks, ignore_index=True)),
        chosen=strongest(features, attribution.active, len(sequences), top),
        ends=pd.DataFrame({"sample": samples, "end": ends}),
        provenance=Provenance(
            model.weights,
            dataset=dataset,
            sites=tuple(autoencoders.at_sites),
            how=f"gradient times activation of logit({token!r}) - logit({foil!r})",
        ),
    )


def checked_attributions(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Return the checked attributions with their ablation effects and each site's `rank`.

    rank: Spearman's correlation of attribution and effect.
    """
    attributed: AttributedFeatures = fits[fit]
    checked = attributed.checked
    ranks = {site: rank_correlation(rows) for site, rows in checked.groupby("site", sort=False)}
    return checked.assign(rank=checked["site"].map(ranks))


def error_shares(fits: Mapping[str, Any], *, fit: str) -> pd.DataFrame:
    """Return the share of the attribution that goes to the SAE error: see `shares_of_error`."""
    attributed: AttributedFeatures = fits[fit]
    return shares_of_error(attributed.errors, attributed.totals)


def shares_of_error(errors: pd.DataFrame, totals: pd.DataFrame) -> pd.DataFrame:
    """Compute the share of the metric's attribution that goes to the SAE error, for each site.

    Per sample, F is the attribution of all features and E that of the error, each summed over
    positions; the share is the mean over samples of |E| / (|F| + |E|).

    Args:
        errors: `sample`, `site` and `attribution` at each position.
        totals: `sample`, `site`, `metric` and the `attribution` of all features.

    Returns:
        `site`; means over samples of `features`, `error`, their sum `both` and `metric`;
        `error_share`.
    """
    keys = ["sample", "site"]
    sums = errors.groupby(keys, sort=False)["attribution"].sum().rename("error").reset_index()
    table = totals.rename(columns={"attribution": "features"}).merge(sums, on=keys, validate="1:1")
    table["both"] = table["features"] + table["error"]
    sizes = table[["features", "error"]].abs()
    table["error_share"] = sizes["error"] / sizes.sum(axis=1)
    columns = ["features", "error", "both", "metric", "error_share"]
    return table.groupby("site", sort=False)[columns].mean().reset_index()
