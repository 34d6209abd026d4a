"""Which conditions of an arm run on validation prompts, on test prompts and on unrelated text."""

from collections.abc import Sequence

from pipeline.data.roles import BASELINE, CONTROL
from pipeline.engine.conditions import Condition
from pipeline.measures.settings import FREE, Setting


def validated(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Return the conditions to run on validation prompts: all but controls."""
    return tuple(condition for condition in conditions if condition.role != CONTROL)


def reported(conditions: Sequence[Condition], setting: Setting) -> tuple[Condition, ...]:
    """Return the conditions to run on test prompts, given the setting chosen on validation.

    These are the baseline, the conditions that differ from the setting in at most one axis, and the
    controls that differ in none; differences in the axes `FREE` do not count.
    """

    def is_reported(condition: Condition) -> bool:
        most = 0 if condition.role == CONTROL else 1
        return condition.role == BASELINE or len(setting.differing(condition.axes)) <= most

    return tuple(condition for condition in conditions if is_reported(condition))


def compared(conditions: Sequence[Condition], setting: Setting | None) -> tuple[Condition, ...]:
    """Return the baseline, and the conditions that the setting `holds`: layers and controls."""
    return tuple(
        condition
        for condition in conditions
        if condition.role == BASELINE or (setting is not None and setting.holds(condition.axes))
    )


def on_texts(conditions: Sequence[Condition], setting: Setting | None) -> tuple[Condition, ...]:
    """Return the conditions whose loss on unrelated text is measured, beside their benefit.

    These are the conditions `compared`, and those at the setting's layer, source and draw that
    differ from it in one other axis, such as the strength. Without a setting: all conditions.
    """
    if setting is None:
        return tuple(conditions)
    shown = {condition.id for condition in compared(conditions, setting)}

    def is_measured(condition: Condition) -> bool:
        same = all(condition.axes.get(name) == setting.axes.get(name) for name in FREE)
        return condition.id in shown or (same and len(setting.differing(condition.axes)) == 1)

    return tuple(condition for condition in conditions if is_measured(condition))
