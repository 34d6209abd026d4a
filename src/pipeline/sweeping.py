"""A study's sweep: what its conditions do, and the tables that running them makes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor

from pipeline.completing import COLUMNS, complete, decoding_of
from pipeline.config.sections import Study
from pipeline.config.study import target
from pipeline.data.positions import resolve
from pipeline.forward import score_logits
from pipeline.grid import Part, chosen_layers, with_edits
from pipeline.methods.directions import Key
from pipeline.model.loading import LanguageModel


def swept_layers(study: Study, n_layers: int, directions: Mapping[Key, Tensor]) -> list[int]:
    """The layers of the sweep that have a direction.

    Raises:
        ValueError: a layer that the study names has none.
    """
    fitted = sorted(key.layer for key in directions if key.source == "fitted")
    if study.sweep.layers == "all":
        return fitted
    layers = chosen_layers(study, n_layers)
    for layer in layers:
        if layer not in fitted:
            raise ValueError(f"sweep.layers: no direction at layer {layer}; valid: {fitted}")
    return layers


def with_directions(
    study: Study,
    model: LanguageModel,
    dataset: pd.DataFrame,
    parts: Sequence[Part],
    directions: Mapping[Key, Tensor],
) -> list[Part]:
    """The parts with what their conditions do in a model, and where in each of their prompts."""
    found = []
    by_sample = dataset.set_index("sample", drop=False)
    for part in parts:
        arm = study.sweep.arms[part.arm]
        prompts = by_sample.loc[list(part.samples)]
        rules = {
            name: resolve(prompts, model.tokenizer, rule, variables=study.model.template)
            for name, rule in arm.rules.items()
        }
        conditions = [
            with_edits(condition, arm, directions, model.n_layers, rules)
            for condition in part.conditions
        ]
        found.append(replace(part, conditions=tuple(conditions)))
    return found


def run_parts(
    study: Study, model: LanguageModel, dataset: pd.DataFrame, parts: Sequence[Part], work: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Completions of every prompt under every condition, and the long table of logit metrics.

    Each has its columns but no row where the study asks for none of its kind.
    """
    batch_tokens = study.model.batch_tokens
    completions = pd.DataFrame(columns=COLUMNS)
    if study.sweep.decoding is not None:
        completions = complete(
            model,
            dataset,
            parts,
            work,
            decoding=decoding_of(study),
            seed=study.sweep.seed,
            batch_tokens=batch_tokens,
        )
    metrics = {name: target(node) for name, node in study.sweep.logit_metrics.items()}
    logits = score_logits(model, dataset, parts, metrics, work, batch_tokens=batch_tokens)
    return completions, logits
