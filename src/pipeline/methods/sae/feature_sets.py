"""Sets of (position, feature) pairs to ablate: attributed ones, and random controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from pipeline.data.roles import CANDIDATE
from pipeline.engine.conditions import Condition, Edit, PromptPositions
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.interventions import Reconstruct, ablate
from pipeline.model.sites import Site

ABLATION_RULES = ("recorded", "firing")
"""Where a pair is ablated during generation. `recorded`: at its absolute position in the sample's
recorded completion. `firing`: wherever the feature is active, including the prompt. Never at the
first token, where autoencoders are not trained.
"""


@dataclass(frozen=True)
class FeatureSet:
    """Pairs (position from the end, feature) of one site; position 0 is the end itself.

    `source`: where the features came from: `attributed`, `single` or `random`. `draw`: the number
    of the set within its source.
    """

    site: str
    source: str
    draw: int
    pairs: tuple[tuple[int, int], ...]


def strongest(
    features: pd.DataFrame,
    active: Mapping[str, Int[np.ndarray, "pos feature"]],
    samples: int,
    top: int,
) -> pd.DataFrame:
    """Choose the pairs of each site that raise the metric most: the most negative attributions.

    A pair's attribution, averaged over all samples, estimates the metric's change under ablation.

    Args:
        features: one row per `prompt`, `site`, `from_end` and `feature` with a nonzero attribution;
            missing rows count as 0.
        active: by site, the number of samples in which each feature is active at each position;
            row -1 is the end, position 0.
        samples: total number of samples.
        top: pairs per site.

    Returns:
        `site`, `from_end`, `feature`, `attribution` (mean, below 0), `share` of samples in which
        the feature is active, and `rank`, 1 for the most negative.
    """
    groups = features.groupby(["site", "from_end", "feature"])["attribution"]
    means = (groups.sum() / samples).reset_index()
    raising = means[means["attribution"] < 0]
    ordered = raising.sort_values(["site", "attribution", "from_end", "feature"])
    ordered["rank"] = ordered.groupby("site").cumcount() + 1
    chosen = ordered[ordered["rank"] <= top].reset_index(drop=True)
    # Not from `features`, which may hold the largest attributions of each sample only.
    counts = [active[row.site][row.from_end - 1, row.feature] for row in chosen.itertuples()]
    return chosen.assign(share=np.array(counts, dtype=float) / samples)


def chosen_sets(chosen: pd.DataFrame) -> list[FeatureSet]:
    """Return, for each site, the set of all chosen pairs, then each pair as its own set."""
    sets = []
    for site, rows in chosen.groupby("site", sort=False):
        pairs = _pairs(rows)
        sets.append(FeatureSet(str(site), "attributed", 0, pairs))
        sets += [FeatureSet(str(site), "single", n, (pair,)) for n, pair in enumerate(pairs, 1)]
    return sets


def random_sets(
    features: pd.DataFrame, chosen: pd.DataFrame, *, draws: int, seed: int
) -> list[FeatureSet]:
    """Draw random control sets with as many pairs per site as were chosen.

    For each chosen pair, draw another feature active at the same position from the end, with
    probability proportional to the number of samples in which it is active. Drawn features are
    distinct and exclude the site's chosen features at all positions. If none is left, draw at the
    nearest position that has one, and ablate it there; a set is smaller only if no position has.
    """
    rng = np.random.default_rng(seed)
    sets = []
    for site, rows in chosen.groupby("site", sort=False):
        others = features[(features["site"] == site) & ~features["feature"].isin(rows["feature"])]
        if others.empty:
            continue
        counts = others.groupby(["from_end", "feature"]).size().rename("samples").reset_index()
        sets += [
            FeatureSet(str(site), "random", draw, _alike(_pairs(rows), counts, rng))
            for draw in range(draws)
        ]
    return sets


def _alike(
    pairs: Sequence[tuple[int, int]], left: pd.DataFrame, rng: np.random.Generator
) -> tuple[tuple[int, int], ...]:
    """Draw a distinct feature for each pair, at the nearest position that has one left."""
    pairs_drawn: list[tuple[int, int]] = []
    for from_end, _ in pairs:
        if left.empty:
            break
        distance = (left["from_end"] - from_end).abs()
        near = left[distance == distance.min()]
        weights = near["samples"].to_numpy() / near["samples"].sum()
        choice = rng.choice(len(near), p=weights)
        pairs_drawn += _pairs(near.iloc[[choice]])
        left = left[left["feature"] != pairs_drawn[-1][1]]
    return tuple(pairs_drawn)


def reconstructions(autoencoders: Mapping[str, SparseAutoencoder]) -> list[Condition]:
    """Build each site's reconstruction condition: no ablation, every token but the first.

    Its axes are `positions` = `all` and `source` = `none`.
    """
    return [
        Condition(
            {
                "intervention": "reconstruct",
                "source": "none",
                "site": name,
                "layer": Site.parse(name).layer,
                "positions": "all",
            },
            (Edit(Site.parse(name), Reconstruct(sae), "after_first"),),
        )
        for name, sae in autoencoders.items()
    ]


def ablations(
    sets: Sequence[FeatureSet],
    autoencoders: Mapping[str, SparseAutoencoder],
    ends: Sequence[int],
    *,
    role: str = CANDIDATE,
) -> list[Condition]:
    """Build the conditions that ablate each set by both of `ABLATION_RULES`.

    Args:
        sets: feature sets.
        autoencoders: by site.
        ends: absolute position of the end of each sample's recorded completion.
        role: of the conditions.
    """
    return [
        Condition(
            {
                "intervention": "ablate",
                "source": chosen.source,
                "draw": chosen.draw,
                "site": chosen.site,
                "layer": Site.parse(chosen.site).layer,
                "positions": rule,
            },
            _edits(chosen, autoencoders[chosen.site], ends, rule),
            role=role,
        )
        for chosen in sets
        for rule in ABLATION_RULES
    ]


def _edits(
    chosen: FeatureSet, sae: SparseAutoencoder, ends: Sequence[int], rule: str
) -> tuple[Edit, ...]:
    site = Site.parse(chosen.site)
    if rule == "firing":
        features = sorted({feature for _, feature in chosen.pairs})
        return (Edit(site, ablate(sae, features), "after_first"),)
    by_place: dict[int, list[int]] = {}
    for from_end, feature in chosen.pairs:
        by_place.setdefault(from_end, []).append(feature)
    return tuple(
        Edit(site, ablate(sae, sorted(features)), _places(from_end, ends))
        for from_end, features in sorted(by_place.items())
    )


def _places(from_end: int, ends: Sequence[int]) -> PromptPositions:
    positions = [(end + from_end,) if end + from_end > 0 else () for end in ends]
    return PromptPositions(f"{from_end} from the end", positions)


def _pairs(rows: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    columns = zip(rows["from_end"], rows["feature"], strict=True)
    return tuple((int(position), int(feature)) for position, feature in columns)
