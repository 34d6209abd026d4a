"""Which (position, feature) pairs of an autoencoder are ablated: attributed ones, and random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.engine.conditions import Condition, Edit, Places
from pipeline.methods.sae import SparseAutoencoder
from pipeline.methods.sae_interventions import Reconstruct, ablate
from pipeline.model.sites import Site

RULES = ("recorded", "firing")
"""Where a pair is ablated while generating: at the absolute position that it has in the recorded
completion of the same sample; or wherever the feature is active, in the prompt too. Never at the
first token, where autoencoders are not trained.
"""


@dataclass(frozen=True)
class FeatureSet:
    """Pairs (position from the end, feature) of one site; position 0 is the end's own.

    `source` is how they were come by, `draw` tells sets of one source apart.
    """

    site: str
    source: str
    draw: int
    pairs: tuple[tuple[int, int], ...]


def strongest(features: pd.DataFrame, samples: int, top: int) -> pd.DataFrame:
    """The pairs of every site without which the metric would be lowest: what raises it most.

    Ablated, a pair changes the metric by its attribution, averaged over all samples; the lowest of
    these come first.

    Args:
        features: a row for each `prompt`, `site`, `from_end` and `feature` where it is attributed
            anything; where there is no row it is 0.
        samples: how many there are.
        top: pairs of each site.

    Returns:
        `site`, `from_end`, `feature`, `attribution` (the mean, below 0), `share` of samples where
        it is active, and `rank`, 1 for the lowest.
    """
    groups = features.groupby(["site", "from_end", "feature"])["attribution"]
    means = pd.DataFrame({"attribution": groups.sum() / samples, "share": groups.size() / samples})
    raising = means[means["attribution"] < 0].reset_index()
    ordered = raising.sort_values(["site", "attribution", "from_end", "feature"])
    ordered["rank"] = ordered.groupby("site").cumcount() + 1
    return ordered[ordered["rank"] <= top].reset_index(drop=True)


def feature_sets(
    features: pd.DataFrame, chosen: pd.DataFrame, *, draws: int, seed: int
) -> list[FeatureSet]:
    """Of each site the chosen pairs together, each alone, and draws of as many random ones.

    For each chosen pair another feature is drawn that is active at the same position from the end,
    in proportion to the samples in which it is: all different, and none of the site's chosen
    features at any position. Where no such one is left, it is drawn at the nearest position that
    has one, and ablated there; there are fewer only if no position has.
    """
    rng = np.random.default_rng(seed)
    found = []
    for site, own in chosen.groupby("site", sort=False):
        pairs = _pairs(own)
        found.append(FeatureSet(str(site), "attributed", 0, pairs))
        found += [FeatureSet(str(site), "single", n, (pair,)) for n, pair in enumerate(pairs, 1)]
        others = features[(features["site"] == site) & ~features["feature"].isin(own["feature"])]
        if others.empty:
            continue
        counts = others.groupby(["from_end", "feature"]).size().rename("samples").reset_index()
        found += [
            FeatureSet(str(site), "random", draw, _alike(pairs, counts, rng))
            for draw in range(draws)
        ]
    return found


def _alike(
    pairs: Sequence[tuple[int, int]], left: pd.DataFrame, rng: np.random.Generator
) -> tuple[tuple[int, int], ...]:
    """For each pair a feature at the nearest position that has one left, each feature once."""
    found: list[tuple[int, int]] = []
    for from_end, _ in pairs:
        if left.empty:
            break
        distance = (left["from_end"] - from_end).abs()
        near = left[distance == distance.min()]
        weights = near["samples"].to_numpy() / near["samples"].sum()
        place = rng.choice(len(near), p=weights)
        found += _pairs(near.iloc[[place]])
        left = left[left["feature"] != found[-1][1]]
    return tuple(found)


def ablations(
    sets: Sequence[FeatureSet],
    autoencoders: Mapping[str, SparseAutoencoder],
    ends: Sequence[int],
) -> list[Condition]:
    """Every set ablated by both of `RULES`, and every site's reconstruction alone.

    Reconstructions stand at every token but the first; tables call these positions `all`.

    Args:
        sets: of features.
        autoencoders: of each site.
        ends: where each sample's recorded completion has its end, as an absolute position.
    """
    sites = dict.fromkeys(found.site for found in sets)
    reconstructed = [
        Condition(
            arm=name,
            intervention="reconstruct",
            layer=Site.parse(name).layer,
            positions="all",
            edits=(Edit(Site.parse(name), Reconstruct(autoencoders[name]), "after_first"),),
        )
        for name in sites
    ]
    return reconstructed + [
        Condition(
            arm=found.site,
            intervention="ablate",
            source=found.source,
            draw=found.draw,
            layer=Site.parse(found.site).layer,
            positions=rule,
            edits=_edits(found, autoencoders[found.site], ends, rule),
        )
        for found in sets
        for rule in RULES
    ]


def _edits(
    found: FeatureSet, sae: SparseAutoencoder, ends: Sequence[int], rule: str
) -> tuple[Edit, ...]:
    site = Site.parse(found.site)
    if rule == "firing":
        features = sorted({feature for _, feature in found.pairs})
        return (Edit(site, ablate(sae, features), "after_first"),)
    by_place: dict[int, list[int]] = {}
    for from_end, feature in found.pairs:
        by_place.setdefault(from_end, []).append(feature)
    return tuple(
        Edit(site, ablate(sae, sorted(features)), _places(from_end, ends))
        for from_end, features in sorted(by_place.items())
    )


def _places(from_end: int, ends: Sequence[int]) -> Places:
    where = [(end + from_end,) if end + from_end > 0 else () for end in ends]
    return Places(f"{from_end} from the end", where)


def _pairs(rows: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    columns = zip(rows["from_end"], rows["feature"], strict=True)
    return tuple((int(place), int(feature)) for place, feature in columns)
