"""Plan a study before it runs: build its conditions with placeholders for its fits."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.config.contracts import reads, returns
from pipeline.config.errors import at_key
from pipeline.config.sections import Study
from pipeline.config.wiring import ordered_fits
from pipeline.data.roles import CANDIDATE
from pipeline.engine.arms import ArmInputs, NothingToRun, arm_part
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.phases import reported, validated
from pipeline.engine.sweeps import Part, is_scored_after_prompt
from pipeline.measures.settings import Setting
from pipeline.model.loading import LanguageModel, NeedsRun


@dataclass(frozen=True, eq=False)
class Planned:
    """The plan of a study, computed before it runs.

    Attributes:
        prompts: the dataset with tokens.
        collected: number of activations to store per site.
        model: the model without weights.
        parts: conditions and prompts of every arm, on the val split and as reported, except of arms
            that compute with the model's weights.
    """

    prompts: pd.DataFrame
    collected: int
    model: LanguageModel
    parts: tuple[Part, ...]


def stand_ins(study: Study, model: LanguageModel, prompts: pd.DataFrame) -> dict[str, Any]:
    """Build placeholder fits of the right shapes for fits that are not computed yet.

    A fit class supports this if it has a `stand_in`. That receives those of the fit's options that
    it has parameters for, and the stand-ins of the fits that this one uses.

    Raises:
        ValueError: options that the class rejects.
    """
    fits = _StandIns(study.fits)
    for name in ordered_fits(study):
        node = study.fits[name]
        stand_in = getattr(returns(node), "stand_in", None)
        if stand_in is None:
            continue
        parameters = inspect.signature(stand_in).parameters
        options = {"fits": fits} | {
            option: value for option, value in node.items() if option != "_target_"
        }
        with at_key(f"fits.{name}"):
            fits[name] = stand_in(
                model,
                prompts,
                **{key: value for key, value in options.items() if key in parameters},
            )
    return fits


class _StandIns(dict[str, Any]):
    """Stand-ins by name; distinguishes a fit without a stand-in from an unknown fit."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, name: str) -> Any:
        if name in self._names or "/" in name:
            raise NeedsRun(f"fit {name} has no stand-in")
        raise ValueError(f"no fit {name!r}; valid: {', '.join(self._names) or 'none'}")


def planned_parts(
    study: Study, model: LanguageModel, prompts: pd.DataFrame, fits: Mapping[str, Any]
) -> Iterator[Part]:
    """Yield the checked conditions and prompts of every arm, on the val split and as reported.

    Skips arms that compute with the model's weights or use a fit without a stand-in.

    Raises:
        ValueError: no such prompts, or a condition that the arm's node or the model rejects.
    """
    if study.sweep is None:
        return
    inputs = ArmInputs(model, prompts, fits, study.sweep.seed)
    for name in study.sweep.arms:
        arm = study.sweep.arm(name)
        splits = [("", arm.splits), *([("-validation", ["val"])] if arm.goal else [])]
        for suffix, arm_splits in splits:
            try:
                part = arm_part(study.sweep, name, arm_splits, name + suffix, inputs)
            except NeedsRun:
                continue
            except NothingToRun:
                # A stand-in may have less to draw from than the fit will have.
                if "fits" in reads(study.sweep.arms[name]):
                    continue
                raise
            conditions = part.conditions
            with at_key(f"sweep.arms.{name}"):
                _check_conditions(model, conditions, arm.metric in study.sweep.logit_metrics)
                _check_axes(conditions, prompts)
                if arm.goal:
                    grid = conditions
                    conditions = validated(grid) if suffix else reported(grid, any_setting(grid))
            yield Part(part.name, conditions, part.prompts)


def any_setting(conditions: Sequence[Condition]) -> Setting:
    """Take the first candidate as the setting: how many conditions run does not depend on it.

    Raises:
        ValueError: no candidate.
    """
    for condition in conditions:
        if condition.role == CANDIDATE:
            return Setting(condition.axes, condition.id, "validation")
    raise ValueError("goal: no condition is a candidate, to be chosen; valid: one or more, or null")


def _check_conditions(
    model: LanguageModel, conditions: tuple[Condition, ...], of_logits: bool
) -> None:
    for site in {edit.site for condition in conditions for edit in condition.edits}:
        model.check(site)
    for condition in conditions:
        if of_logits and not is_scored_after_prompt(condition):
            rule = _rule(condition.edits[0])
            raise ValueError(
                f"positions: {rule!r} names no token of a prompt, after which the arm's metric is "
                "measured"
            )


def _check_axes(conditions: tuple[Condition, ...], prompts: pd.DataFrame) -> None:
    """Fail if an axis would stand for a column of the dataset in tables of scores."""
    # That of a dataset numbers the draws of a prompt, that of an axis the draws of a control.
    axes = {axis for condition in conditions for axis in condition.axes} - {"draw"}
    for axis in sorted(axes & set(prompts.columns)):
        raise ValueError(
            f"the dataset has a column {axis!r}, the name of one of the arm's axes, which would "
            "replace it in tables; rename the column"
        )


def _rule(edit: Edit) -> str:
    return str(getattr(edit.positions, "rule", edit.positions))
