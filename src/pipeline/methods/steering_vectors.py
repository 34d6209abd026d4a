"""Fit steering vectors: difference of means, and one direction selected among candidates."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.config.declared import Label, Range
from pipeline.data.prompts import select_prompts
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_last
from pipeline.measures.logits import summed_log_odds
from pipeline.methods.directions import Directions
from pipeline.methods.fitting import Classes, with_controls
from pipeline.methods.provenance import Provenance
from pipeline.methods.selection import evaluate_candidates, keep_clear, select_direction
from pipeline.methods.vectors import FitDirection, difference_of_means
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import single_tokens
from pipeline.store.store import ActivationStore

log = logging.getLogger(__name__)

CONTROLS = {"shuffled": 3, "covariance": 3, "isotropic": 3}
"""Default number of draws per kind of control direction: see `vectors.control_direction`."""


def steering_vectors(
    store: ActivationStore,
    prompts: pd.DataFrame,
    *,
    component: str,
    positive: Label,
    negative: Label,
    position: Any = -1,
    controls: dict[str, int] = CONTROLS,
    seed: int = 0,
) -> Directions:
    """Fit the difference of means of two labels at every layer, with control directions.

    mean(positive) - mean(negative) of the train split's activations at one position, in float64,
    not normalised. Source: Marks and Tegmark 2023; Rimsky et al. 2024.

    Args:
        store: activations of `component` at all layers.
        prompts: the dataset, with labels.
        component: such as `resid_pre`.
        positive: the label that the direction points to.
        negative: the label that it points away from.
        position: from the prompt's end (-1 is its last token); or `subject`, or `answer` (the
            answer's first token), if these were collected.
        controls: kind -> number of draws, see `vectors.control_direction`.
        seed: of the controls.

    Raises:
        ValueError: a label without prompts, a position that was not collected, or controls that
            cannot be drawn.
    """
    return vectors_by_layer(
        store,
        prompts,
        difference_of_means,
        "difference of means",
        component=component,
        positive=positive,
        negative=negative,
        position=position,
        controls=controls,
        seed=seed,
    )


def selected_direction(
    model: LanguageModel,
    store: ActivationStore,
    prompts: pd.DataFrame,
    *,
    component: str,
    positive: Label,
    negative: Label,
    refusal_tokens: list[str],
    max_kl: Annotated[float, Range(0)] = 0.1,
    min_steering: float = 0.0,
    layer_share: float = 0.8,
    controls: dict[str, int] = CONTROLS,
    seed: int = 0,
) -> Directions:
    """Fit a direction at every collected position and layer, and select one by bypass, induce, KL.

    Only prompts that the model refuses or answers as labelled are used. The result has the
    directions of all layers at the selected position. Source: Arditi et al. 2024; see `selection`.

    Args:
        model: scores the candidates on the val split.
        store: activations of `component` at all layers.
        prompts: the dataset, with labels.
        component: such as `resid_pre`.
        positive: the label that the model refuses.
        negative: the label that it answers.
        refusal_tokens: single tokens that begin a refusal.
        max_kl: see `selection.select_direction`.
        min_steering: see `selection.select_direction`.
        layer_share: see `selection.select_direction`.
        controls: kind -> number of draws.
        seed: of the controls.

    Raises:
        ValueError: as `steering_vectors`; a word that is not a single token; no prompt or candidate
            passes the filters.
    """
    ids = torch.tensor(single_tokens(model.tokenizer, refusal_tokens), device=model.device)
    clear = _clear(model, prompts, ids, refusal_tokens, (positive, negative))
    classes = train_classes(store, clear, positive, negative, component)
    candidates = _directions(
        classes, classes.positions, difference_of_means, f"{positive} - {negative}"
    )
    val = clear[clear["split"] == "val"]
    scores = evaluate_candidates(
        model,
        candidates,
        component=component,
        harmful=select_prompts(val, positive)["tokens"].tolist(),
        harmless=select_prompts(val, negative)["tokens"].tolist(),
        refusal_tokens=ids,
        batch_tokens=model.batch_tokens,
    )
    choice = select_direction(
        scores,
        n_layers=model.n_layers,
        max_kl=max_kl,
        min_steering=min_steering,
        layer_share=layer_share,
    )
    fitted = {
        layer: v for (position, layer), v in candidates.items() if position == choice.position
    }
    return Directions(
        with_controls(classes, fitted, position=choice.position, draws=controls, seed=seed),
        component,
        choice.position,
        _provenance(store, component, f"selected difference of means, {positive} - {negative}"),
        asdict(choice),
        scores,
    )


def vectors_by_layer(
    store: ActivationStore,
    prompts: pd.DataFrame,
    fit: FitDirection,
    how: str,
    *,
    component: str,
    positive: str,
    negative: str,
    position: int | str,
    controls: Mapping[str, int],
    seed: int,
    pairs: str | None = None,
) -> Directions:
    """Fit a direction at every layer by a function of the two classes, with control directions.

    `how` names the fit in the provenance. With `pairs`, `fit` gets rows in that column's order.

    Raises:
        ValueError: as `steering_vectors`; as `fitting.check_pairs`.
    """
    classes = train_classes(store, prompts, positive, negative, component, pairs)
    fitted = _directions(classes, [position], fit, f"{positive} - {negative}")
    return Directions(
        with_controls(
            classes,
            {layer: direction for (_, layer), direction in fitted.items()},
            position=position,
            draws=controls,
            seed=seed,
            fit=fit,
        ),
        component,
        position,
        _provenance(store, component, f"{how}, {positive} - {negative}"),
    )


def train_classes(
    store: ActivationStore,
    prompts: pd.DataFrame,
    positive: str,
    negative: str,
    component: str,
    pairs: str | None = None,
) -> Classes:
    """Read the classes of the train split; a store may also hold other splits, for readings."""
    train = prompts[prompts["split"] == "train"]
    return Classes(
        store, train, positive=positive, negative=negative, component=component, pairs=pairs
    )


def _directions(
    classes: Classes, positions: list[int | str], fit: FitDirection, labels: str
) -> dict[tuple[int | str, int], Tensor]:
    """Fit the direction at every (position, layer) at which the two labels differ."""
    directions = {
        (position, layer): fit(*classes.at(position, layer))
        for position in positions
        for layer in classes.layers
    }
    degenerate = [candidate for candidate, direction in directions.items() if not direction.any()]
    if degenerate:
        layers = {
            position: ", ".join(str(layer) for at, layer in degenerate if at == position)
            for position, _ in degenerate
        }
        places = "; ".join(f"position {at}, layer {listed}" for at, listed in layers.items())
        log.warning(
            "%s: no direction where all prompts have the same activation, left out: %s; this is "
            "expected where they have the same template token before the first attention",
            labels,
            places,
        )
    return {
        candidate: direction
        for candidate, direction in directions.items()
        if candidate not in degenerate
    }


def _clear(
    model: LanguageModel,
    prompts: pd.DataFrame,
    refusals: Tensor,
    words: list[str],
    labels: tuple[str, str],
) -> pd.DataFrame:
    """Filter train and validation prompts to those the model refuses or answers as labelled."""
    used = prompts[prompts["split"].isin(["train", "val"])]
    scores = score_last(
        model,
        used["tokens"].tolist(),
        [Condition()],
        lambda logits: summed_log_odds(logits, refusals),
        batch_tokens=model.batch_tokens,
    )[0]
    clear = keep_clear(used, scores, harmful=labels[0])
    verbs = dict(zip(labels, ("refuses", "answers"), strict=True))
    sizes, passed = (frame.groupby(["label", "split"]).size() for frame in (used, clear))
    counts = {
        (label, split): (passed.get((label, split), 0), sizes.get((label, split), 0))
        for label in labels
        for split in ("train", "val")
    }
    if not all(count for count, _ in counts.values()):
        listed = "; ".join(
            f"it {verbs[label]} {count} of {size} {label} prompts of {split}"
            for (label, split), (count, size) in counts.items()
        )
        raise ValueError(
            f"the model leaves nothing to fit a direction to, by whether {words} begin its answer: "
            f"{listed}"
        )
    return clear


def _provenance(store: ActivationStore, component: str, how: str) -> Provenance:
    fingerprint = store.fingerprint
    sites = tuple(site for site in fingerprint.sites if site.endswith(component))
    return Provenance(fingerprint.model, fingerprint.template, fingerprint.dataset, sites, how)
