"""Show completions with and without an intervention side by side."""

import textwrap

import pandas as pd

from pipeline.views.selection import select

KEYS = ["sample", "repeat"]


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
