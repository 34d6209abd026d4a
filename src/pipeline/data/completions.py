"""Use the recorded completions of another study as a dataset."""

from pathlib import Path

import pandas as pd

from pipeline.data.datasets import checked
from pipeline.data.roles import BASELINE

OUTPUTS = Path("outputs")
"""Output folder of all studies, in the project folder."""
_ADDED = ("sample", "prompt", "tokens")


def recorded_completions(*, study: str, arm: str) -> pd.DataFrame:
    """Load the prompts of another study with their baseline completions.

    Adds to the columns of the other study's dataset: `draw`, 0 if it has none; `completion`;
    `completion_tokens`; `stopped` (`end` or `length`); `complete`: the model ended the completion
    itself and it has a non-blank line, a list item. Sample numbers are those of the other study, so
    that sampling uses the same noise.

    Args:
        study: name of the other study.
        arm: an arm whose baseline completed every prompt of that study once.

    Raises:
        ValueError: no such outputs or arm, or an arm that did not complete every prompt once.
    """
    folder = OUTPUTS / study
    if not (folder / "completions.parquet").is_file():
        raise ValueError(f"study {study!r} has no completions in {OUTPUTS}; run it first")
    prompts, conditions, completions = (
        pd.read_parquet(folder / f"{name}.parquet")
        for name in ("dataset", "conditions", "completions")
    )
    of_arm = conditions[(conditions["arm"] == arm) & (conditions["role"] == BASELINE)]
    if of_arm.empty:
        valid = ", ".join(conditions["arm"].unique())
        raise ValueError(f"study {study!r} has no arm {arm!r}; valid: {valid}")
    rows = completions[completions["condition"].isin(of_arm["condition"])].sort_values("sample")
    if rows["sample"].tolist() != prompts["sample"].tolist():
        raise ValueError(
            f"arm {arm!r} of study {study!r} did not complete every prompt once: "
            f"{len(rows)} completions of {len(prompts)} prompts"
        )
    return _with_completions(
        prompts.drop(columns=list(_ADDED)),
        *(rows[name] for name in ("completion", "tokens", "stopped")),
    )


def not_completed(prompts: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of `recorded_completions` with empty completions.

    `complete` is true, so that arms on complete prompts can be checked before completions exist.
    """
    empty = pd.Series([""] * len(prompts))
    tokens = pd.Series([[] for _ in range(len(prompts))])
    return _with_completions(prompts, empty, tokens, empty.replace("", "end")).assign(complete=True)


def _with_completions(
    prompts: pd.DataFrame, texts: pd.Series, tokens: pd.Series, stopped: pd.Series
) -> pd.DataFrame:
    frame = prompts.assign(
        draw=prompts.get("draw", 0),
        completion=texts.to_numpy(),
        completion_tokens=tokens.to_list(),
        stopped=stopped.to_numpy(),
    )
    ended = (frame["stopped"] == "end") & (frame["completion"].str.strip() != "")
    return checked(frame.assign(complete=ended), "completions")
