"""Compute a study's headline numbers: every arm at its chosen setting, on the test split."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import pandas as pd

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL, CURVE
from pipeline.measures.scale import TEXT_METRIC, Scale
from pipeline.measures.scores import TEXT
from pipeline.measures.settings import Setting
from pipeline.measures.statistics import Estimate, estimate, paired_difference


def headline(
    scores: pd.DataFrame,
    arms: Mapping[str, tuple[str, str | None]],
    settings: Mapping[str, Setting],
    scales: Mapping[str, Scale],
    *,
    cluster: str,
    seed: int,
) -> dict[str, Any]:
    """Estimate each arm's metric at baseline and at its chosen setting, with 95 % intervals.

    Args:
        scores: of the test split and of unrelated text, joined with prompts and conditions;
            `at_setting` marks the conditions in an arm's comparison.
        arms: name -> metric and goal.
        settings: chosen setting by arm, for arms that have one.
        scales: by metric.
        cluster: the column whose values are resampled together.
        seed: of the bootstrap.

    Returns:
        arm -> `baseline`; for arms with a setting also `setting`, `tied` of `candidates`,
        `steered`, `difference` (paired), `controls` (source -> `draws`, the mean of each draw, and
        `mean`, theirs) and, if unrelated text was run under that condition, `perplexity` for
        baseline and steered. A control has no interval: draws differ far more than resampled
        prompts would tell.
    """
    reported = {}
    for name, (metric, goal) in arms.items():
        of_arm = scores[scores["arm"] == name]
        rows = of_arm[of_arm["metric"] == metric]
        baseline = rows[rows["role"] == BASELINE]
        scale = scales[metric]
        average = partial(_estimate, scale=scale, cluster=cluster, seed=seed)
        numbers: dict[str, Any] = {
            "metric": metric,
            "unit": "%" if scale.percent else scale.unit,
            "goal": goal,
            "baseline": average(baseline),
        }
        if name in settings:
            setting = settings[name]
            steered = rows[rows["condition"] == setting.condition]
            controls = rows[(rows["role"] == CONTROL) & rows["at_setting"]]
            if "layer" in setting.axes:
                controls = controls[controls["layer"] == setting.axes["layer"]]
            numbers |= {
                "setting": {k: v for k, v in setting.axes.items() if k not in _IMPLIED},
                "chosen_by": setting.chosen_by,
                "tied": setting.tied,
                "candidates": setting.candidates,
                "conditions": {
                    "baseline_id": baseline["condition"].iloc[0],
                    "steered_id": setting.condition,
                },
                "steered": average(steered),
                "difference": _plain(
                    paired_difference(
                        steered, baseline, cluster=cluster, share=scale.share, seed=seed
                    )
                ),
                "controls": {source: _draws(drawn) for source, drawn in _by_source(controls)},
            }
            texts = of_arm[of_arm["metric"] == TEXT_METRIC]
            if (texts["condition"] == setting.condition).any():
                numbers["perplexity"] = {
                    "baseline": _perplexity(texts[texts["role"] == BASELINE], seed),
                    "steered": _perplexity(texts[texts["condition"] == setting.condition], seed),
                }
        reported[name] = numbers
    return reported


def means_of(reported: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Reduce headline numbers to the means of each arm, rounded, for tables of many runs."""
    return {
        arm: {
            side: None if numbers[side]["mean"] is None else round(numbers[side]["mean"], 4)
            for side in ("baseline", "steered")
            if side in numbers
        }
        for arm, numbers in reported.items()
    }


_IMPLIED = ("arm", "intervention", "source", "draw")
"""Axes that are already given by the arm."""


def _by_source(controls: pd.DataFrame) -> Any:
    return controls.groupby("source") if len(controls) else ()


def _draws(rows: pd.DataFrame) -> dict[str, Any]:
    means = rows.groupby("condition", sort=False)["score"].mean()
    draws = [None if math.isnan(mean) else mean for mean in means]
    return {"mean": None if means.isna().all() else float(means.mean()), "draws": draws}


def _estimate(rows: pd.DataFrame, *, scale: Scale, cluster: str, seed: int) -> dict[str, Any]:
    options: dict[str, Any] = {"within": (0.0, 1.0)} if scale.percent else {}
    found = estimate(rows["score"], rows[cluster], proportion=scale.share, seed=seed, **options)
    return _plain(found)


def _perplexity(texts: pd.DataFrame, seed: int) -> dict[str, float]:
    """Return exp of the mean and interval of the texts' mean losses."""
    loss = estimate(
        texts["score"], texts["sample"], proportion=False, seed=seed, within=(0.0, math.inf)
    )
    return {key: math.exp(getattr(loss, key)) for key in ("mean", "low", "high")}


def _plain(result: Estimate) -> dict[str, Any]:
    # JSON has no NaN.
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in asdict(result).items()
    }


def curves_by_layer(summary: pd.DataFrame) -> pd.DataFrame:
    """Tabulate the means at the chosen settings, one row per layer and one column per curve.

    A curve is `ARM/METRIC`, with `/LABEL` and `/SPLIT` after the arm if its prompts have several.
    """
    shown = summary["at_setting"] & summary["role"].isin([CANDIDATE, CURVE])
    if "layer" not in summary or not shown.any():
        return pd.DataFrame(columns=["layer"])
    rows = summary[shown]
    of_prompts = rows["split"] != TEXT
    names = rows["arm"]
    for column in ("label", "split"):
        counts = rows[of_prompts].groupby("arm")[column].nunique()
        several = of_prompts & rows["arm"].map(counts).gt(1)
        names = names + ("/" + rows[column]).where(several, "")
    curves = rows.assign(curve=names + "/" + rows["metric"])
    return curves.pivot(index="layer", columns="curve", values="mean").reset_index()
