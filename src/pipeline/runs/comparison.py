"""Compare the outputs of two runs, prompt by prompt where both have the same prompts."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline.config.study import config_file, load_study
from pipeline.data.roles import BASELINE
from pipeline.measures.scale import TEXT_METRIC
from pipeline.measures.statistics import Estimate, paired_difference
from pipeline.runs.outputs import find_output
from pipeline.runs.records import Comparison, compare, flatten, read_runs

NEGLIGIBLE = 1e-9
"""Differences that vary less than this, in parts of their mean if above 1, are taken as equal."""
SIDES = {"baseline": "baseline_id", "steered": "steered_id"}


class Paired(NamedTuple):
    """The mean difference of pairs of scores, and how many of the scored pairs differ at all."""

    difference: Estimate
    differing: int


def compare_named(root: Path, a: str, b: str) -> Comparison:
    """Compare two runs by name: studies, ids that `actsweep run` prints, or DVC experiments.

    An experiment is known by its run record alone, and is taken as independent.

    Raises:
        ValueError: an unknown name, or the same run twice.
    """
    experiments = {
        run["experiment"]: {"config": run["config"], "summary": run["summary"]}
        for run in read_runs(root)
        if run["experiment"] and run["stage"] == "score_metrics" and run["status"] == "finished"
    }
    folders = {name: find_output(root, name) for name in (a, b) if name not in experiments}
    if a == b or (len(folders) == 2 and folders[a] == folders[b]):
        raise ValueError(f"{a} and {b} are the same run")
    if len(folders) == 2:
        return compare_outputs(folders[a], folders[b])
    records = [experiments.get(name) or _record(folders[name]) for name in (a, b)]
    comparison = compare(*records)
    named = next(name for name in (a, b) if name in experiments)
    note = (
        f"{named} is known by its record alone, so that nothing is paired; `dvc exp apply {named}` "
        "brings its scores into outputs"
    )
    return Comparison(comparison.config, comparison.summary.assign(paired=False), note)


def compare_outputs(a: Path, b: Path) -> Comparison:
    """Compare the configs and headline numbers of two output folders.

    As `records.compare`, but a number of the same instructions in both runs has the interval of
    its paired difference: for one arm, metric and side, the scores of the same sample and repeat.
    `differ` counts the pairs that are not equal. If none is, or all differ by the same, resampling
    them has no spread, and there is no interval.

    Args:
        a: output folder of one run.
        b: of the other.

    Raises:
        ValueError: a run without headline numbers.
    """
    records = _record(a), _record(b)
    comparison = compare(*records)
    paired = dict(_paired(a, b, *(record["summary"] for record in records)))
    summary = comparison.summary
    summary["paired"] = summary["key"].isin(list(paired))
    summary["differ"] = ""
    for key, (found, differing) in paired.items():
        row = summary["key"] == key
        low, high, excludes = found.low, found.high, found.low > 0 or found.high < 0
        if not differing or high - low <= NEGLIGIBLE * max(1.0, abs(found.mean)):
            low, high, excludes = math.nan, math.nan, pd.NA if differing else False
        columns = ["difference", "low", "high", "excludes_zero", "differ"]
        counted = f"{differing} of {found.n}"
        summary.loc[row, columns] = [found.mean, low, high, excludes, counted]
    return Comparison(comparison.config, summary, _beside_the_config(a, b))


def _beside_the_config(a: Path, b: Path) -> str:
    """Name the stages and fits whose code or files of data differ between runs of a study."""
    studies = [load_study(config_file(folder)) for folder in (a, b)]
    if studies[0].name != studies[1].name:
        return ""
    first, second = (flatten(study.code) for study in studies)
    differing = [name for name in first if name in second and first[name] != second[name]]
    if not differing:
        return ""
    return f"the code, or a file of data, has changed in between for: {', '.join(differing)}"


def _record(folder: Path) -> dict[str, Any]:
    numbers = folder / "headline.json"
    if not numbers.is_file():
        raise ValueError(f"{folder.name} has no numbers to compare: {numbers.name} is not there")
    config = load_study(config_file(folder)).sections
    return {"config": config, "summary": json.loads(numbers.read_text())}


def _paired(
    a: Path, b: Path, numbers: Mapping[str, Any], others: Mapping[str, Any]
) -> Iterator[tuple[str, Paired]]:
    """Yield the paired difference of every number that both runs have on the same prompts."""
    scores, other_scores = (_scores(folder) for folder in (a, b))
    losses = [_losses(folder) for folder in (a, b)]
    texts, other_texts = (pd.read_parquet(folder / "texts.parquet") for folder in (a, b))
    same_texts = texts.equals(other_texts)
    score = load_study(config_file(a)).score
    shares = pd.read_parquet(a / "summary.parquet").groupby("metric")["share"].first()
    for arm in numbers:
        metric = numbers[arm]["metric"]
        if arm not in others or others[arm]["metric"] != metric:
            continue
        alike = {}
        for side, key in SIDES.items():
            steered = side == "steered"
            if side not in numbers[arm] or side not in others[arm]:
                continue
            rows, other_rows = (
                _of(table, arm, metric, each[arm].get("conditions", {}).get(key))
                for table, each in ((scores, numbers), (other_scores, others))
            )
            if _alike(rows, other_rows):
                alike[side] = rows, other_rows
                found = paired_difference(
                    other_rows,
                    rows,
                    cluster=score.cluster,
                    share=bool(shares[metric]),
                    seed=score.seed,
                )
                yield f"{arm}.{side}", Paired(found, _differing(other_rows, rows))
            of_texts = [
                _of(table, arm, TEXT_METRIC, each[arm]["conditions"][key] if steered else None)
                for table, each in zip(losses, (numbers, others), strict=True)
                if "perplexity" in each[arm]
            ]
            if len(of_texts) == 2 and same_texts:
                rise = _of_perplexities(*of_texts, seed=score.seed)
                yield f"{arm}.perplexity.{side}", Paired(rise, _differing(*of_texts))
        if len(alike) == len(SIDES):
            changes = [
                _change(*pair) for pair in zip(alike["steered"], alike["baseline"], strict=True)
            ]
            found = paired_difference(
                changes[1], changes[0], cluster=score.cluster, share=False, seed=score.seed
            )
            yield f"{arm}.difference", Paired(found, _differing(*changes))


def _of_perplexities(losses: pd.DataFrame, other_losses: pd.DataFrame, *, seed: int) -> Estimate:
    """Estimate P_b - P_a = P_a (e^d - 1), d the mean difference of the texts' losses, paired."""
    rise = paired_difference(other_losses, losses, cluster="sample", share=False, seed=seed)
    before = math.exp(losses["score"].mean())
    mean, low, high = (before * math.expm1(value) for value in (rise.mean, rise.low, rise.high))
    return replace(rise, mean=mean, low=low, high=high)


