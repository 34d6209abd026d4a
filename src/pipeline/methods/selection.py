"""Select a direction among candidates (template positions x layers) on the validation split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int
from torch import Tensor

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import RowLogits, score_change, score_last
from pipeline.measures.logits import divergence, summed_log_odds
from pipeline.methods.interventions import Add, ProjectOut
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

CANDIDATE_COLUMNS = ("position", "layer", "refusal_score", "steering_score", "kl_div_score")


@dataclass(frozen=True)
class SelectedDirection:
    """The selected candidate and its three scores."""

    position: int | str
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
) -> SelectedDirection:
    """Select the candidate with the lowest bypass score among those that pass every filter.

    Candidates with a score that is not finite, a layer >= int(layer_share * n_layers), kl > max_kl
    or induce < min_steering are discarded. Ties go to the lower layer, then the later position.

    Args:
        candidates: one row each with `position`, `layer`, `refusal_score` (bypass: mean refusal
            score on harmful prompts, direction projected out), `steering_score` (induce: on
            harmless prompts, direction added) and `kl_div_score` (on harmless prompts, projected
            out vs. baseline).
        n_layers: of the model.
        max_kl: largest admissible KL divergence.
        min_steering: smallest admissible induce score.
        layer_share: only the first layer_share * n_layers layers are eligible.

    Returns:
        The selected candidate.

    Raises:
        ValueError: a missing column, a layer or score that is no number, or no candidate left;
            states how many each filter discards.

    Source: Arditi et al. 2024, code andyrdt/refusal_direction.
    """
    missing = [column for column in CANDIDATE_COLUMNS if column not in candidates]
    if missing:
        raise ValueError(
            f"candidates have no column {missing[0]!r}; needed: {', '.join(CANDIDATE_COLUMNS)}"
        )
    for column in CANDIDATE_COLUMNS[1:]:
        for row, value in enumerate(candidates[column]):
            if isinstance(value, bool) or not isinstance(value, Real | None):
                raise ValueError(f"candidate {row}: {column} is {value!r}, not a number")
            if column == "layer" and value not in range(n_layers):
                raise ValueError(f"candidate {row}: layer {value}; valid: 0 to {n_layers - 1}")
    if not (max_kl >= 0 and min_steering == min_steering and 0 < layer_share <= 1):
        raise ValueError(
            f"max_kl {max_kl}, min_steering {min_steering}, layer_share {layer_share}; valid: "
            "max_kl 0 or more, layer_share above 0 and at most 1"
        )
    scores = candidates[list(CANDIDATE_COLUMNS[2:])].astype(float)
    limit = int(layer_share * n_layers)
    discards = {
        "a score that is not finite": ~np.isfinite(scores).all(axis=1),
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
    position = best["position"]
    return SelectedDirection(
        position=position if isinstance(position, str) else int(position),
        layer=int(best["layer"]),
        refusal_score=float(best["refusal_score"]),
        steering_score=float(best["steering_score"]),
        kl_div_score=float(best["kl_div_score"]),
    )


def evaluate_candidates(
    model: LanguageModel,
    candidates: Mapping[tuple[int | str, int], Tensor],
    *,
    component: str,
    harmful: Sequence[Sequence[int]],
    harmless: Sequence[Sequence[int]],
    refusal_tokens: Int[Tensor, " refusals"],
    batch_tokens: int,
) -> pd.DataFrame:
    """Compute bypass, induce and kl scores of candidates: (position, layer) -> direction [d_model].

    bypass (`refusal_score`): mean log-odds of the refusal tokens (`summed_log_odds`) at the last
    position on harmful prompts, the direction projected out of every block's input, attention
    output and MLP output. induce (`steering_score`): the same on harmless prompts, the direction
    added at `component` of its layer, where it was fitted. kl (`kl_div_score`): mean `divergence`
    from the baseline on harmless prompts, direction projected out.

    Returns:
        One row per candidate with the columns that `select_direction` needs.
    """

    def score(logits: Tensor) -> Tensor:
        return summed_log_odds(logits, refusal_tokens)

    everywhere = [
        Site(layer, component)
        for layer in range(model.n_layers)
        for component in ("resid_pre", "attn_out", "mlp_out")
    ]
    without = [
        Condition(edits=tuple(Edit(site, ProjectOut(direction)) for site in everywhere))
        for direction in candidates.values()
    ]
    added = [
        Condition(edits=(Edit(Site(layer, component), Add(direction)),))
        for (_, layer), direction in candidates.items()
    ]

    def moved(read: RowLogits) -> Tensor:
        return divergence(read.clean(), read.logits())

    run = partial(score_last, model, batch_tokens=batch_tokens)
    kl = score_change(model, harmless, without, moved, batch_tokens=batch_tokens)
    return pd.DataFrame(
        {
            "position": [position for position, _ in candidates],
            "layer": [layer for _, layer in candidates],
            "refusal_score": run(harmful, without, score).mean(1).numpy(),
            "steering_score": run(harmless, added, score).mean(1).numpy(),
            "kl_div_score": kl.mean(1).numpy(),
        }
    )


def keep_clear(
    dataset: pd.DataFrame, scores: Float64[Tensor, " rows"], *, harmful: str
) -> pd.DataFrame:
    """Keep prompts that the model treats as labelled: refusal score > 0 if harmful, else < 0."""
    refused = scores.numpy() > 0
    answered = scores.numpy() < 0
    return dataset[np.where(dataset["label"] == harmful, refused, answered)]
