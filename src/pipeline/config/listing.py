"""Check params.yaml, which lists for DVC the studies by kind of stage, against the studies."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.config.sections import Study
from pipeline.config.wiring import (
    COMPLETIONS,
    PROMPTS,
    SETTINGS,
    TEXTS,
    Stage,
    option_texts,
    ordered_fits,
    other_studies,
    stages_of,
    used_fits,
)

LISTS = ("studies", "collects", "fits", "choices", "sweeps", "readings", "figures")
"""The lists of params.yaml, one for each kind of stage."""


def params_of(study: Study) -> dict[str, dict[str, Any]]:
    """Return the study's entries in params.yaml: list -> key -> its stage's inputs besides prompts.

    An unused slot holds the prompts' file, which the stage reads anyway.
    """
    name = study.name
    lists: dict[str, dict[str, Any]] = {
        **{section: {} for section in LISTS},
        "studies": {name: {"reads": _source(study)}},
    }
    for stage in stages_of(study):
        if stage.name == "collect_activations":
            lists["collects"][name] = {}
        if stage.fit is not None:
            item = {"study": name, "fit": stage.fit, "after": _awaited(study, stage)}
            lists["fits"][f"{name}-{stage.fit}"] = item
        fits = "fits" if any(path.startswith("fits/") for path in stage.inputs) else PROMPTS
        if stage.name == "choose_settings":
            lists["choices"][name] = {"fits": fits}
        if stage.name == "sweep_layers":
            lists["sweeps"][name] = {"settings": _slot(stage, SETTINGS), "fits": fits}
        if stage.name == "read_activations":
            lists["readings"][name] = {
                "store": _slot(stage, "activations"),
                "fits": fits,
                "completions": _slot(stage, COMPLETIONS),
            }
        if stage.name == "plot_figures":
            lists["figures"][name] = {
                "readings": _slot(stage, "readings"),
                "scores": _slot(stage, "scores.parquet"),
                "summary": _slot(stage, "summary.parquet"),
                "numbers": _slot(stage, "headline.json"),
            }
    return lists


def check_params(study: Study, params: dict[str, Any]) -> None:
    """Fail if the stages in params.yaml differ from those of the study's sections.

    Raises:
        ValueError: names the line to add, change or remove.
    """
    for section, expected in params_of(study).items():
        listed = params.get(section) or {}
        study_items = {
            key: listed[key] or {}
            for key in listed
            if key == study.name or (listed[key] or {}).get("study") == study.name
        }
        for key, item in expected.items():
            if study_items.get(key) != item:
                line = yaml.safe_dump({key: item}, default_flow_style=True, sort_keys=False)
                verb = "change" if key in study_items else "add"
                raise ValueError(f"params.yaml: {verb} under {section}: {line.strip()[1:-1]}")
        for key in study_items:
            if key not in expected:
                raise ValueError(f"params.yaml: remove {key} under {section}: it has no such stage")


def read_params(path: Path) -> dict[str, Any]:
    """Read the lists of params.yaml.

    Raises:
        ValueError: no valid YAML, or a list that is no mapping from names to mappings.
    """
    try:
        params = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} is no valid YAML: {reason}") from error
    if not isinstance(params, dict):
        raise ValueError(f"{path.name} is no mapping of lists: `studies: {{refusal: ...}}`")
    for section in LISTS:
        listed = params.get(section) if section == "studies" else params.get(section) or {}
        if not isinstance(listed, dict):
            raise ValueError(
                f"{path.name}: `{section}` is no mapping of names: `{section}: {{refusal: ...}}`"
            )
        for name, item in listed.items():
            if not isinstance(item, dict | None):
                raise ValueError(
                    f"{path.name}: {section}.{name} is {item!r}; valid: a mapping, such as {{}}"
                )
    return params


def _awaited(study: Study, stage: Stage) -> str:
    """The input that a fit's stage waits for: another fit, which itself waits for its own inputs.

    Raises:
        ValueError: it uses two fits of which neither uses the other.
    """
    used = used_fits(study, stage.nodes[0])
    if not used:
        return stage.inputs[-1] if stage.inputs[-1] != TEXTS else PROMPTS
    last = max(used, key=ordered_fits(study).index)
    apart = [name for name in used if name != last and not _uses(study, last, name)]
    if apart:
        raise ValueError(
            f"fits.{stage.fit} uses {last} and {apart[0]}, neither of which uses the other; DVC "
            "can wait for one"
        )
    return f"fits/{last}"


def _uses(study: Study, fit: str, other: str) -> bool:
    used = used_fits(study, study.fits[fit])
    return other in used or any(_uses(study, name, other) for name in used)


def _source(study: Study) -> str:
    """Return the path that the dataset is read from; of another study, its completions or fits.

    Raises:
        ValueError: it reads the outputs of several studies.
    """
    others = other_studies(study)
    if len(others) > 1:
        raise ValueError(
            f"it reads the outputs of {' and '.join(others)}; DVC can wait for one: run it by "
            f"`actsweep run {study.name}`, or fit all but one in it"
        )
    if isinstance(study.dataset.get("study"), str):
        return f"outputs/{study.dataset['study']}/completions.parquet"
    if others:
        # For the order alone: what a stage computes depends on the other's config and code.
        return f"outputs/{others[0]}/fits"
    paths = [
        v for option in study.dataset.values() for v in option_texts(option) if Path(v).exists()
    ]
    return paths[0] if paths else f"conf/study/{study.name}.yaml"


def _slot(stage: Stage, path: str) -> str:
    return path if path in stage.inputs else PROMPTS