def _differing(a: pd.DataFrame, b: pd.DataFrame) -> int:
    """Count the scored pairs of (sample, repeat) whose scores are not equal."""
    first, second = (table.set_index(["sample", "repeat"])["score"] for table in (a, b))
    return int(np.count_nonzero((first - second).dropna()))


def _change(steered: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Subtract the scores of the same sample and repeat."""
    keys = ["sample", "repeat"]
    pairs = steered.merge(baseline[[*keys, "score"]], on=keys, suffixes=("", "_baseline"))
    return pairs.assign(score=pairs["score"] - pairs["score_baseline"])


def _scores(folder: Path) -> pd.DataFrame:
    """Read the scores of prompts, with their instructions and topics."""
    scores = _with_arms(folder)
    prompts = pd.read_parquet(folder / "dataset.parquet")
    return scores[scores["metric"] != TEXT_METRIC].merge(prompts, on="sample")


def _losses(folder: Path) -> pd.DataFrame:
    """Read the losses of the study's texts, whose samples are their own."""
    scores = _with_arms(folder)
    return scores[scores["metric"] == TEXT_METRIC]


def _with_arms(folder: Path) -> pd.DataFrame:
    conditions = pd.read_parquet(folder / "conditions.parquet")[["condition", "arm", "role"]]
    scores = pd.read_parquet(folder / "scores.parquet").drop(columns="split")
    return scores.merge(conditions, on="condition")


def _of(scores: pd.DataFrame, arm: str, metric: str, condition: str | None) -> pd.DataFrame:
    """Select an arm's scores under a condition; under its baseline if None."""
    rows = scores[(scores["arm"] == arm) & (scores["metric"] == metric)]
    is_side = rows["role"] == BASELINE if condition is None else rows["condition"] == condition
    return rows[is_side]


def _alike(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two tables have the same instructions under the same samples and repeats."""
    keys = ["sample", "repeat", "instruction"]
    first, second = (table[keys].sort_values(keys[:2]).to_numpy().tolist() for table in (a, b))
    return bool(first) and first == second
