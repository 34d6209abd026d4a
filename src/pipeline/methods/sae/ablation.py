"""Arms that ablate autoencoder features, with random-feature and reconstruction controls."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.config.declared import ZeroOrMore
from pipeline.data.roles import CONTROL
from pipeline.engine.conditions import Condition
from pipeline.methods.sae.attributed import AttributedFeatures
from pipeline.methods.sae.feature_sets import (
    FeatureSet,
    ablations,
    chosen_sets,
    random_sets,
    reconstructions,
)
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def reconstructed(
    model: LanguageModel, fits: Mapping[str, Any], *, fit: str
) -> Iterator[Condition]:
    """Replace the activation at each site by its reconstruction, dropping the error.

    Axes: `intervention`, `source` (none), `site`, `layer`, `positions`.

    Raises:
        ValueError: the autoencoders are of another model.
    """
    saes: SparseAutoencoders = fits[fit]
    for site in saes.at_sites:
        saes.check(model, Site.parse(site))
    yield from reconstructions(saes.at_sites)


def attributed_ablations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: str,
) -> Iterator[Condition]:
    """Ablate the chosen features of each site, jointly and one at a time, keeping the error.

    Axes: `intervention`, `source` (attributed, single) and `draw` of the features, `site`, `layer`,
    `positions` (see `feature_sets.ABLATION_RULES`).

    Args:
        model: the model.
        prompts: the prompts in which features were attributed.
        fits: contains the attributions and the autoencoders.
        fit: the name of the attributions.
        autoencoders: the name of the autoencoders.

    Raises:
        ValueError: a prompt without attributions, or fits of another model.
    """
    attributed: AttributedFeatures = fits[fit]
    sets = chosen_sets(attributed.chosen)
    yield from _ablated(model, prompts, attributed, fits[autoencoders], sets)


def random_ablations(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    *,
    fit: str,
    autoencoders: str,
    draws: ZeroOrMore = 3,
    seed: int = 0,
) -> Iterator[Condition]:
    """Ablate equally many random active features of each site, as controls.

    Axes and other arguments are those of `attributed_ablations`; `source` is random.

    Args:
        model: the model.
        prompts: the prompts in which features were attributed.
        fits: contains the attributions and the autoencoders.
        fit: the name of the attributions.
        autoencoders: the name of the autoencoders.
        draws: number of random sets per site.
        seed: of the draws.

    Raises:
        ValueError: as `attributed_ablations`; a negative number of draws.
    """
    if draws < 0:
        raise ValueError(f"draws: {draws} is less than 0")
    attributed: AttributedFeatures = fits[fit]
    sets = random_sets(attributed.features, attributed.chosen, draws=draws, seed=seed)
    yield from _ablated(model, prompts, attributed, fits[autoencoders], sets, role=CONTROL)


def _ablated(
    model: LanguageModel,
    prompts: pd.DataFrame,
    attributed: AttributedFeatures,
    saes: SparseAutoencoders,
    sets: list[FeatureSet],
    **role: str,
) -> list[Condition]:
    for site in dict.fromkeys(each.site for each in sets):
        saes.check(model, Site.parse(site))
        attributed.check(model, Site.parse(site))
    ends = attributed.ends_of(prompts["sample"].tolist())
    return ablations(sets, saes.at_sites, ends, **role)
