"""Rerun an arm of another study at the setting chosen on its validation prompts."""

import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd

from pipeline.config.contracts import call
from pipeline.config.study import config_file, load_study
from pipeline.data.completions import OUTPUTS
from pipeline.engine.conditions import Condition
from pipeline.measures.settings import Setting
from pipeline.model.loading import LanguageModel


def as_chosen(
    model: LanguageModel, prompts: pd.DataFrame, fits: Mapping[str, Any], *, study: str, arm: str
) -> Iterator[Condition]:
    """Yield the condition of another study's arm at its chosen setting, on these prompts.

    Uses the other study's fits. Axes are those of the arm.

    Args:
        model: the model of both studies.
        prompts: the prompts of this arm.
        fits: contains the other study's fits as `STUDY/NAME`.
        study: name of the other study, which has been run.
        arm: an arm of that study with a goal.

    Raises:
        ValueError: no such study or arm, no chosen setting, or a setting that these prompts do not
            have.
    """
    config = config_file(OUTPUTS / study)
    if not config.is_file():
        raise ValueError(f"study: {study!r} is neither composed nor run")
    other = load_study(config)
    sweep = other.sweep
    chosen = sweep.chosen() if sweep is not None else []
    if arm not in chosen:
        raise ValueError(f"arm: {arm!r} of {study}; valid: {', '.join(chosen) or 'none'}")
    assert sweep is not None
    node = sweep.node(arm)
    assert node is not None
    inputs = SimpleNamespace(
        model=model, prompts=prompts, fits=_FitsOf(fits, study, list(other.fits)), seed=sweep.seed
    )
    conditions = list(call(node, inputs))
    record = json.loads((OUTPUTS / study / "settings.json").read_text())[arm]
    axes = Setting(**record).axes
    for condition in conditions:
        if {"arm": arm, **condition.axes} == axes:
            yield condition
            return
    raise ValueError(f"arm {arm} of {study} has no condition with {axes}")


class _FitsOf(Mapping[str, Any]):
    """The fits of another study under the names used there."""

    def __init__(self, fits: Mapping[str, Any], study: str, names: list[str]) -> None:
        self._fits, self._study, self._names = fits, study, names

    def __getitem__(self, name: str) -> Any:
        return self._fits[f"{self._study}/{name}"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
