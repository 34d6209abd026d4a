"""Check that the rows and columns which a study's nodes name are there, before anything runs."""

from collections.abc import Sequence

import pandas as pd

from pipeline.config.contracts import imported, reads
from pipeline.config.declared import (
    InDataset,
    Named,
    NeedsInEach,
    NeedsText,
    Selected,
    ValueOf,
    ValueOnAxis,
    declared,
    needed,
)
from pipeline.config.errors import at_key
from pipeline.config.sections import Node, Study, Sweep
from pipeline.config.values import all_nodes
from pipeline.data.prompts import select_prompts
from pipeline.engine.sweeps import Part, applies_to_texts


def check_rows(study: Study, prompts: pd.DataFrame) -> None:
    """Fail if an option names a column, a value or prompts that the node's rows do not have.

    The rows of a node that reads the store, or draws a reading of it, are those collected, of one
    that reads completions those completed, of one with a `split` those of it.

    Raises:
        ValueError: names the option, the value and the valid ones.
    """
    for key, node in all_nodes(study):
        function = imported(node["_target_"])
        rows, split = prompts, node.get("split")
        drawn = study.readings.get(str(node.get("reading")))
        stored = [each for each in (node, drawn) if each is not None and "store" in reads(each)]
        if study.collect is not None and stored:
            rows = select_prompts(rows, study.collect.prompts, study.collect.splits)
        elif study.sweep is not None and "completions" in reads(node):
            rows = completed(study.sweep, rows)
        if isinstance(split, str):
            rows = rows[rows["split"] == split]
        for need in needed(function, NeedsInEach):
            lacking = rows["sample"][~rows[need.column].map(need.holds)]
            if len(lacking):
                raise ValueError(
                    f"{key}: sample {lacking.iloc[0]} has no {need.name}, which every prompt needs"
                )
        for name, limit, column in declared(function, node, InDataset):
            if column not in prompts:
                raise ValueError(
                    f"{key}.{name}: no column {column!r} in the dataset; it has: "
                    f"{', '.join(prompts)}"
                )
            values = rows[column].astype(str).nunique()
            if limit.most is not None and values > limit.most:
                raise ValueError(
                    f"{key}.{name}: {column} has {values} values; valid: up to {limit.most}"
                )
        for name, note, value in declared(function, node, ValueOf):
            with at_key(f"{key}.{name}"):
                select_prompts(rows, {note.column: value})
        for name, _, value in declared(function, node, Selected):
            with at_key(f"{key}.{name}"):
                select_prompts(rows, value)


def completed(sweep: Sweep, prompts: pd.DataFrame) -> pd.DataFrame:
    """Select the prompts that any arm completes."""
    samples: set[int] = set()
    for name in sweep.arms:
        arm = sweep.arm(name)
        with at_key(f"sweep.arms.{name}"):
            samples |= set(select_prompts(prompts, arm.prompts, arm.splits)["sample"])
    return prompts[prompts["sample"].isin(samples)]


def check_texts(study: Study, parts: Sequence[Part]) -> None:
    """Fail if a figure draws losses of texts, but none of its arms has a condition on them.

    Raises:
        ValueError: names the figure and the arms.
    """
    conditions = {part.name: part.conditions for part in parts}
    for name, node in study.figures.items():
        function = imported(node["_target_"])
        arms = [arm for _, note, arm in declared(function, node, Named) if note.kind == "arm"]
        if not any(needed(function, NeedsText)) or not set(arms) <= set(conditions):
            continue
        edited = [c for arm in arms for c in conditions[arm] if c.edits]
        if not any(map(applies_to_texts, edited)):
            raise ValueError(
                f"figures.{name}: no condition of {', '.join(arms)} applies to unrelated text; "
                "valid: an arm with positions that every text has, such as all"
            )


def check_axes(study: Study, prompts: pd.DataFrame, parts: Sequence[Part]) -> None:
    """Fail if a figure names an axis that no arm has, or a value that none of its arms has on it.

    Only where the conditions of all arms are known.

    Raises:
        ValueError: names the figure, the axis or value, and the valid ones.
    """
    if study.sweep is None or not set(study.sweep.arms) <= {part.name for part in parts}:
        return
    axes = dict.fromkeys(axis for part in parts for c in part.conditions for axis in c.axes)
    for name, node in study.figures.items():
        for option, note, axis in declared(imported(node["_target_"]), node, Named):
            if note.kind == "axis" and axis not in axes and axis not in prompts:
                raise ValueError(
                    f"figures.{name}.{option}: no axis {axis!r}; valid: {', '.join(axes)}, or a "
                    "column of the dataset"
                )
        _check_values(f"figures.{name}", node, parts)


def _check_values(key: str, node: Node, parts: Sequence[Part]) -> None:
    function = imported(node["_target_"])
    named = [arm for _, note, arm in declared(function, node, Named) if "arm" in note.kind]
    conditions = [c for part in parts if part.name in named for c in part.conditions]
    for option, note, value in declared(function, node, ValueOnAxis):
        present = {c.axes[note.axis]: None for c in conditions if note.axis in c.axes}
        if value not in present:
            raise ValueError(
                f"{key}.{option}: no condition of {', '.join(named)} has {note.axis} {value}; "
                f"valid: {', '.join(map(str, present))}"
            )
