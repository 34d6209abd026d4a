"""Choose a direction among candidates (every template position x layer) on the validation split."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float, Float64, Int
from torch import Tensor

COLUMNS = ("position", "layer", "refusal_score", "steering_score", "kl_div_score")


@dataclass(frozen=True)
class Choice:
    """The candidate taken and its three scores."""

    position: int
    layer: int
    refusal_score: float
    steering_score: float
    kl_div_score: float


def select_direction(
    candidates: pd.DataFrame,
    *,
    n_layers: int,
    max_kl: float = 0.1,
    min_steering: float = 0.0,
    layer_share: float = 0.8,
) -> Choice:
    """The candidate with the lowest bypass score among those that pass every filter.

    Candidates with a NaN score, a layer >= int(layer_share * n_layers), kl > max_kl or
    induce < min_steering are discarded. Ties go to the lower layer, then the later position.

    Args:
        candidates: a row each with `position`, `layer`, `refusal_score` (bypass: mean refusal
            score on harmful prompts, direction projected out), `steering_score` (induce: on
            harmless prompts, direction added) and `kl_div_score` (on harmless prompts, projected
            out against baseline).
        n_layers: of the model.
        max_kl: largest KL divergence kept.
        min_steering: smallest induce score kept.
        layer_share: of the layers, from the first on, that may be chosen.

    Returns:
        The choice.

    Raises:
        ValueError: a column is missing, or nothing is left; says how many each filter discards.

    Source: Arditi et al. 2024, code andyrdt/refusal_direction.
    """
    missing = [column for column in COLUMNS if column not in candidates]
    if missing:
        raise ValueError(f"candidates have no column {missing[0]!r}; needed: {', '.join(COLUMNS)}")
    scores = candidates[["refusal_score", "steering_score", "kl_div_score"]].astype(float)
    limit = int(layer_share * n_layers)
    discards = {
        "a NaN score": scores.isna().any(axis=1),
        f"layer >= {limit}": candidates["layer"] >= limit,
        f"kl > {max_kl:g}": scores["kl_div_score"] > max_kl,
        f"induce < {min_steering:g}": scores["steering_score"] < min_steering,
    }
    left = candidates[~pd.DataFrame(discards).any(axis=1)]
    if left.empty:
        counts = ", ".join(f"{mask.sum()} have {why}" for why, mask in discards.items())
        raise ValueError(f"none of {len(candidates)} candidates passes the filters: {counts}")
    best = left.sort_values(
        ["refusal_score", "layer", "position"], ascending=[True, True, False], kind="stable"
    ).iloc[0]
    return Choice(
        position=int(best["position"]),
        layer=int(best["layer"]),
        refusal_score=float(best["refusal_score"]),
        steering_score=float(best["steering_score"]),
        kl_div_score=float(best["kl_div_score"]),
    )


def refusal_score(
    logits: Float[Tensor, "rows vocab"], tokens: Int[Tensor, " refusals"]
) -> Float64[Tensor, " rows"]:
    """log(p + 1e-8) - log(1 - p + 1e-8) in float64, p the summed probability of refusal tokens."""
    p = logits.double().softmax(-1)[:, tokens].sum(-1)
    return (p + 1e-8).log() - (1 - p + 1e-8).log()


def kl_divergence(
    baseline: Float[Tensor, "rows vocab"], changed: Float[Tensor, "rows vocab"]
) -> Float64[Tensor, " rows"]:
    """Σ p0 (log(p0 + 1e-6) - log(p + 1e-6)) from logits, p0 the baseline, in nats, float64."""
    p0, p = baseline.double().softmax(-1), changed.double().softmax(-1)
    return (p0 * ((p0 + 1e-6).log() - (p + 1e-6).log())).sum(-1)
