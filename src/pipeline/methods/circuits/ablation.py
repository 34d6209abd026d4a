"""Ablate every head and every MLP by itself."""

from collections.abc import Iterator
from typing import Annotated

import pandas as pd

from pipeline.config.declared import OneOf
from pipeline.engine.conditions import Condition
from pipeline.methods.circuits.components import (
    ABLATIONS,
    POSITIONS,
    ablations,
    axes_of,
    components,
)
from pipeline.model.loading import LanguageModel


def ablated_components(
    model: LanguageModel,
    prompts: pd.DataFrame,
    *,
    ablation: Annotated[str, OneOf(*ABLATIONS)],
    positions: Annotated[str, OneOf(*POSITIONS)] = "all",
) -> Iterator[Condition]:
    """Yield a condition for every head and MLP: its output is replaced at all tokens of the prompt.

    Args:
        model: the model.
        prompts: the prompts of the run, with `answer`, `foil` and `corrupted`.
        ablation: `zero`, `mean`, `mean_by_position` or `patched`; see `components.ABLATIONS`.
        positions: `all`, or `after_first`, without the first token.

    Yields:
        Conditions with the axes `layer`, `component` (`head 3`, `mlp`), `ablation`, `positions`.

    Raises:
        ValueError: as `components.ablations`.

    Source: Wang et al. 2023, "Interpretability in the wild" (indirect objects, mean ablation).
    """
    edits = ablations(model, prompts, components(model), ablation=ablation, positions=positions)
    named = {"ablation": ablation, "positions": positions}
    for site, edit in edits.items():
        yield Condition({**axes_of(site), **named}, (edit,))
