"""Show completions with and without an intervention side by side."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from pipeline.views.numbers import setting_in_words
from pipeline.views.selection import BASELINE, fitted_of, select, steered_of

KEYS = ["sample", "repeat"]
_MARKS = {"arm", "at_setting", "is_setting"}
"""Columns of conditions that are no axis to name."""


def completion_table(
    sweep: pd.DataFrame, baseline_id: str, steered_id: str, n: int
) -> pd.DataFrame:
    """Tabulate the first `n` (sample, repeat) pairs that both conditions completed, one per row.

    Columns: sample, repeat, label, topic, instruction, baseline, steered, baseline_stopped,
    steered_stopped ("end" or "length").

    Raises:
        ValueError: an unknown condition, no shared sample, or `n` below 1.
    """
    if n < 1:
        raise ValueError(f"n = {n}; valid: 1 or more")
    answers = ["completion", "stopped"]
    baseline = select(sweep, condition=baseline_id)
    steered = select(sweep, condition=steered_id)[KEYS + answers]
    both = baseline.merge(steered, on=KEYS, suffixes=("", "_steered"), validate="one_to_one")
    if both.empty:
        raise ValueError(f"{baseline_id} and {steered_id} share no sample; valid: one split, label")
    both = both.sort_values(KEYS).head(n).reset_index(drop=True)
    return pd.DataFrame(
        {
            **{key: both[key] for key in [*KEYS, "label", "topic", "instruction"]},
            "baseline": both["completion"],
            "steered": both["completion_steered"],
            "baseline_stopped": both["stopped"],
            "steered_stopped": both["stopped_steered"],
        }
    )


def side_by_side(sweep: pd.DataFrame, baseline_id: str, steered_id: str, n: int, width: int) -> str:
    """Format the first `n` completions of both conditions in two columns, `width` characters wide.

    "⏎" marks a line break of the completion, "␣" a blank before one or at the end, "…" a cut at
    the length limit.

    Raises:
        ValueError: as `completion_table`, or `width` is below 40.
    """
    if width < 40:
        raise ValueError(f"width = {width}; valid: 40 or more")
    column = (width - 3) // 2
    blocks = []
    for row in completion_table(sweep, baseline_id, steered_id, n).to_dict("records"):
        repeat = f", repeat {row['repeat']}" if (sweep["repeat"] > 0).any() else ""
        title = f"[{row['sample']}{repeat}] {row['instruction']}"
        left = ["baseline", "-" * column, *_lines(row["baseline"], row["baseline_stopped"], column)]
        right = ["steered", "-" * column, *_lines(row["steered"], row["steered_stopped"], column)]
        height = max(len(left), len(right))
        left += [""] * (height - len(left))
        right += [""] * (height - len(right))
        pairs = [f"{a:<{column}} | {b}".rstrip() for a, b in zip(left, right, strict=True)]
        blocks.append("\n".join([*textwrap.wrap(title, width), *pairs]))
    return f"{baseline_id} | {steered_id}\n\n" + "\n\n".join(blocks) + "\n"


def completions_of_arms(
    completions: pd.DataFrame,
    conditions: pd.DataFrame,
    arms: Iterable[str],
    metrics: Mapping[str, Any],
    *,
    n: int,
    width: int,
) -> Iterator[str]:
    """Yield for each arm its completions without and with an intervention, side by side.

    Of an arm without a chosen setting: under its first condition.

    Args:
        completions: of all arms, with `condition` and the columns of the prompts.
        conditions: `condition`, `role` and axes of every condition.
        arms: the study's.
        metrics: headline numbers by arm, with the chosen setting if there is one.
        n: completions of an arm.
        width: characters in a line.

    Raises:
        ValueError: as `side_by_side`.
    """
    for arm in arms:
        numbers = metrics.get(arm, {})
        if "conditions" in numbers:
            shown = side_by_side(completions, **numbers["conditions"], n=n, width=width)
            yield f"{arm}, {setting_in_words(numbers)}:\n{shown}"
            continue
        rows = conditions[conditions["arm"] == arm]
        edited = steered_of(rows)
        if edited.empty:
            yield f"{arm}: no condition but the baseline; completions.parquet has its completions"
            continue
        first = pd.concat([fitted_of(edited), edited]).iloc[0]
        axes = first.drop(["condition", "role", *_MARKS & {*first.index}]).dropna()
        baseline = rows.loc[rows["role"] == BASELINE, "condition"].iloc[0]
        shown = side_by_side(completions, baseline, first["condition"], n=n, width=width)
        yield (
            f"{arm}, no setting chosen; the first of {len(edited)} conditions, "
            f"{setting_in_words({'setting': axes})}:\n{shown}"
        )


def _lines(completion: str, stopped: str, width: int) -> list[str]:
    paragraphs = completion.split("\n")
    last = len(paragraphs) - 1
    shown = []
    for number, paragraph in enumerate(paragraphs):
        blanks = len(paragraph) - len(paragraph.rstrip(" "))
        mark = "⏎" if number < last else "…" if stopped == "length" else ""
        text = paragraph.rstrip(" ") + "␣" * blanks + mark
        shown += textwrap.wrap(text, width) or [""]
    return shown
