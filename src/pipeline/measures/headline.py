"""A study's main numbers: chosen on the validation split, reported on the test split."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from pipeline.measures.statistics import Estimate, estimate, paired_difference
from pipeline.sections import Arm, Study


def headline(
    study: Study, summary: pd.DataFrame, scores: pd.DataFrame, choice: Mapping[str, Any]
) -> dict[str, Any]:
    """For each arm: the layer taken, and its metric before and after, with 95 % intervals.

    The layer is the one that `vectors.selection` chose; without one, or if the sweep left it out,
    the layer whose reference strength moves the arm's metric furthest towards its goal on
    validation prompts.

    Args:
        study: names arms, metrics and how uncertainty is reckoned.
        summary: means by condition, split and metric.
        scores: the long table that it averages.
        choice: `position` and `layer` of the vectors stage.

    Returns:
        arm -> `baseline`; with strengths also `layer`, `strength`, `steered`, `difference`
        (paired), `controls` (source -> estimate over its draws) and, where unrelated text was
        read, `perplexity` before and after.
    """
    reported = {}
    for name, arm in study.sweep.arms.items():
        rows = scores[(scores["arm"] == name) & (scores["metric"] == arm.metric)]
        tested = rows[rows["split"] == "test"]
        baseline = tested[tested["intervention"] == "none"]
        numbers: dict[str, Any] = {"metric": arm.metric, "goal": arm.goal}
        average = partial(_estimate, study, is_proportion(scores, arm.metric))
        numbers["baseline"] = average(baseline)
        if arm.reference is not None:
            layer, chosen_by = choice["layer"], "selection"
            if layer is None or layer not in set(tested["layer"].dropna()):
                layer = best_layer(arm, summary[summary["arm"] == name])
                chosen_by = "validation"
            here = tested[
                (tested["layer"] == layer)
                & (tested["strength"] == arm.reference)
                & (tested["positions"] == arm.positions[0])
            ]
            steered = here[here["source"] == "fitted"]
            numbers |= {
                "layer": int(layer),
                "chosen_by": chosen_by,
                "strength": arm.reference,
                "conditions": {
                    "baseline_id": baseline["condition"].iloc[0],
                    "steered_id": steered["condition"].iloc[0],
                },
                "steered": average(steered),
                "difference": _plain(
                    paired_difference(
                        steered, baseline, cluster=study.score.cluster, seed=study.score.seed
                    )
                ),
                "controls": {
                    source: average(drawn)
                    for source, drawn in here[here["source"] != "fitted"].groupby("source")
                },
            }
            text = scores[(scores["arm"] == name) & (scores["metric"] == "cross_entropy")]
            if len(text):
                numbers["perplexity"] = _perplexity(text, layer)
        reported[name] = numbers
    return reported


def best_layer(arm: Arm, summary: pd.DataFrame) -> int:
    """The layer that moves the arm's metric furthest towards its goal on validation prompts.

    Among fitted directions at the reference strength and first position rule; the lowest on ties.

    Raises:
        ValueError: nothing was run on the validation split.
    """
    rows = summary[
        (summary["split"] == "val")
        & (summary["source"] == "fitted")
        & (summary["metric"] == arm.metric)
        & (summary["strength"] == arm.reference)
        & (summary["positions"] == arm.positions[0])
    ]
    if rows.empty:
        raise ValueError("no layer can be chosen: the sweep has no rows on the val split")
    ordered = rows.sort_values(["mean", "layer"], ascending=[arm.goal == "lower", True])
    return int(ordered["layer"].iloc[0])


def is_proportion(scores: pd.DataFrame, metric: str) -> bool:
    """Whether all scores of a metric are 0 or 1, as `summarise` takes it."""
    found = scores.loc[scores["metric"] == metric, "score"].dropna()
    return bool(found.isin([0, 1]).all())


def _estimate(study: Study, proportion: bool, rows: pd.DataFrame) -> dict[str, Any]:
    found = estimate(
        rows["score"], rows[study.score.cluster], proportion=proportion, seed=study.score.seed
    )
    return _plain(found)


def _perplexity(text: pd.DataFrame, layer: int) -> dict[str, float]:
    means = {
        "baseline": text.loc[text["intervention"] == "none", "score"].mean(),
        "steered": text.loc[
            (text["layer"] == layer) & (text["source"] == "fitted"), "score"
        ].mean(),
    }
    return {name: math.exp(value) for name, value in means.items()}


def _plain(found: Estimate) -> dict[str, Any]:
    # JSON has no NaN.
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(found).items()
    }
