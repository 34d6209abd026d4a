"""Fit steering vectors in other ways than by means: paired differences, logistic regression."""

from functools import partial
from typing import Any

import pandas as pd

from pipeline.config.declared import Label
from pipeline.methods.directions import Directions
from pipeline.methods.steering_vectors import CONTROLS, vectors_by_layer
from pipeline.methods.vectors import logistic_direction, principal_direction
from pipeline.store.store import ActivationStore


def principal_vectors(
    store: ActivationStore,
    prompts: pd.DataFrame,
    *,
    component: str,
    positive: Label,
    negative: Label,
    pairs: str = "pair",
    position: Any = -1,
    controls: dict[str, int] = CONTROLS,
    seed: int = 0,
) -> Directions:
    """Fit the first principal direction of paired differences at every layer, with controls.

    See `vectors.principal_direction`: of the norm of the mean difference, on its side. The labels
    decide nothing but its sign. Source: Zou et al. 2023.

    Args:
        store: activations of `component` at all layers.
        prompts: the dataset, with labels.
        component: such as `resid_pre`.
        positive: the label that the direction points to.
        negative: the label that it points away from.
        pairs: column whose values each name one train prompt of either label.
        position: as of `steering_vectors`.
        controls: kind -> number of draws; `shuffled` is this fit with permuted labels.
        seed: of the controls.

    Raises:
        ValueError: as `steering_vectors`; as `fitting.check_pairs`.
    """
    return vectors_by_layer(
        store,
        prompts,
        principal_direction,
        "principal direction of paired differences",
        component=component,
        positive=positive,
        negative=negative,
        position=position,
        controls=controls,
        seed=seed,
        pairs=pairs,
    )


def logistic_vectors(
    store: ActivationStore,
    prompts: pd.DataFrame,
    *,
    component: str,
    positive: Label,
    negative: Label,
    penalty: float = 1.0,
    position: Any = -1,
    controls: dict[str, int] = CONTROLS,
    seed: int = 0,
) -> Directions:
    """Fit the weight of a logistic regression of the label at every layer, with controls.

    See `vectors.logistic_direction`: of the norm of the mean difference, for states as they are.

    Args:
        store: activations of `component` at all layers.
        prompts: the dataset, with labels.
        component: such as `resid_pre`.
        positive: the label that the direction points to.
        negative: the label that it points away from.
        penalty: of the squared weight of standardised states, see `probes.fitting`.
        position: as of `steering_vectors`.
        controls: kind -> number of draws; `shuffled` is this fit with permuted labels.
        seed: of the controls.

    Raises:
        ValueError: as `steering_vectors`; a penalty that is not above 0.
    """
    return vectors_by_layer(
        store,
        prompts,
        partial(logistic_direction, penalty=penalty),
        f"logistic regression, penalty {penalty:g}",
        component=component,
        positive=positive,
        negative=negative,
        position=position,
        controls=controls,
        seed=seed,
    )
