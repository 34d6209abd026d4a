"""Read and compare the records of runs, without W&B."""

import json
import re
import shlex
from collections.abc import Mapping
from math import nan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from pipeline.config.sections import Study
from pipeline.config.study import compose_study

RUNS = Path(".actsweep/runs")
ESTIMATE = ("mean", "low", "high")
ABSENT = (nan, nan, nan)


class Comparison(NamedTuple):
    """Two runs side by side.

    Attributes:
        config: columns `key`, `a` and `b`, a row per setting that differs; NA if missing.
        summary: columns `key`, `a`, `b` and `difference` = b - a. If both are estimates with an
            interval, also `low` and `high` of the difference and whether it `excludes_zero`. NaN
            if a number is missing.
        note: why numbers are not paired, or what differs besides the settings, if there is
            anything to tell.
    """

    config: pd.DataFrame
    summary: pd.DataFrame
    note: str = ""


def run_file(root: Path, study: str, study_id: str, stage: str) -> Path:
    """Return the path of a stage's run record."""
    return root / RUNS / study / study_id / f"{stage}.json"


def take_record(root: Path, study: str, source: str, target: str, stage: str) -> list[str]:
    """Copy the record of a stage that a run has taken from another; return its warnings."""
    file = run_file(root, study, source, stage)
    if not file.is_file():
        return []
    record = json.loads(file.read_text()) | {"study_id": target, "taken_from": source}
    copy = run_file(root, study, target, stage)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(json.dumps(record, indent=1) + "\n")
    warnings: list[str] = record["summary"].get("warnings", [])
    return warnings


def read_runs(root: Path) -> list[dict[str, Any]]:
    """Read all records under `root`, sorted by start time."""
    records = [json.loads(path.read_text()) for path in (root / RUNS).glob("*/*/*.json")]
    return sorted(records, key=lambda record: (record["started"], record["study"], record["stage"]))


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested settings into one dict with dotted keys; lists are not flattened."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": item for inner, item in flatten(value).items()}
        else:
            flat[key] = value
    return flat


_NODES = ("fits", "sweep.arms", "sweep.logit_metrics", "readings", "score.metrics", "figures")
"""Sections of nodes, which a run may leave out one by one."""


def _nodes(config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """Return the nodes of a section by name; none if the study has no such section."""
    for part in section.split("."):
        config = config.get(part) or {}
    return config


def overrides_of(study: Study, default: Study, model: str | None = None) -> list[str]:
    """List the overrides that turn a study's file into this run of it.

    Args:
        study: the run's config.
        default: the file's.
        model: name of a file of conf/model that the run's model is from.
    """
    ran, as_is = (
        flatten({k: v for k, v in each.sections.items() if k not in ("model", "tracking")})
        for each in (study, default)
    )
    changed = [
        _word(f"{key}={_written(value)}")
        for key, value in ran.items()
        # A mapping that is left out altogether has no key of its own in the file's config.
        if as_is.get(key, as_is) != value
        and value != {}
        # Arms take their layers from the sweep's.
        and (key == "sweep.layers" or value != ran.get("sweep.layers", ran))
    ]
    for section in _NODES:
        if study.config[section.partition(".")[0]] is None:
            continue
        ours, theirs = (_nodes(each.config, section) for each in (study, default))
        changed += [f"~{section}.{name}" for name in theirs if name not in ours]
    if study.model.path == default.model.path:
        return changed
    return [f"model={model}" if model else f"model=local model.path={study.model.path}", *changed]


def shortest_overrides(study: Study, root: Path, model: str | None = None) -> list[str]:
    """List the overrides of a run, with a file of conf/dataset in place of its options if shorter.

    Args:
        study: the run's config.
        root: the project.
        model: see `overrides_of`.
    """
    default = compose_study(study.name, root=root)
    choices = [overrides_of(study, default, model)]
    if study.dataset != default.dataset:
        for file in sorted((root / "conf" / "dataset").glob("*.yaml")):
            if yaml.safe_load(file.read_text())["_target_"] != study.dataset["_target_"]:
                continue
            named = f"dataset={file.stem}"
            try:
                other = compose_study(study.name, [named], root=root)
            except ValueError:
                # The study gives its dataset options that this one does not have.
                continue
            overrides = overrides_of(study, other, model)
            at = 1 if overrides and overrides[0].startswith("model=") else 0
            choices.append([*overrides[:at], named, *overrides[at:]])
    return min(choices, key=lambda overrides: len(" ".join(overrides)))


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare the config and the summary numbers of two runs.

    With means m, their 95 % intervals (l, u) and d = m_b - m_a, the 95 % interval of d is

        d - sqrt((m_b - l_b)^2 + (u_a - m_a)^2),   d + sqrt((u_b - m_b)^2 + (m_a - l_a)^2).

    For symmetric intervals this is d +- 1.96 sqrt(stderr_a^2 + stderr_b^2); for Wilson intervals it
    keeps its coverage near 0 and 1 (Newcombe 1998, method 10). Runs are taken as independent: for
    runs on the same prompts with positively correlated scores, the interval is too wide.
    """
    return Comparison(_config(a["config"], b["config"]), _summary(a["summary"], b["summary"]))


def _config(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    left, right = flatten(a), flatten(b)
    rows = [
        (key, left.get(key, pd.NA), right.get(key, pd.NA))
        for key in left | right
        if key not in left or key not in right or left[key] != right[key]
    ]
    return pd.DataFrame(rows, columns=["key", "a", "b"], dtype=object)


def _summary(a: Mapping[str, Any], b: Mapping[str, Any]) -> pd.DataFrame:
    left, right = _numbers(a), _numbers(b)
    rows = []
    for key in left | right:
        mean_a, low_a, high_a = left.get(key, ABSENT)
        mean_b, low_b, high_b = right.get(key, ABSENT)
        difference = mean_b - mean_a
        low = difference - sqrt((mean_b - low_b) ** 2 + (high_a - mean_a) ** 2)
        high = difference + sqrt((high_b - mean_b) ** 2 + (mean_a - low_a) ** 2)
        excludes = pd.NA if low != low or high != high else low > 0 or high < 0
        rows.append((key, mean_a, mean_b, difference, low, high, excludes))
    columns = ["key", "a", "b", "difference", "low", "high", "excludes_zero"]
    return pd.DataFrame(rows, columns=columns).astype({"excludes_zero": "boolean"})


def _numbers(summary: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Return (mean, low, high) by dotted key; low and high are NaN for a plain number."""
    estimates: dict[str, tuple[float, float, float]] = {}
    for key, value in summary.items():
        if isinstance(value, Mapping):
            if set(ESTIMATE) <= set(value):
                mean, low, high = (nan if value[n] is None else float(value[n]) for n in ESTIMATE)
                estimates[key] = (mean, low, high)
            else:
                estimates |= {f"{key}.{inner}": item for inner, item in _numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            estimates[key] = (float(value), nan, nan)
    return estimates


_PLAIN = re.compile(r"[A-Za-z_./][\w ./-]*", re.ASCII)
_OTHER_TYPES = ("null", "true", "false", "yes", "no", "on", "off", "nan", "inf")


def _written(value: Any) -> str:
    """Write a value as Hydra's override grammar has it; text in quotes where it must be."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str) and not (
        _PLAIN.fullmatch(value) and value.lower() not in _OTHER_TYPES and value == value.strip()
    ):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def _word(override: str) -> str:
    """Quote an override for the shell where it must be."""
    return shlex.quote(override)
