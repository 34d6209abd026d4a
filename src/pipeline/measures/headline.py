"""A study's main numbers: every arm at its chosen setting, on the test split."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from pipeline.config.sections import Study
from pipeline.measures.choice import Setting
from pipeline.measures.scores import TEXT_METRIC
from pipeline.measures.statistics import Estimate, estimate, paired_difference


def headline(study: Study, scores: pd.DataFrame, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """For each arm its metric before and after, with 95 % intervals.

    Args:
        study: names arms, metrics and how uncertainty is reckoned.
        scores: the long table of the test split, and of unrelated text; `chosen` marks the
            conditions at their arm's strength and position rule.
        settings: layer, strength and position rule of each arm with strengths.

    Returns:
        arm -> `baseline`; with a setting also that, `steered`, `difference` (paired), `controls`
        (source -> estimate over its draws) and, where unrelated text was read under its rule,
        `perplexity` before and after.
    """
    reported = {}
    for name, arm in study.sweep.arms.items():
        rows = scores[(scores["arm"] == name) & (scores["metric"] == arm.metric)]
        baseline = rows[rows["intervention"] == "none"]
        numbers: dict[str, Any] = {"metric": arm.metric, "goal": arm.goal}
        average = partial(_estimate, study, is_proportion(scores, arm.metric))
        numbers["baseline"] = average(baseline)
        if name in settings:
            setting = settings[name]
            here = rows[rows["chosen"] & (rows["layer"] == setting.layer)]
            steered = here[here["source"] == "fitted"]
            numbers |= asdict(setting) | {
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
            text = scores[(scores["arm"] == name) & (scores["metric"] == TEXT_METRIC)]
            if (text["source"] == "fitted").any():
                numbers["perplexity"] = _perplexity(study, text, setting.layer)
        reported[name] = numbers
    return reported


def is_proportion(scores: pd.DataFrame, metric: str) -> bool:
    """Whether all scores of a metric are 0 or 1, as `summarise` takes it."""
    found = scores.loc[scores["metric"] == metric, "score"].dropna()
    return bool(found.isin([0, 1]).all())


def _estimate(study: Study, proportion: bool, rows: pd.DataFrame) -> dict[str, Any]:
    found = estimate(
        rows["score"], rows[study.score.cluster], proportion=proportion, seed=study.score.seed
    )
    return _plain(found)


def _perplexity(study: Study, text: pd.DataFrame, layer: int) -> dict[str, dict[str, float]]:
    """exp of mean and interval of the texts' mean losses, before and after."""
    rows = {
        "baseline": text[text["intervention"] == "none"],
        "steered": text[(text["layer"] == layer) & (text["source"] == "fitted")],
    }
    found = {
        name: estimate(t["score"], t["sample"], proportion=False, seed=study.score.seed)
        for name, t in rows.items()
    }
    return {
        name: {key: math.exp(getattr(value, key)) for key in ("mean", "low", "high")}
        for name, value in found.items()
    }


def _plain(found: Estimate) -> dict[str, Any]:
    # JSON has no NaN.
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(found).items()
    }
